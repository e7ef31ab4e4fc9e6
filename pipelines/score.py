"""Score: every row of the pool and the target as vectors, numbers or similarities, shard by shard.

Features that read the same model are scored together: a shard is read once, and scorers that read the same forward pass share it.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from curate.core import Artifact
from curate.data.examples import opened
from curate.errors import DiskError, NumericError
from curate.features import shard_bytes
from curate.gradient_scorer import GradientScorer
from curate.interfaces import Scorer
from curate.pipelines.session import Session
from curate.pipelines.state import Inputs, prepare_state
from curate.settings import Share
from curate.storage import bytes_per_row, storage_error
from curate.store import Request, Workspace

SHARD_ROWS = 256
# More tokens leave the caches of a CPU; fewer leave a GPU waiting for its kernels to be launched.
MICRO_BATCH_TOKENS = {"cpu": 2048, "cuda": 16384}
Role = Literal["pool", "target"]


@dataclass(frozen=True)
class Job:
    """One feature to compute: a scorer with its state."""

    label: str
    scorer: Scorer
    state: Artifact | None


@dataclass(frozen=True)
class Part:
    """A job's share of a shard, as a worker gets it."""

    label: str
    scorer: Scorer
    state: Path | None
    workspace: Path


@dataclass(frozen=True)
class ShardTask:
    """Rows start to stop of the examples, for all jobs that read the same model, as a worker gets them."""

    parts: tuple[Part, ...]
    inputs: Inputs
    examples: Path
    role: Role
    start: int
    stop: int

    @property
    def name(self) -> str:
        return f"shard-{self.start // SHARD_ROWS:06d}.safetensors"


def micro_batch_tokens(device: str) -> int:
    """Padded tokens of a batch: part of the plan, so that it decides nothing but itself."""
    return MICRO_BATCH_TOKENS[device.split(":")[0]]


def jobs_of(session: Session, scorers: Mapping[str, Scorer], inputs: Inputs) -> list[Job]:
    """The features to compute, each with its state prepared."""
    tokens = micro_batch_tokens(session.device)
    return [Job(label, scorer, prepare_state(session, label, scorer, inputs, tokens)) for label, scorer in scorers.items()]


def score(session: Session, jobs: Sequence[Job], inputs: Inputs, role: Role, quarantine_limit: Share) -> dict[str, Artifact]:
    """The features of the pool's rows, or of the target's, by label; a killed run repeats at most the shards that were being computed."""
    examples = inputs.pool if role == "pool" else inputs.target
    rows = int(examples.manifest["summary"]["used"])
    plan = [(start, min(start + SHARD_ROWS, rows)) for start in range(0, rows, SHARD_ROWS)]
    layout = {"shard_rows": SHARD_ROWS, "micro_batch_tokens": micro_batch_tokens(session.device)}
    requests = [
        Request(
            "features",
            {**inputs.fields(job.scorer), "role": role, "layout": layout},
            [examples.key] + list(inputs.keys if job.scorer.warmup else ()) + ([job.state.key] if job.state else []),
            job.scorer.version,
        )
        for job in jobs
    ]

    def make(places: Sequence[Workspace | None]) -> list[Mapping[str, Any] | None]:
        missing = [(job, place) for job, place in zip(jobs, places, strict=True) if place]
        _announce(session, [job for job, _ in missing], rows, len(inputs.checkpoints))
        parts = tuple(Part(job.label, job.scorer, job.state.path if job.state else None, place.path) for job, place in missing)
        tasks = [ShardTask(parts, inputs, examples.path, role, start, stop) for start, stop in plan]
        done = list(session.cluster.map(score_shard, tasks, label=f"{', '.join(job.label for job, _ in missing)} ({role})"))
        by_job = iter([[sidecars[number] for sidecars in done] for number in range(len(missing))])
        return [_summary(job, plan, rows, next(by_job), quarantine_limit) if place else None for job, place in zip(jobs, places, strict=True)]

    artifacts = session.build_together([f"{job.label} ({role})" for job in jobs], requests, make) if jobs else []
    return {job.label: artifact for job, artifact in zip(jobs, artifacts, strict=True)}


def _summary(job: Job, plan: Sequence[tuple[int, int]], rows: int, done: Sequence[Mapping[str, Any]], limit: Share) -> dict[str, Any]:
    _check_rows(job.label, rows, done, limit)
    errors = [info["storage_error"] for info in done if info["storage_error"]]
    return {
        "shards": [f"shard-{start // SHARD_ROWS:06d}.safetensors" for start, _ in plan],
        "rows": sum(info["rows"] for info in done),
        "width": done[0]["width"] if done else 0,
        "bytes": sum(info["bytes"] for info in done),
        "stored": _stored(job.scorer),
        "storage_error": {name: _pooled(errors, name, counted) for name, counted in (("row_error", "rows"), ("cosine_error", "pairs")) if errors},
    }


def _pooled(errors: Sequence[Mapping[str, float]], name: str, counted: str) -> float:
    """The root mean square over all shards, each counted as often as it was measured."""
    total = sum(error[counted] for error in errors)
    return float(np.sqrt(sum(error[counted] * error[name] ** 2 for error in errors) / total)) if total else 0.0


def _stored(scorer: Scorer) -> Any:
    return getattr(scorer, "store", "float32")


def _announce(session: Session, jobs: Sequence[Job], rows: int, checkpoints: int) -> None:
    """Say what the features will take of the disk where it is known beforehand, and refuse what it does not hold."""
    wanted = 0
    for job in jobs:
        if isinstance(job.scorer, GradientScorer):
            width = job.scorer.stored_width(checkpoints)
            size = rows * bytes_per_row(width, _stored(job.scorer))
            session.store.notify(f"feature {job.label}: {rows:,} rows of {width:,} numbers in {_stored(job.scorer)}, {size / 2**20:,.0f} MiB on disk")
            wanted += size
    session.store.root.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(session.store.root).free
    if wanted > free:
        raise DiskError(
            f"the features take {wanted / 2**30:.1f} GiB, and {session.store.root} has {free / 2**30:.1f} GiB free; "
            "use store: float16 or int8, a smaller width, or another --store"
        )


def score_shard(task: ShardTask) -> list[dict[str, Any]]:
    """Score the rows of one shard and commit them for every job; what is already committed is read back instead."""
    done = [Workspace(part.workspace).committed(task.name) for part in task.parts]
    missing = [part for part, info in zip(task.parts, done, strict=True) if info is None]
    fresh = iter(_computed(task, missing) if missing else ())
    return [info if info is not None else next(fresh) for info in done]


def _computed(task: ShardTask, parts: Sequence[Part]) -> list[dict[str, Any]]:
    from curate.rowwise import batches, score_rows

    examples = opened(task.examples)
    jobs = [(part.scorer, replace(task.inputs.context(part.scorer, part.state), role=task.role)) for part in parts]
    model = jobs[0][1].model
    values: list[list[Any]] = [[None] * (task.stop - task.start) for _ in jobs]
    for batch in batches(examples.lengths[task.start : task.stop], model, micro_batch_tokens(task.inputs.device)):
        rows = [examples.rows[task.start + int(i)] for i in batch]
        for kept, numbers in zip(values, score_rows(jobs, rows, examples.ids[task.start + batch].tolist()), strict=True):
            for i, value in zip(batch, numbers, strict=True):
                kept[int(i)] = value
    return [_commit(task, part, examples.ids, kept) for part, kept in zip(parts, values, strict=True)]


def _commit(task: ShardTask, part: Part, ids: Any, values: Sequence[Any]) -> dict[str, Any]:
    from curate.rowwise import faults

    reasons = faults(values, part.scorer.output)
    kept = [i for i in range(len(values)) if i not in reasons]
    stacked = np.stack([values[i] for i in kept]) if kept else np.zeros((0, *np.shape(values[0])), np.float32)
    stored = _stored(part.scorer)
    numbers = np.array(kept, np.int64) + task.start
    try:
        data = shard_bytes(numbers, stacked, stored, ids[numbers])
    except NumericError as error:
        raise NumericError(f"feature {part.label} ({task.role}): {error}") from error
    info = {
        "rows": len(kept),
        "width": int(stacked.shape[1]) if stacked.ndim == 2 else 1,
        "quarantined": [[str(ids[task.start + i]), reason] for i, reason in sorted(reasons.items())],
        "storage_error": storage_error(stacked, stored) if stored != "float32" and kept else {},
    }
    return Workspace(part.workspace).commit(task.name, data, info)


def _check_rows(label: str, rows: int, done: Sequence[Mapping[str, Any]], limit: float) -> None:
    faulty = [entry for info in done for entry in info["quarantined"]]
    if len(faulty) > limit * rows:
        raise NumericError(
            f"feature {label}: {len(faulty)} of {rows} rows gave no finite, non-zero number (first: row {faulty[0][0]}, {faulty[0][1]}); "
            f"the limit is {limit:.1%}: try model.dtype: float32 or a lower warmup.learning_rate, or raise hygiene.quarantine_limit"
        )
    if sum(info["rows"] for info in done) + len(faulty) != rows:
        raise NumericError(f"feature {label}: rows do not add up; remove the folder under .part and run again")
