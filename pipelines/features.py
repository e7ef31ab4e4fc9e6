"""Features: which numbers the arms need of which scorer, and the cheapest way to have them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from curate.core import Artifact, Integers
from curate.data.examples import opened
from curate.errors import ConfigError, NumericError
from curate.exact_similarity import ExactSimilarity
from curate.gradient_scorer import GradientScorer
from curate.interfaces import Scorer
from curate.pipelines.grow import Grown
from curate.pipelines.join import join
from curate.pipelines.memory import bytes_of_directions, bytes_of_sample
from curate.pipelines.pilot import pilot
from curate.pipelines.score import Job, jobs_of, score
from curate.pipelines.session import Session
from curate.pipelines.state import Inputs, stored_array
from curate.recipe import Recipe

# The most memory that the target's directions, and the sample of a Fisher, may take for exact similarities to be the default. It does not hang on
# the number of workers, which changes no result: on a CPU they share one mapped file, on a GPU each holds a copy, and the message counts them.
EXACT_BYTES = 2**31
_TOO_MUCH = f"more than the {EXACT_BYTES / 2**30:g} GiB that exact similarities take unasked"


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


def score_features(session: Session, recipe: Recipe, given: Mapping[str, Inputs], stages: Sequence[Grown] = ()) -> dict[str, Scored]:
    """Every feature that some arm reads; `given` holds the inputs of scorers that read `text`, the `base` model and the `warm` checkpoints.

    Scorers that read the same model are computed together, so that a pass they share is run once. Of a pool that grew in `stages` only the rows
    that came are scored, with what was prepared of the pool as it was.
    """
    used, wanted, limit = recipe.used_features(), recipe.wanted_outputs(), recipe.hygiene.quarantine_limit
    scored = {name: Scored(scorer) for name, scorer in used.items()}
    for kind, inputs in given.items():
        names = [name for name, scorer in used.items() if kind_of(scorer) == kind]
        scorers: dict[str, Scorer] = {}
        for name in names:
            scorers |= _variants(session, name, scored[name], wanted[name], inputs)
        jobs = [_settled(session, job, scored[name_of(job)], inputs) for job in jobs_of(session, scorers, inputs)]
        columns = {job.label: _columns(job, inputs, limit) for job in jobs if job.scorer.output == "similarity"}  # refused before the pool is scored
        pool = _through(session, jobs, inputs, stages, limit)
        target = score(session, [job for job in jobs if job.scorer.output == "vectors"], inputs, "target", limit)
        for name in names:
            scored[name].notes += _metric_notes(recipe, name, scored[name].scorer, name + _EXACT in scorers)
        for job in jobs:
            mine = scored[name_of(job)]
            if job.scorer.output == "vectors":
                mine.vectors = (pool[job.label], target[job.label])
            elif job.scorer.output == "scores":
                mine.scores = pool[job.label]
            else:
                compared, mine.aside = columns[job.label]
                mine.similarity = (pool[job.label], compared)
    return scored


_EXACT = " (exact)"


def _through(session: Session, jobs: list[Job], inputs: Inputs, stages: Sequence[Grown], limit: float) -> dict[str, Artifact]:
    """The pool's features by label, after all stages of its growth."""
    pool = score(session, jobs, inputs, "pool", limit)
    for stage in stages:
        new = score(session, jobs, replace(inputs, pool=stage.added), "pool", limit) if stage.added else {}
        pool = {job.label: join(session, f"{job.label} (grown)", pool[job.label], new.get(job.label), stage.pool) for job in jobs}
    return pool


def _metric_notes(recipe: Recipe, name: str, scorer: Scorer, exact: bool) -> list[str]:
    """What to say where an arm asks for the cosine of what is meant to be compared by inner products, whose lengths count."""
    if not isinstance(scorer, GradientScorer) or scorer.normalise != "none":
        return []
    arms = ", ".join(arm for arm, method in recipe.arms.items() if method.vectors == name and getattr(method.selector, "metric", "") == "cosine")
    if not arms:
        return []
    if exact:
        return [f"feature {name}: {arms} reads exact inner products, to which metric: cosine does not apply; write similarity: sketch to compare vectors"]
    return [f"feature {name}: {scorer.name} is the inner product of its vectors, but {arms} compares their cosines; leave metric away, or write inner"]


def kind_of(scorer: Scorer) -> str:
    """Which inputs the scorer reads: `text`, the `base` model, or the `warm` checkpoints."""
    return "warm" if scorer.warmup else "text" if scorer.reads == "text" else "base"


def _variants(session: Session, name: str, mine: Scored, wanted: frozenset[str], inputs: Inputs) -> dict[str, Scorer]:
    """The scorers to run for one feature, by label: itself, and its exact twin where that is enough for some arm."""
    scorer = mine.scorer
    if not isinstance(scorer, GradientScorer):
        return {name: scorer}
    exact = "similarity" in wanted and _is_exact(session, scorer, inputs, name, mine)
    variants: dict[str, Scorer] = {name + _EXACT: ExactSimilarity(of=scorer)} if exact else {}
    if "vectors" in wanted or not exact:
        if not scorer.sketchable:
            too_large = "vectors" not in wanted and scorer.similarity != "sketch"
            why = f"{_held(scorer, inputs)}, {_TOO_MUCH}" if too_large else "an arm or similarity: sketch asks for vectors"
            raise ConfigError(
                f"features.{name}: {scorer.name} with these fields has similarities to the target only, without vectors, and {why}; "
                "use curvature: ekfac, or similarity: exact with selectors that only compare"
            )
        variants[name] = scorer
    return variants


def _settled(session: Session, job: Job, mine: Scored, inputs: Inputs) -> Job:
    """The job with the width that a pilot settles, where inner products can be had without a projection."""
    if not isinstance(job.scorer, GradientScorer) or not job.scorer.exact:
        return job
    mine.scorer, mine.pilot = pilot(session, job.label, job.scorer, inputs, job.prepared.state)
    return replace(job, scorer=mine.scorer)


def _is_exact(session: Session, scorer: GradientScorer, inputs: Inputs, name: str, mine: Scored) -> bool:
    if not scorer.exact or scorer.similarity == "sketch":
        if scorer.similarity == "exact":
            raise ConfigError(f"features.{name}: {scorer.name} has no exact similarity; write similarity: sketch")
        return False
    size, held = bytes_of_directions(scorer, inputs) + bytes_of_sample(scorer, inputs), _held(scorer, inputs)
    if size <= EXACT_BYTES or scorer.similarity == "exact":
        workers = session.cluster.workers
        whose = "shared by all worker processes" if session.device == "cpu" else f"in each of {workers} worker processes, {_size(workers * size)} in all"
        session.store.notify(f"feature {name}: {held} of memory, {whose}")
        return True
    mine.notes.append(
        f"feature {name}: {held}, {_TOO_MUCH}, so similarities are those of sketched vectors; "
        "fewer target rows, or similarity: exact, give them without a sketch"
    )
    return False


def _held(scorer: GradientScorer, inputs: Inputs) -> str:
    """What an exact similarity holds in memory, in words."""
    rows, sample = inputs.target.manifest["summary"]["used"], bytes_of_sample(scorer, inputs)
    fisher = f" and the sample of its Fisher {_size(sample)}" if sample else ""
    return f"the directions of {rows} target rows take {_size(bytes_of_directions(scorer, inputs))}{fisher}"


def _size(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def name_of(job: Job) -> str:
    """The name of the job's feature in the recipe."""
    return job.label.removesuffix(_EXACT)


def _columns(job: Job, inputs: Inputs, limit: float) -> tuple[Integers, list[tuple[str, str]]]:
    """The target rows that a similarity has a column for, in order, and those without one; NumericError where these are too many."""
    ids = opened(inputs.target.path).ids
    held = stored_array(job.prepared.state.path, "columns") if job.prepared.state else None
    columns = np.arange(len(ids)) if held is None else held.astype(np.int64)
    aside = [(str(row), "zero_norm_or_not_finite") for row in np.delete(ids, columns)]
    if len(aside) > limit * len(ids):
        raise NumericError(
            f"feature {name_of(job)}: {len(aside)} of {len(ids)} target rows gave no finite, non-zero direction (first: row {aside[0][0]}); "
            f"the limit is {limit:.1%}: use other target rows, model.dtype: float32 or a lower warmup.learning_rate, or raise hygiene.quarantine_limit"
        )
    return columns, aside


def inputs_of(session: Session, base: Any, warm: Any, pool: Artifact, target: Artifact, warmup: tuple[Artifact, Any] | None) -> dict[str, Inputs]:
    """What each kind of scorer reads."""
    common = Inputs(None, pool, target, (), (), session.folder, session.device)
    given = {"text": common, "base": replace(common, handle=base)}
    if warmup:
        given["warm"] = replace(common, handle=warm, checkpoints=warmup[1], keys=(warmup[0].key,))
    return given
