"""Features: which numbers the arms need of which scorer, and the cheapest way to have them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from curate.core import Artifact, Integers
from curate.data.examples import opened
from curate.errors import ConfigError, NumericError
from curate.exact_similarity import ExactSimilarity
from curate.gradient_scorer import GradientScorer
from curate.interfaces import Scorer
from curate.pipelines.pilot import pilot
from curate.pipelines.score import Job, jobs_of, score
from curate.pipelines.session import Session
from curate.pipelines.state import Inputs, load_state
from curate.recipe import Recipe

EXACT_BYTES = 2**31  # the most memory that the target's directions may take for exact similarities to be the default


@dataclass
class Scored:
    """What was computed for one feature of the recipe."""

    scorer: Scorer
    vectors: tuple[Artifact, Artifact] | None = None  # of the pool and of the target
    scores: Artifact | None = None
    similarity: tuple[Artifact, Integers] | None = None  # and the target rows that it has a column for
    pilot: Mapping[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    aside: list[tuple[str, str]] = field(default_factory=list)  # (id, reason) of target rows that a similarity has no column for

    def artifacts(self) -> list[Artifact]:
        """All artifacts of the pool's rows."""
        return [artifact for artifact in (self.vectors[0] if self.vectors else None, self.scores, self.similarity[0] if self.similarity else None) if artifact]


def score_features(session: Session, recipe: Recipe, given: Mapping[str, Inputs]) -> dict[str, Scored]:
    """Every feature that some arm reads; `given` holds the inputs of scorers that read `text`, the `base` model and the `warm` checkpoints.

    Scorers that read the same model are computed together, so that a pass they share is run once.
    """
    used, wanted = recipe.used_features(), recipe.wanted_outputs()
    scored = {name: Scored(scorer) for name, scorer in used.items()}
    for kind, inputs in given.items():
        scorers: dict[str, Scorer] = {}
        for name in [name for name, scorer in used.items() if kind_of(scorer) == kind]:
            scorers |= _variants(session, name, scored[name], wanted[name], inputs)
        jobs = jobs_of(session, scorers, inputs)
        pool = score(session, jobs, inputs, "pool", recipe.hygiene.quarantine_limit)
        target = score(session, [job for job in jobs if job.scorer.output == "vectors"], inputs, "target", recipe.hygiene.quarantine_limit)
        for name in [name for name, scorer in used.items() if kind_of(scorer) == kind]:
            scored[name].notes += _metric_notes(recipe, name, scored[name].scorer, name + _EXACT in scorers)
        for job in jobs:
            mine = scored[name_of(job)]
            if job.scorer.output == "vectors":
                mine.vectors = (pool[job.label], target[job.label])
            elif job.scorer.output == "scores":
                mine.scores = pool[job.label]
            else:
                columns = _columns(job.state, inputs)
                mine.similarity = (pool[job.label], columns)
                mine.aside = _without_column(name_of(job), columns, inputs, recipe.hygiene.quarantine_limit)
    return scored


_EXACT = " (exact)"


def _metric_notes(recipe: Recipe, name: str, scorer: Scorer, exact: bool) -> list[str]:
    """What to say where an arm compares by the cosine what is meant to be compared by inner products."""
    if exact or not isinstance(scorer, GradientScorer) or scorer.metric == "cosine":
        return []
    arms = [arm for arm, method in recipe.arms.items() if method.vectors == name and getattr(method.selector, "metric", "") == "cosine"]
    if not arms:
        return []
    which = ", ".join(arms)
    return [f"feature {name}: {scorer.name} is the inner product of its vectors, but {which} compares their cosines; write metric: inner in the selector"]


def kind_of(scorer: Scorer) -> str:
    """Which inputs the scorer reads: `text`, the `base` model, or the `warm` checkpoints."""
    return "warm" if scorer.warmup else "text" if scorer.reads == "text" else "base"


def _variants(session: Session, name: str, mine: Scored, wanted: frozenset[str], inputs: Inputs) -> dict[str, Scorer]:
    """The scorers to run for one feature, by label: itself, with its width settled, and its exact twin where that is enough for some arm."""
    scorer = mine.scorer
    if not isinstance(scorer, GradientScorer):
        return {name: scorer}
    exact = "similarity" in wanted and _is_exact(scorer, inputs, name, mine)
    variants: dict[str, Scorer] = {name + _EXACT: ExactSimilarity(of=scorer)} if exact else {}
    if "vectors" in wanted or not exact:
        if not scorer.sketchable:
            raise ConfigError(
                f"features.{name}: {scorer.name} with these fields has similarities to the target only, and an arm needs vectors or the target's directions "
                "do not fit; use curvature: ekfac, or similarity: exact with selectors that only compare"
            )
        if scorer.exact:
            scorer, mine.pilot, _ = pilot(session, name, scorer, inputs)
            mine.scorer = scorer
        variants[name] = scorer
    return variants


def _is_exact(scorer: GradientScorer, inputs: Inputs, name: str, mine: Scored) -> bool:
    from curate.model import trained_numbers

    if not scorer.exact or scorer.similarity == "sketch":
        if scorer.similarity == "exact":
            raise ConfigError(f"features.{name}: {scorer.name} has no exact similarity; write similarity: sketch")
        return False
    rows = int(inputs.target.manifest["summary"]["used"])
    size = 4 * rows * scorer.sets(len(inputs.checkpoints)) * trained_numbers(inputs.handle, scorer.modules)
    if size <= EXACT_BYTES or scorer.similarity == "exact":
        return True
    mine.notes.append(
        f"feature {name}: the directions of {rows} target rows take {size / 2**30:.1f} GiB, so similarities are those of sketched vectors; "
        "fewer target rows, or similarity: exact, give them without a sketch"
    )
    return False


def name_of(job: Job) -> str:
    """The name of the job's feature in the recipe."""
    return job.label.removesuffix(_EXACT)


def _without_column(name: str, columns: Integers, inputs: Inputs, limit: float) -> list[tuple[str, str]]:
    """The target rows that cannot be compared with; NumericError where they are too many."""
    ids = opened(inputs.target.path).ids
    aside = [(str(row), "zero_norm_or_not_finite") for row in np.delete(ids, columns)]
    if len(aside) > limit * len(ids):
        raise NumericError(
            f"feature {name}: {len(aside)} of {len(ids)} target rows gave no finite, non-zero direction (first: row {aside[0][0]}); "
            f"the limit is {limit:.1%}: use other target rows, model.dtype: float32 or a lower warmup.learning_rate, or raise hygiene.quarantine_limit"
        )
    return aside


def _columns(state: Artifact | None, inputs: Inputs) -> Integers:
    """The target rows that have a column, in order."""
    held = load_state(state.path, "cpu") if state else {}
    rows = int(inputs.target.manifest["summary"]["used"])
    return np.asarray(held["columns"], np.int64) if "columns" in held else np.arange(rows)


def inputs_of(session: Session, base: Any, warm: Any, pool: Artifact, target: Artifact, warmup: tuple[Artifact, Any] | None) -> dict[str, Inputs]:
    """What each kind of scorer reads."""
    common = Inputs(None, pool, target, (), (), session.folder, session.device)
    given = {"text": common, "base": replace(common, handle=base)}
    if warmup:
        given["warm"] = replace(common, handle=warm, checkpoints=warmup[1], keys=(warmup[0].key,))
    return given
