"""Score: every row of the pool and the target as vectors or numbers, shard by shard."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from curate.core import Artifact, Checkpoint
from curate.data.examples import open_examples
from curate.errors import NumericError
from curate.features import shard_bytes
from curate.interfaces import Scorer, ScoringContext
from curate.pipelines.session import Session, numeric_environment
from curate.randomness import uniform
from curate.settings import Lora, Share, Warmup
from curate.store import Workspace, canonical

SHARD_ROWS = 256
MICRO_BATCH_TOKENS = 2048  # more tokens leave the caches of a CPU
PREPARE_ROWS = 1024
LAYOUT = {"shard_rows": SHARD_ROWS, "micro_batch_tokens": MICRO_BATCH_TOKENS}
ATTENTION = Lora(r=8, alpha=16, targets="attention")
opened = lru_cache(maxsize=2)(open_examples)


@dataclass(frozen=True)
class WarmupTask:
    """A warm-up run, as a worker gets it."""

    handle: Any  # curate.model.ModelHandle
    examples: Path
    settings: Warmup
    workspace: Path
    device: str


@dataclass(frozen=True)
class ShardTask:
    """Rows start to stop of the examples, as a worker gets them."""

    scorer: Scorer
    handle: Any  # curate.model.ModelHandle
    examples: Path
    pool: Path  # examples that `prepare` draws its sample from
    checkpoints: tuple[Checkpoint, ...]
    role: Literal["pool", "target"]
    workspace: Path
    start: int
    stop: int
    device: str

    @property
    def name(self) -> str:
        return f"shard-{self.start // SHARD_ROWS:06d}.safetensors"


def warm_up(session: Session, handle: Any, pool: Artifact, settings: Warmup) -> Artifact:
    """A short training run on a random part of the pool; one checkpoint with its optimizer moments per epoch."""

    def make(workspace: Workspace) -> Mapping[str, Any]:
        task = WarmupTask(handle, pool.path, settings, workspace.path, session.device)
        return next(iter(session.cluster.map(run_warmup, [task], label="warm-up")))

    fields = {"settings": settings.model_dump(mode="json"), "model": handle.identity(), "environment": numeric_environment(session.device)}
    return session.build("warmup", "warm-up", make, fields=fields, inputs=[pool.key])


def run_warmup(task: WarmupTask) -> dict[str, Any]:
    """Train on the drawn rows and save a checkpoint after every epoch."""
    from curate.model import fresh
    from curate.train import TrainingSet, learning_rate, plan_steps, save_checkpoint, train

    examples = open_examples(task.examples)
    count = max(1, int(task.settings.fraction * len(examples)))
    rows = np.sort(np.argsort(uniform(task.settings.seed, "warm-up rows", examples.ids), kind="stable")[:count])
    data = TrainingSet(examples.ids[rows], [examples.rows[int(row)] for row in rows], examples.lengths[rows], np.ones(count, np.float32))
    plan = plan_steps(data, task.settings, task.settings.seed)
    per_epoch = len(plan) // task.settings.epochs
    model = fresh(task.handle, task.device, seed=task.settings.seed)
    workspace = Workspace(task.workspace)

    def after_step(step: int, optimizer: Any) -> None:
        if step % per_epoch == 0:
            mean = sum(learning_rate(task.settings, s, len(plan)) for s in range(step - per_epoch, step)) / per_epoch
            state = {"step": step, "learning_rate": mean}
            save_checkpoint(model, workspace, f"checkpoint-{step:06d}", state, task.settings, optimizer)

    log = train(model, data, plan, task.settings, task.settings.seed, workspace, save_every=per_epoch, after_step=after_step)
    workspace.write("losses.json", canonical(log.losses))
    return {"steps": log.steps, "tokens": log.tokens, "rows": count, "last_loss": log.losses[-1]}


def checkpoints_of(warmup: Artifact) -> tuple[Checkpoint, ...]:
    """The warm-up's checkpoints, first to last."""
    from curate.store import read_json

    folders = sorted(path.parent for path in warmup.path.glob("checkpoint-*/state.json"))
    states = [read_json(folder / "state.json") for folder in folders]
    return tuple(Checkpoint(folder, int(state["step"]), float(state["learning_rate"])) for folder, state in zip(folders, states, strict=True))


def score(
    session: Session,
    label: str,
    scorer: Scorer,
    handle: Any,
    pool: Artifact,
    target: Artifact | None,
    warmup: Artifact | None,
    quarantine_limit: Share,
) -> Artifact:
    """One feature of the pool's rows, or of the target's; a killed run repeats at most the shards that were being computed."""
    role: Literal["pool", "target"] = "target" if target else "pool"
    examples = target or pool

    def make(workspace: Workspace) -> Mapping[str, Any]:
        rows = int(examples.manifest["summary"]["used"])
        checkpoints = checkpoints_of(warmup) if warmup else ()
        tasks = [
            ShardTask(scorer, handle, examples.path, pool.path, checkpoints, role, workspace.path, start, min(start + SHARD_ROWS, rows), session.device)
            for start in range(0, rows, SHARD_ROWS)
        ]
        done = list(session.cluster.map(score_shard, tasks, label=f"{label} ({role})"))
        _check_rows(label, rows, done, quarantine_limit)
        return {"shards": [task.name for task in tasks], "rows": sum(info["rows"] for info in done), "width": done[0]["width"] if done else 0}

    fields = {
        "scorer": scorer.model_dump(mode="json"),
        "role": role,
        "model": handle.identity(),
        "layout": LAYOUT,
        "environment": numeric_environment(session.device),
    }
    inputs = [examples.key] + ([warmup.key] if warmup else []) + ([pool.key] if prepares(scorer) else [])
    return session.build("features", f"{label} ({role})", make, fields=fields, inputs=inputs, version=scorer.version)


def score_shard(task: ShardTask) -> dict[str, Any]:
    """Score the rows of one shard and commit it; a shard that is already committed is read back instead."""
    from curate.model import cached, micro_batches

    workspace = Workspace(task.workspace)
    done = workspace.committed(task.name)
    if done is not None:
        return done
    examples = opened(task.examples)
    model = cached(task.handle, task.device)
    context = ScoringContext(device=task.device, model=model, checkpoints=task.checkpoints, role=task.role)
    if prepares(task.scorer):
        context = replace(context, state=prepared(task.scorer, task.handle, task.pool, task.checkpoints, task.device))
    values: list[Any] = [None] * (task.stop - task.start)
    for batch in micro_batches(examples.lengths[task.start : task.stop], MICRO_BATCH_TOKENS):
        rows = [examples.rows[task.start + int(i)] for i in batch]
        for i, value in zip(batch, score_rows(task.scorer, rows, context), strict=True):
            values[int(i)] = value
    reasons = {i: reason for i, value in enumerate(values) if (reason := fault(value))}
    kept = [i for i in range(len(values)) if i not in reasons]
    stacked = np.stack([values[i] for i in kept]) if kept else np.zeros((0, *np.shape(values[0])), np.float32)
    info = {
        "rows": len(kept),
        "width": int(stacked.shape[1]) if stacked.ndim == 2 else 1,
        "quarantined": [[str(examples.ids[task.start + i]), reason] for i, reason in sorted(reasons.items())],
    }
    return workspace.commit(task.name, shard_bytes(np.array(kept, np.int64) + task.start, stacked), info)


def score_rows(scorer: Scorer, rows: Sequence[Any], context: ScoringContext) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The scorer's numbers for these rows; when one spoils the batch, each row alone, so that neighbours keep theirs."""
    model = context.model
    if model is None:
        raise ValueError("scoring needs a model")
    out: np.ndarray[Any, np.dtype[np.float32]] = scorer.score(model.batch(rows), context).float().cpu().numpy()
    if len(rows) > 1 and not np.isfinite(out).all():
        return np.concatenate([score_rows(scorer, [row], context) for row in rows])
    return out


def prepares(scorer: Scorer) -> bool:
    """Whether the scorer wants to know something of the whole pool first."""
    return type(scorer).prepare is not Scorer.prepare


@lru_cache(maxsize=2)
def prepared(scorer: Scorer, handle: Any, pool: Path, checkpoints: tuple[Checkpoint, ...], device: str) -> Any:
    """What the scorer made of a sample of the pool, which is the same in every process."""
    from curate.model import cached, micro_batches

    examples, model = opened(pool), cached(handle, device)
    drawn = np.argsort(uniform(0, "prepare", examples.ids), kind="stable")[:PREPARE_ROWS]
    batches = micro_batches(examples.lengths[drawn], MICRO_BATCH_TOKENS)
    sample = (model.batch([examples.rows[int(row)] for row in drawn[batch]]) for batch in batches)
    return scorer.prepare(sample, ScoringContext(device=device, model=model, checkpoints=checkpoints))


def fault(value: Any) -> str:
    """Why a row's numbers cannot be used; empty if they can."""
    if not np.isfinite(value).all():
        return "not_finite"
    return "zero_norm" if np.ndim(value) and not np.any(value) else ""


def _check_rows(label: str, rows: int, done: Sequence[Mapping[str, Any]], limit: float) -> None:
    faulty = [entry for info in done for entry in info["quarantined"]]
    if len(faulty) > limit * rows:
        raise NumericError(
            f"feature {label}: {len(faulty)} of {rows} rows gave no finite, non-zero number (first: row {faulty[0][0]}, {faulty[0][1]}); "
            f"the limit is {limit:.1%}: try model.dtype: float32 or a lower warmup.learning_rate, or raise hygiene.quarantine_limit"
        )
    if sum(info["rows"] for info in done) + len(faulty) != rows:
        raise NumericError(f"feature {label}: rows do not add up; remove the folder under .part and run again")
