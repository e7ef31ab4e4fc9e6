"""Taken: the selections of an experiment as arrays, side by side for every target and budget."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from curate.core import Artifact, Floats, Integers, Strings
from curate.data.examples import opened
from curate.pipelines.describe_likeness import Likeness, pool_scores
from curate.pipelines.experiment import Aim, Experiment
from curate.pipelines.select import Given, read_selection, recorded
from curate.randomness import uniform
from curate.store import Store

POINTS = 2000  # rows of the pool that stand for all of it


@dataclass(frozen=True)
class Taken:
    """One selection: rows of the pool best first, what each added (NaN where the method says nothing of it), and the manifest."""

    arm: str
    budget: str
    seed: int | None
    key: str
    rows: Integers  # (K,)
    gains: Floats  # (K,)
    weights: Floats  # (K,)
    manifest: Mapping[str, Any]
    matched_to: str = ""  # the arm that a control copies

    @classmethod
    def of(cls, artifact: Artifact, arm: str, budget: str, seed: int | None, matched_to: str = "") -> "Taken":
        columns = read_selection(artifact)
        rows, gains, weights = (np.asarray(columns[name]) for name in ("row", "gain", "weight"))
        return cls(arm, budget, seed, artifact.key, rows.astype(np.int64), gains.astype(np.float64), weights.astype(np.float64), artifact.manifest, matched_to)

    @property
    def random(self) -> bool:
        """Whether chance alone chose the rows."""
        return bool(self.matched_to) or self.manifest["fields"].get("selector", {}).get("name") == "random"


@dataclass(frozen=True)
class Panel:
    """What was taken for one target at one budget: the selections of every arm by seed; those that heed no target stand in every panel."""

    aim: Aim
    budget: str
    arms: Mapping[str, list[Taken]]

    @property
    def where(self) -> dict[str, Any]:
        """The fields that say of which target and budget a figure is."""
        return {"target": self.aim.name or None, "budget": self.budget}

    def different(self, arm: str) -> list[Taken]:
        """The arm's selections, each once: seeds of a method that draws nothing share one."""
        return list({taken.key: taken for taken in reversed(self.arms[arm])}.values())[::-1]

    @property
    def first(self) -> dict[str, Taken]:
        """Every arm's selection of the first seed, controls left out: they are as random as random."""
        return {arm: taken[0] for arm, taken in self.arms.items() if not taken[0].matched_to}


def panels_of(experiment: Experiment) -> list[Panel]:
    """The panels, in the order of targets and budgets."""
    read: dict[str, Taken] = {}
    for one in experiment.chosen:
        if one.artifact.key not in read:
            read[one.artifact.key] = Taken.of(one.artifact, one.arm, str(one.budget), one.seed, one.matched_to)
    found = []
    for aim in experiment.aims:
        for budget in dict.fromkeys(str(one.budget) for one in experiment.chosen):
            arms: dict[str, list[Taken]] = {one.arm: [] for one in experiment.chosen}
            for one in experiment.chosen:
                if str(one.budget) == budget and one.target in ("", aim.name):
                    arms[one.arm].append(replace(read[one.artifact.key], seed=one.seed))
            found.append(Panel(aim, budget, {arm: taken for arm, taken in arms.items() if taken}))
    return found


class Numbers:
    """The features behind selections, each opened once."""

    def __init__(self, pool: Artifact, store: Store) -> None:
        self.pool, self._store = pool, store
        self.examples = opened(pool.path)
        self._likeness: dict[tuple[str, ...], Likeness | None] = {}
        self._scores: dict[str, Floats] = {}

    def given(self, taken: Taken, aim: Aim | None = None) -> Given | None:
        """What the selection was made from, with the target of `aim` where it heeds none; None for a control, which reads lengths or groups only."""
        record = taken.manifest["summary"].get("given")
        given = recorded(self._store, record) if record else None
        if given is None or aim is None or given.target.key == aim.target.key:
            return given
        pool = given.vectors[0].key if given.vectors else ""
        same = (scored.vectors for scored in aim.features.values() if scored.vectors and scored.vectors[0].key == pool)
        return replace(given, target=aim.target, vectors=next(same, None), similarity=None)

    def likeness(self, given: Given | None) -> Likeness | None:
        """The comparison that was open to a selection."""
        if given is None or not (given.vectors or given.similarity):
            return None
        compared = replace(given, scores=None)
        key = (*compared.keys(), compared.metric)
        if key not in self._likeness:
            self._likeness[key] = Likeness.of(compared)
        return self._likeness[key]

    def scores(self, artifact: Artifact | None) -> Floats | None:
        """(N,) the scores that a selection read, NaN where a row has none."""
        if artifact is None:
            return None
        if artifact.key not in self._scores:
            self._scores[artifact.key] = pool_scores(self.pool, artifact)
        return self._scores[artifact.key]

    def common(self, aim: Aim) -> tuple[str, Likeness | None]:
        """The first feature of the recipe by which all arms can be compared, by cosine: one with vectors, or else one with similarities."""
        held = [(name, Given(self.pool, aim.target, vectors=scored.vectors)) for name, scored in aim.features.items() if scored.vectors]
        held += [(name, Given(self.pool, aim.target, similarity=scored.similarity)) for name, scored in aim.features.items() if scored.similarity]
        return (held[0][0], self.likeness(held[0][1])) if held else ("", None)

    def difficulty(self, aim: Aim) -> tuple[str, Floats | None]:
        """The first feature of one number, and that number for every row of the pool."""
        return next(((name, self.scores(scored.scores)) for name, scored in aim.features.items() if scored.scores), ("", None))

    @cached_property
    def drawn(self) -> Integers:
        """(at most 2,000,) rows that stand for the pool: those whose ids draw the lowest numbers, lowest first."""
        return sample(self.examples.ids, np.arange(len(self.examples)), POINTS)


def sample(ids: Strings, rows: Integers, count: int) -> Integers:
    """At most so many of these rows: all, in their order, or those whose ids draw the lowest numbers, lowest first."""
    if len(rows) <= count:
        return rows
    return rows[np.argsort(uniform(0, "describe", ids[rows]), kind="stable")[:count]]
