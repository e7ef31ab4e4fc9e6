"""The small runs of `curate advise`: buckets of the pool by quality, what to train on them, and the loss that it leaves on the target."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from curate.core import Artifact, Examples, Features, Integers
from curate.errors import DataError
from curate.model import ModelHandle, apply_weights, fresh, read_weights
from curate.pipelines.finetune import TrainTask, finetune
from curate.pipelines.retrain import LOSSES, Retraining, target_losses
from curate.pipelines.score import micro_batch_tokens
from curate.pipelines.session import numeric_environment
from curate.randomness import uniform
from curate.scorers.loss import Loss
from curate.settings import Train
from curate.store import Store, Workspace, canonical

FEWEST_STEPS = 4  # of a run that says something


@dataclass(frozen=True)
class Planned:
    """A run to come: the buckets it keeps (numbers from 0), of which share of their rows, and for how many tokens."""

    kept: tuple[int, ...]
    share: float
    tokens: float


@dataclass(frozen=True)
class SmallTask:
    """One run, as a worker gets it; without rows the model is asked as it is."""

    number: int
    rows: Integers
    tokens: int
    seed: int
    handle: ModelHandle
    pool: Artifact
    target: Artifact
    settings: Train
    store: Path
    device: str


@dataclass(frozen=True)
class Left:
    """What a run left: the tokens it saw and its target losses."""

    seen: int
    losses: Artifact

    @property
    def loss(self) -> float:
        """Mean over target rows, nats per token."""
        return float(self.losses.manifest["summary"]["mean"])


def cut(features: Features, rows: Integers, count: int, best: str) -> list[Integers]:
    """The rows (positions in the pool), best first, in `count` buckets of equal tokens; equal scores go by their ids.

    A row belongs to the bucket that the middle of its tokens falls into.
    """
    scores = np.asarray(features.scores, np.float64)
    order = np.lexsort((features.ids, -scores if best == "high" else scores))
    lengths = features.lengths[order]
    middles = np.cumsum(lengths) - lengths / 2
    numbers = np.minimum(middles * count // lengths.sum(), count - 1).astype(np.int64)
    return [rows[order[numbers == number]] for number in range(count)]


def plan(buckets: int, bucket: float, compute: float, least: float, spend: float) -> list[Planned]:
    """The runs, which see `spend` times `compute` tokens in all, or what the whole buckets allow.

    Every bucket alone; the best one at smaller sizes too, for the shape of the curve, and over again as often as the advice
    may come to, at most 4 times, for the half-life; the best half and all buckets together, for how utilities add up. Where
    whole buckets cost more than is to be spent, a share of every bucket and of the compute takes their place, so that passes
    stay what they are. `least` is the smallest run that says something; it may cost more than was to be spent.
    """
    unit = min(bucket, compute)
    passes = min(4.0, np.ceil(compute / bucket))
    half, everything = (buckets + 1) // 2, tuple(range(buckets))
    most = min(buckets * bucket, compute)
    sizes: list[tuple[tuple[int, ...], float]] = [((0,), unit / 8), ((0,), unit / 3), *(((number,), unit) for number in everything)]
    sizes += [((0,), repeated * bucket) for repeated in sorted({2.0, passes}) if passes >= repeated > 1]
    sizes += [(everything, unit), (everything, most if most > 1.5 * unit else unit / 3)]
    if half < buckets and half > 1:
        sizes.append((everything[:half], min(half * bucket, compute)))
    share = min(1.0, spend * compute / sum(size for _, size in sizes))
    needed = 8 * least / unit
    if needed > 1:
        what = f"{buckets} buckets of {bucket:,.0f} tokens" if bucket <= compute else f"a compute of {compute:,.0f} tokens"
        where = f"the smallest run would see {unit / 8:,.0f} tokens, and {FEWEST_STEPS} optimizer steps take {least:,.0f}"
        fewer = "fewer --buckets, more rows" if bucket <= compute else "more --compute"
        raise DataError(f"{what} cannot be told apart by small runs: {where}; give {fewer}, or a smaller train.batch_size")
    share = max(share, needed)
    return [Planned(kept, share, share * size) for kept, size in sizes]


def rows_of(planned: Planned, buckets: Sequence[Integers], pool: Examples, seed: int) -> Integers:
    """The rows of a run, ascending: the planned share of the tokens of each of its buckets, drawn by (seed, row id)."""
    drawn = [_part(buckets[number], planned.share, pool, seed) for number in planned.kept]
    return np.sort(np.concatenate(drawn))


def _part(rows: Integers, share: float, pool: Examples, seed: int) -> Integers:
    order = rows[np.argsort(uniform(seed, "advise rows", pool.ids[rows]), kind="stable")]
    lengths = pool.lengths[order]
    part: Integers = order[np.cumsum(lengths) - lengths / 2 <= share * lengths.sum()]
    return part


def run_small(task: SmallTask) -> Left:
    """Train in this process and ask the target; checkpoint and losses go to the store."""
    store, environment = Store(task.store), numeric_environment(task.device)
    asked = Retraining(task.number, len(task.rows), task.seed, task.handle, task.pool, task.target, task.settings, task.store, task.device)
    weights = np.ones(len(task.rows), np.float32)
    training = TrainTask(task.handle, task.pool.path, task.rows, weights, task.settings, task.seed, task.tokens, None, task.device)
    checkpoint = finetune(store, training, [task.pool.key], environment) if len(task.rows) else None

    def ask(workspace: Workspace) -> Mapping[str, Any]:
        model = fresh(task.handle, task.device)
        if checkpoint:
            apply_weights(model.names, read_weights(checkpoint.path))
        losses = target_losses(model, asked)
        workspace.write(LOSSES, canonical(losses))
        return {"rows": len(losses), "mean": float(np.mean(list(losses.values())))}

    fields = {"scorer": Loss().model_dump(mode="json"), "model": task.handle.identity(), "environment": environment, "tokens": micro_batch_tokens(task.device)}
    inputs = [task.target.key, *([checkpoint.key] if checkpoint else [])]
    losses = store.build("losses", ask, fields=fields, inputs=inputs, version=Loss.version)
    return Left(int(checkpoint.manifest["summary"]["tokens"]) if checkpoint else 0, losses)
