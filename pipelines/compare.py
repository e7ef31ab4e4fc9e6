"""Compare: every arm against random on the same items, over seeds, with what many comparisons at once allow to be said."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.pipelines.cells import Outcome
from curate.pipelines.evaluate import AnyExamination, item_scores
from curate.pipelines.experiment import Experiment
from curate.pipelines.likelihood_of_target import TargetLikelihood
from curate.power import detectable, needed
from curate.recipe import Recipe
from curate.report.results import Comparison, Disagreement
from curate.report.tables import REFERENCES
from curate.statistics import (
    Interval,
    disagreement,
    holm,
    is_right_or_wrong,
    mcnemar,
    paired_difference,
    pairs_seeds,
    standard_error,
    verdict,
)

BASELINE = "random"


@dataclass(frozen=True)
class Scores:
    """One arm's models on one task: seeds, and (S, n) scores in the order of the items' ids."""

    seeds: list[int | None]
    table: NDArray[np.float64]


@dataclass(frozen=True)
class Pair:
    """One arm against its baseline, before anything is said of it."""

    place: Mapping[str, Any]  # task, metric, budget, arm and target of the comparison
    higher: bool
    ours: Scores
    baseline: Scores | None
    name: str = BASELINE
    interval: Interval | None = None
    adjusted: float | None = None
    family: int = 0


@dataclass(frozen=True)
class Compared:
    """All comparisons of a run: against random, against matched controls, and where likelihood and metric disagree."""

    comparisons: list[Comparison] = field(default_factory=list)
    controlled: list[Comparison] = field(default_factory=list)
    disagreements: list[Disagreement] = field(default_factory=list)


def compare(recipe: Recipe, experiment: Experiment) -> Compared:
    """Every arm against random, and against its controls; p-values are corrected over all arms, budgets and targets of a task."""
    if not any(outcome.evaluations for outcome in experiment.outcomes):
        return Compared()
    against: list[Pair] = []
    controlled: list[Pair] = []
    for examination in experiment.examinations:
        tables = _tables(experiment.outcomes, examination)
        against += _corrected([_with_interval(pair) for pair in _against_random(recipe, experiment, examination, tables)])
        controlled += _corrected([_with_interval(pair) for pair in _against_controls(recipe, examination, tables)])
    return Compared([_said(pair) for pair in against], [_said(pair) for pair in controlled], _disagreements(against, experiment.examinations))


Tables = Mapping[tuple[str, str, str], Scores]  # by arm, target and budget


def _tables(outcomes: Sequence[Outcome], examination: AnyExamination) -> Tables:
    """Scores of every arm that has a model, items in one order."""
    found: dict[tuple[str, str, str], list[tuple[int | None, list[float]]]] = {}
    for outcome in outcomes:
        if examination.label in outcome.evaluations:
            by_id = item_scores(outcome.evaluations[examination.label])
            found.setdefault((outcome.arm, outcome.target, outcome.budget), []).append((outcome.seed, [by_id[item] for item in sorted(by_id)]))
    return {place: Scores([seed for seed, _ in rows], np.array([scores for _, scores in rows])) for place, rows in found.items()}


def _against_random(recipe: Recipe, experiment: Experiment, examination: AnyExamination, tables: Tables) -> Iterator[Pair]:
    for budget in map(str, recipe.budgets):
        baseline = tables.get((BASELINE, "", budget))
        for arm, target, at in tables:
            if at in ("", budget) and not arm.startswith(tuple(recipe.controls)):
                place = _place(examination, budget, arm, target or examination.target)
                yield Pair(place, examination.higher_is_better, tables[arm, target, at], None if arm == BASELINE else baseline)


def _against_controls(recipe: Recipe, examination: AnyExamination, tables: Tables) -> Iterator[Pair]:
    """An arm beside the random rows that have its lengths or its sources."""
    for control in recipe.controls:
        for arm, target, budget in tables:
            name = f"{control}:{arm}"
            if (name, target, budget) in tables:
                place = _place(examination, budget, arm, target or examination.target)
                yield Pair(place, examination.higher_is_better, tables[arm, target, budget], tables[name, target, budget], name)


def _place(examination: AnyExamination, budget: str, arm: str, target: str | None) -> dict[str, Any]:
    return {"task": examination.label, "metric": examination.metric, "budget": budget, "arm": arm, "target": target or None}


def _with_interval(pair: Pair) -> Pair:
    if pair.baseline is None or pair.ours.table.shape[1] < 2:
        return pair
    together = _paired(pair.ours, pair.baseline)
    return replace(pair, interval=paired_difference(pair.ours.table, pair.baseline.table, paired_seeds=together))


def _paired(ours: Scores, theirs: Scores) -> bool:
    if None in ours.seeds or None in theirs.seeds:
        return False
    return pairs_seeds([int(seed or 0) for seed in ours.seeds], [int(seed or 0) for seed in theirs.seeds])


def _corrected(pairs: list[Pair]) -> list[Pair]:
    """p-values corrected over the arms; the references are no claims of ours, and stand alone."""
    family = [number for number, pair in enumerate(pairs) if pair.interval and pair.place["arm"] not in REFERENCES]
    adjusted = holm([pair.interval.p for number in family if (pair := pairs[number]).interval])
    found = list(pairs)
    for number, p in zip(family, adjusted, strict=True):
        found[number] = replace(pairs[number], adjusted=float(p), family=len(family))
    return found


def _said(pair: Pair) -> Comparison:
    """The comparison as a report shows it."""
    table, interval, metric = pair.ours.table, pair.interval, str(pair.place["metric"])
    said: dict[str, Any] = {}
    if interval and pair.baseline:
        words = verdict(interval, pair.higher, metric, pair.name, adjusted=pair.adjusted, comparisons=max(1, pair.family))
        said = {"difference": interval.difference, "low": interval.low, "high": interval.high, "p": interval.p, "verdict": words, "baseline": pair.name}
        said |= {"adjusted": pair.adjusted, "comparisons": pair.family} | _counts(pair) | _power(pair)
    return Comparison(**pair.place, mean=float(table.mean()), standard_error=standard_error(table), seeds=len(table), n=table.shape[1], **said)


def _counts(pair: Pair) -> dict[str, Any]:
    """McNemar's counts and test, where answers are right or wrong and both sides ran the same seeds."""
    if pair.baseline is None or pair.ours.seeds != pair.baseline.seeds:
        return {}
    ours, theirs = pair.ours.table, pair.baseline.table
    if not (is_right_or_wrong(ours) and is_right_or_wrong(theirs)):
        return {}
    found = mcnemar(ours, theirs)
    return {"only_ours": found.only_ours, "only_theirs": found.only_theirs, "mcnemar": found.p}


def _power(pair: Pair) -> dict[str, Any]:
    """What it would have taken to be sure, and what this experiment could have seen."""
    if pair.baseline is None or pair.place["arm"] in REFERENCES:
        return {}
    ours, theirs, together = pair.ours.table, pair.baseline.table, _paired(pair.ours, pair.baseline)
    found = needed(ours, theirs, paired_seeds=together)
    return {"needed_items": found.items, "needed_seeds": found.seeds, "detectable": detectable(ours, theirs, paired_seeds=together)}


def _disagreements(pairs: Sequence[Pair], examinations: Sequence[AnyExamination]) -> list[Disagreement]:
    """Arms for which the likelihood of the target rows and a task's metric do not say the same."""
    likelihoods = {one.label for one in examinations if isinstance(one, TargetLikelihood)}
    by_place = {(str(pair.place["arm"]), pair.place["target"], str(pair.place["budget"])): pair for pair in pairs if pair.place["task"] in likelihoods}
    found = []
    for pair in pairs:
        arm, target, budget = str(pair.place["arm"]), pair.place["target"], str(pair.place["budget"])
        likelihood = by_place.get((arm, target, budget))
        if pair.place["task"] in likelihoods or likelihood is None or pair.interval is None or likelihood.interval is None:
            continue
        if sentence := disagreement(pair.interval, pair.higher, likelihood.interval, likelihood.higher):
            found.append(Disagreement(target=target, budget=budget, arm=arm, task=str(pair.place["task"]), sentence=sentence))
    return found
