"""Summarise: what a run found, as the one document that every report is rendered from."""

import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from curate import __version__
from curate.core import Artifact, Strings
from curate.data.examples import quarantined as set_aside
from curate.features import quarantined
from curate.fidelity import OVERLAP, SPEARMAN
from curate.pipelines.cells import Outcome
from curate.pipelines.evaluate import item_scores
from curate.pipelines.examine_file import FileExamination
from curate.pipelines.experiment import Experiment
from curate.pipelines.features import Scored
from curate.pipelines.session import Session
from curate.recipe import Recipe
from curate.report.results import Cell, CertificateRow, Comparison, DataSummary, FeatureRow, QuarantinedRow, Results, SelectionRow, Stage, TaskScore
from curate.statistics import paired_difference, standard_error, verdict
from curate.store import seconds_to_build

FIDELITY = ("spearman", "overlap", "overlap_per_target", "pearson_by_law", "width_by_law", "rows", "targets")


def summarise(recipe: Recipe, session: Session, experiment: Experiment, *, seconds: float, command: str) -> Results:
    """The results of a run; comparisons are over the same items, each arm against random."""
    return Results(
        name=recipe.name,
        version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 1),
        command=command,
        hardware=hardware(session.device),
        recipe=recipe_text(recipe),
        pool=_data(experiment.pool),
        targets={", ".join(recipe.target): _data(experiment.target)},
        features=[_feature(session, name, scored, artifact) for name, scored in experiment.features.items() for artifact in scored.artifacts()],
        selections=[_selection(chosen.arm, str(chosen.budget), chosen.seed, chosen.artifact) for chosen in experiment.chosen],
        cells=[_cell(experiment, outcome) for outcome in experiment.outcomes],
        comparisons=_comparisons(recipe, experiment),
        stages=[Stage(**stage) for stage in session.stages],
        warnings=_warnings(recipe, experiment),
        quarantined=_quarantined(experiment),
    )


def recipe_text(recipe: Recipe) -> str:
    """The resolved recipe as YAML: every default written out."""
    import yaml

    return str(yaml.safe_dump(recipe.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True))


def hardware(device: str) -> dict[str, str]:
    """The machine, as far as a reader of figures needs it."""
    import torch

    gpu = {"gpu": torch.cuda.get_device_name()} if device.startswith("cuda") else {}
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "memory": f"{memory:.0f} GiB",
        **gpu,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _data(artifact: Artifact) -> DataSummary:
    summary = artifact.manifest["summary"]
    return DataSummary(**{name: summary[name] for name in DataSummary.model_fields if name in summary})


def _feature(session: Session, name: str, scored: Scored, artifact: Artifact) -> FeatureRow:
    summary = artifact.manifest["summary"]
    cached = any(stage["key"] == artifact.key and stage["cached"] for stage in session.stages)
    compared = scored.similarity is not None and artifact is scored.similarity[0]
    exact = compared and scored.scorer.output == "vectors"
    return FeatureRow(
        name=name,
        scorer=scored.scorer.name,
        output="similarity, exact" if exact else "similarity" if compared else scored.scorer.output,
        width=summary["width"],
        rows=summary["rows"],
        seconds=seconds_to_build(artifact),
        cached=cached,
        stored=summary["stored"],
        bytes=summary["bytes"],
        storage_error=summary["storage_error"],
        fidelity={} if exact else {key: float(scored.pilot[key]) for key in FIDELITY if key in scored.pilot},
    )


def _selection(arm: str, budget: str, seed: int, artifact: Artifact) -> SelectionRow:
    summary = artifact.manifest["summary"]
    certificate = CertificateRow(**summary["certificate"]) if summary["certificate"] else None
    shown = {name: summary[name] for name in ("rows", "tokens", "supervised_tokens", "groups")}
    return SelectionRow(arm=arm, budget=budget, seed=seed, certificate=certificate, key=artifact.key, seconds=seconds_to_build(artifact), **shown)


def _cell(experiment: Experiment, outcome: Outcome) -> Cell:
    trained = outcome.checkpoint.manifest["summary"] if outcome.checkpoint else {"tokens": 0, "steps": 0}
    tasks = [
        TaskScore(
            task=examination.label, **{name: artifact.manifest["summary"][name] for name in ("metric", "mean", "standard_error", "n", "higher_is_better")}
        )
        for examination, artifact in zip(experiment.examinations, outcome.evaluations, strict=True)
    ]
    seconds = sum(seconds_to_build(artifact) for artifact in (outcome.checkpoint, *outcome.evaluations) if artifact)
    return Cell(
        arm=outcome.arm,
        budget=outcome.budget,
        seed=outcome.seed,
        tasks=tasks,
        train_tokens=trained["tokens"],
        steps=trained["steps"],
        seconds=round(seconds, 3),
        key=outcome.checkpoint.key if outcome.checkpoint else "",
    )


def _comparisons(recipe: Recipe, experiment: Experiment) -> list[Comparison]:
    compared = []
    if not experiment.outcomes:
        return []
    for number, examination in enumerate(experiment.examinations):
        for budget in map(str, recipe.budgets):
            tables = _tables(experiment.outcomes, number, budget)
            kind = (examination.metric, examination.higher_is_better)
            compared += [_compare(examination.label, kind, budget, arm, table, tables.get("random")) for arm, table in tables.items()]
    return compared


def _tables(outcomes: Sequence[Outcome], number: int, budget: str) -> Mapping[str, np.ndarray[Any, Any]]:
    """(seeds, items) scores of every arm at this budget, items in one order."""
    scores: dict[str, list[list[float]]] = {}
    for outcome in outcomes:
        if outcome.budget in ("", budget):
            by_id = item_scores(outcome.evaluations[number])
            scores.setdefault(outcome.arm, []).append([by_id[item] for item in sorted(by_id)])
    return {arm: np.array(rows) for arm, rows in scores.items()}


def _compare(task: str, kind: tuple[str, bool], budget: str, arm: str, table: Any, baseline: Any) -> Comparison:
    metric, higher = kind
    error = standard_error(table)
    interval = paired_difference(table, baseline) if baseline is not None and arm != "random" and table.shape[1] > 1 else None
    return Comparison(
        task=task,
        metric=metric,
        budget=budget,
        arm=arm,
        mean=float(table.mean()),
        standard_error=error,
        seeds=len(table),
        n=table.shape[1],
        difference=interval.difference if interval else None,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        verdict=verdict(interval, higher, metric) if interval else "",
    )


def _shared(few: Strings, many: Strings) -> int:
    """How many of `few` are among `many`, which are sorted; without a set of a million strings."""
    place = np.searchsorted(many, few).clip(max=max(0, len(many) - 1))
    return int((many[place] == few).sum()) if len(many) else 0


def _unfaithful(name: str, pilot: Mapping[str, Any]) -> list[str]:
    """What to say of a sketch that ranks otherwise than the exact similarities."""
    if not pilot or pilot["faithful"]:
        return []
    return [
        f"feature {name}: at width {pilot['width']} the sketch ranks the pilot's {pilot['rows']} rows at Spearman {pilot['spearman']:.2f} to the exact "
        f"similarities, and {pilot['overlap']:.0%} of the top 5% agree (wanted: {SPEARMAN} and {OVERLAP:.0%}); width {pilot['width_that_would']} "
        "would do. Arms that only compare with the target can read exact similarities instead"
    ]


def _quarantined(experiment: Experiment) -> list[QuarantinedRow]:
    parts = (("pool", experiment.pool), ("target", experiment.target))
    unread = [QuarantinedRow(part=part, **row) for part, artifact in parts for row in set_aside(artifact.path)]
    for name, scored in experiment.features.items():
        unread += [QuarantinedRow(part=name, id=row, reason=reason) for artifact in scored.artifacts() for row, reason in quarantined(artifact)]
        unread += [QuarantinedRow(part=f"{name} (target)", id=row, reason=reason) for row, reason in _target_aside(scored)]
    return unread


def _target_aside(scored: Scored) -> list[tuple[str, str]]:
    """(id, reason) of the target rows that the feature has no number for."""
    return scored.aside + (quarantined(scored.vectors[1]) if scored.vectors else [])


def _unshared(experiment: Experiment) -> list[str]:
    """Why evaluations ran without sharing prefixes, each reason once."""
    reasons = {artifact.manifest["summary"]["unshared"] for outcome in experiment.outcomes for artifact in outcome.evaluations}
    return [f"evaluation without shared prefixes, one request at a time: {reason}" for reason in sorted(reasons) if reason]


def _warnings(recipe: Recipe, experiment: Experiment) -> list[str]:
    from curate.data.examples import opened

    warnings = []
    pool, target = opened(experiment.pool.path).ids, opened(experiment.target.path).ids
    for examination in experiment.examinations:
        if isinstance(examination, FileExamination):
            warnings.append(f"items of {examination.label} come from a task file and were compared with neither the pool nor the target")
            continue
        everything = opened(examination.items).ids
        items = everything[list(examination.rows)]
        if shared := _shared(items, pool):
            warnings.append(f"{shared} of {len(items)} items of {examination.label} are also in the pool, word for word: scores on them measure memory")
        if left := _shared(target, everything):
            warnings.append(f"{left} rows of {examination.label}'s data are target rows and were left out of the evaluation")
    warnings += _unshared(experiment)
    for name, scored in experiment.features.items():
        warnings += [*scored.notes, *_unfaithful(name, scored.pilot)]
        for artifact in scored.artifacts():
            if aside := quarantined(artifact):
                warnings.append(f"feature {name}: {len(aside)} rows had no usable number and were set aside")
        if aside := _target_aside(scored):
            warnings.append(f"feature {name}: {len(aside)} target rows had no usable number and were not compared with")
    if len(recipe.seeds) == 1:
        warnings.append("one seed: intervals cover the choice of items only, not the luck of training")
    if "random" not in recipe.baselines:
        warnings.append("no random baseline: nothing says whether selection helped")
    return warnings
