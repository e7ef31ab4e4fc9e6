"""Score: every row of the pool and the target as vectors, numbers or similarities, shard by shard.

Features that read the same model are scored together: a shard is read once, and scorers that read the same forward pass share it.
"""

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from curate.beat import beat
from curate.core import Artifact
from curate.data.examples import opened
from curate.errors import DiskError, NumericError
from curate.features import shard_bytes
from curate.folders import make_folder, refusals
from curate.gradient_scorer import GradientScorer
from curate.interfaces import Scorer
from curate.pipelines.session import Session
from curate.pipelines.state import Inputs, Prepared, prepare_states
from curate.settings import Share
from curate.storage import bytes_per_row, storage_error
from curate.store import Request, Workspace

SHARD_ROWS = 256
# More tokens leave the caches of a CPU; fewer leave a GPU waiting for its kernels to be launched.
MICRO_BATCH_TOKENS = {"cpu": 2048, "cuda": 16384}
Role = Literal["pool", "target"]
_STARTS = ".starts"


@dataclass(frozen=True)
class Job:
    """One feature to compute: a scorer with its state."""

    label: str
    scorer: Scorer
    prepared: Prepared = Prepared()


@dataclass(frozen=True)
class Part:
    """A job's share of a shard, as a worker gets it."""

    label: str
    scorer: Scorer
    states: tuple[Path | None, Path | None]  # its own, and that of the scorer within
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
    aside: tuple[tuple[int, str], ...] = ()  # rows, counted from `start`, that are not scored, each with its reason
    kept: bool = True  # whether what is computed is kept

    @property
    def name(self) -> str:
        return f"shard-{self.start // SHARD_ROWS:06d}.safetensors"


class Halving:
    """A shard whose rows kill their worker: implements `curate.remedy.Remedy`."""

    def size(self, item: ShardTask) -> int:
        return item.stop - item.start

    def part(self, item: ShardTask, start: int, stop: int) -> ShardTask:
        return replace(item, start=item.start + start, stop=item.start + stop, kept=False)

    def without(self, item: ShardTask, rows: Mapping[int, str]) -> ShardTask:
        return replace(item, aside=tuple(sorted(rows.items())))

    def starts(self, item: ShardTask) -> Path:
        return item.parts[0].workspace / f"{item.name}{_STARTS}"


def micro_batch_tokens(device: str) -> int:
    """Padded tokens of a batch: part of the plan, so that it decides nothing but itself."""
    return MICRO_BATCH_TOKENS[device.split(":")[0]]


def jobs_of(session: Session, scorers: Mapping[str, Scorer], inputs: Inputs) -> list[Job]:
    """The features to compute, each with its state prepared."""
    prepared = prepare_states(session, scorers, inputs, micro_batch_tokens(session.device))
    return [Job(label, scorer, prepared[label]) for label, scorer in scorers.items()]


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
            [examples.key] + list(inputs.keys if job.scorer.warmup else ()) + job.prepared.keys,
            job.scorer.version,
        )
        for job in jobs
    ]

    def make(places: Sequence[Workspace | None]) -> list[Mapping[str, Any] | None]:
        missing = [(job, place) for job, place in zip(jobs, places, strict=True) if place]
        _announce(session, [job for job, _ in missing], rows, len(inputs.checkpoints))
        parts = tuple(Part(job.label, job.scorer, job.prepared.paths, place.path) for job, place in missing)
        tasks = [ShardTask(parts, inputs, examples.path, role, start, stop) for start, stop in plan]
        quarantines = [Quarantine(job, inputs.handle, role, rows, quarantine_limit) for job, _ in missing]
        found = [place.present([task.name for task in tasks]) for _, place in missing]
        there = {task.name: [one[task.name] for one in found] for task in tasks if all(task.name in one for one in found)}
        left = [task for task in tasks if task.name not in there]
        done: list[list[dict[str, Any]]] = []
        label = f"{', '.join(job.label for job, _ in missing)} ({role})"
        with contextlib.closing(session.cluster.map(score_shard, left, label=label, remedy=Halving())) as scored:
            for task in tasks:
                sidecars = there[task.name] if task.name in there else next(scored)
                for quarantine, info in zip(quarantines, sidecars, strict=True):
                    quarantine.add(info["quarantined"], task.stop)
                done.append(sidecars)
        _forget_starts([place for _, place in missing])
        by_job = iter([[sidecars[number] for sidecars in done] for number in range(len(missing))])
        return [_summary(job, plan, rows, next(by_job)) if place else None for job, place in zip(jobs, places, strict=True)]

    artifacts = session.build_together([f"{job.label} ({role})" for job in jobs], requests, make) if jobs else []
    return {job.label: artifact for job, artifact in zip(jobs, artifacts, strict=True)}


def _forget_starts(places: Sequence[Workspace]) -> None:
    """Of shards that were committed by a process that died right then."""
    for place in places:
        for file in place.path.glob(f"*{_STARTS}"):
            place.remove(file.name)


def _summary(job: Job, plan: Sequence[tuple[int, int]], rows: int, done: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    if sum(info["rows"] + len(info["quarantined"]) for info in done) != rows:
        raise NumericError(f"feature {job.label}: rows do not add up; remove the folder under .part and run again")
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
    with refusals(session.store.root):
        make_folder(session.store.root)
    free = shutil.disk_usage(session.store.root).free
    if wanted > free:
        raise DiskError(
            f"the features take {wanted / 2**30:.1f} GiB, and {session.store.root} has {free / 2**30:.1f} GiB free; "
            "use store: float16 or int8, a smaller width, or another --store"
        )


def score_shard(task: ShardTask) -> list[dict[str, Any]]:
    """Score the rows of one shard and commit them for every job; what is already committed is read back instead."""
    beat()
    if not task.kept:
        _computed(task, task.parts)
        return []
    done = [Workspace(part.workspace).committed(task.name) for part in task.parts]
    missing = [part for part, info in zip(task.parts, done, strict=True) if info is None]
    fresh = iter(_committed(task, missing) if missing else ())
    return [info if info is not None else next(fresh) for info in done]


def _committed(task: ShardTask, parts: Sequence[Part]) -> list[dict[str, Any]]:
    ids = opened(task.examples).ids
    return [_commit(task, part, ids, kept) for part, kept in zip(parts, _computed(task, parts), strict=True)]


def _computed(task: ShardTask, parts: Sequence[Part]) -> list[list[Any]]:
    """The value of every row for every part; None where a row was set aside beforehand."""
    from curate.rowwise import batches, score_rows

    examples = opened(task.examples)
    jobs = [(part.scorer, replace(task.inputs.context(part.scorer, *part.states), role=task.role)) for part in parts]
    model = jobs[0][1].model
    values: list[list[Any]] = [[None] * (task.stop - task.start) for _ in jobs]
    for batch in batches(examples.lengths[task.start : task.stop], model, micro_batch_tokens(task.inputs.device)):
        batch = batch[~np.isin(batch, [row for row, _ in task.aside])]
        if not len(batch):
            continue
        beat()
        rows = [examples.rows[task.start + int(i)] for i in batch]
        for kept, numbers in zip(values, score_rows(jobs, rows, examples.ids[task.start + batch].tolist()), strict=True):
            for i, value in zip(batch, numbers, strict=True):
                kept[int(i)] = value
    return values


def _commit(task: ShardTask, part: Part, ids: Any, values: Sequence[Any]) -> dict[str, Any]:
    from curate.rowwise import faults

    aside = dict(task.aside)
    scored = [i for i in range(len(values)) if i not in aside]
    if not scored:
        raise NumericError(f"feature {part.label} ({task.role}): every row of {task.name} kills its worker ({aside[0]}); look at them, or use another scorer")
    reasons = aside | {scored[i]: reason for i, reason in faults([values[i] for i in scored], part.scorer.output).items()}
    kept = [i for i in scored if i not in reasons]
    stacked = np.stack([values[i] for i in kept]) if kept else np.zeros((0, *np.shape(values[scored[0]])), np.float32)
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


@dataclass
class Quarantine:
    """The rows of one feature that were set aside so far, shard by shard in their order, so that it stops at the same shard however many work on them."""

    job: Job
    handle: Any  # curate.model.ModelHandle, None for scorers of text
    role: Role
    rows: int
    limit: float
    aside: list[Sequence[str]] = field(default_factory=list)  # (id, reason)

    def add(self, more: Sequence[Sequence[str]], seen: int) -> None:
        """Take in those of the next shard, which ends after `seen` rows; NumericError as soon as they are too many."""
        self.aside += more
        if len(self.aside) <= self.limit * self.rows:
            return
        among = f"{self.rows} rows" if seen == self.rows else f"the first {seen} of {self.rows} rows"
        raise NumericError(
            f"feature {self.job.label}: {len(self.aside)} of {among} of the {self.role} gave no finite, non-zero number "
            f"(first: row {self.aside[0][0]}, {self.aside[0][1]}); "
            f"the limit is {self.limit:.1%}: {self._advice()}, or raise hygiene.quarantine_limit"
        )

    def _advice(self) -> str:
        """What may mend it, of what the scorer reads."""
        if self.handle is None:
            return f"look at what such rows of the {self.role} say: the scorer finds nothing in them that it reads"
        half = ["model.dtype: float32"] if self.handle.dtype != "float32" else []
        slower = ["a lower warmup.learning_rate"] if self.job.scorer.warmup else []
        return f"try {' or '.join(half + slower)}" if half + slower else f"look at the answers of such rows of the {self.role}"
