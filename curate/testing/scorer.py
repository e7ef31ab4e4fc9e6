"""What every scorer promises: `check_scorer(MyScorer(), context, rows)`."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, get_args

import numpy as np

from curate.core import Row, Written
from curate.errors import ConfigError
from curate.interfaces import Batch, Output, Scorer, ScoringContext
from curate.testing.component import check_identity, require, require_refusal
from curate.testing.watched import Role, Watched, Weights

if TYPE_CHECKING:
    from curate.model import LanguageModel


_DEVICE = 20  # how many times the tolerance between batches two devices may differ: their sums have another order throughout


def check_scorer(scorer: Scorer, context: ScoringContext, rows: Sequence[Row], *, tolerance: float = 1e-4) -> None:
    """Run every check of the scorer contract: identity, output, row by row in any batch, padding, determinism, workers, resume, device, refusals.

    Args:
        scorer: the instance to check; a second one of its class is made from its fields.
        context: a small model to check it on, with the checkpoints of a warm-up if the scorer reads one. The model is
            put in eval mode for good, and has its weights back at the end.
        rows: at least three ordinary rows, not all of one length, each with a token that carries loss after its first.
        tolerance: how far a row may be from itself in another batch, in units of its own Euclidean norm (the absolute
            value of a score), or of a hundredth of the rows' mean norm where that is more. The same batch again must
            give the same bits on a CPU, and the same rows within the tolerance on an accelerator.
    """
    check_identity(scorer, "scorers")
    check_numbers(scorer, context, rows, tolerance=tolerance)


def check_numbers(scorer: Scorer, context: ScoringContext, rows: Sequence[Row], *, tolerance: float = 1e-4) -> None:
    """The checks of `check_scorer` that look at what a scorer computes, for one that is no method of its own."""
    if context.model is None or len(rows) < 3 or len({len(row.input_ids) for row in rows}) < 2:
        raise ConfigError("check_scorer needs a context with a model, and at least three rows that are not all of one length")
    if scorer.warmup and not context.checkpoints:
        raise ConfigError(f"{scorer.name} reads the checkpoints of a warm-up; give check_scorer a context that has some")
    kinds = get_args(Output)
    require(getattr(scorer, "output", "") in kinds, f"{scorer.name}: its class must say whether its output is {', '.join(kinds[:-1])} or {kinds[-1]}")
    context.model.model.eval()
    before = Weights(context.model, trained=True)
    watched = Watched(scorer, context.model, context if scorer.warmup else replace(context, checkpoints=()), tolerance)
    try:
        watched.prepare(rows)
        for role in watched.roles:
            _check_rows(watched, rows, role)
        _check_determinism(watched, rows)
        _check_workers(watched, rows)
        _check_device(watched, rows)
        _check_refusal(watched, rows)
    finally:
        before.restore()


def _check_rows(watched: Watched, rows: Sequence[Row], role: Role) -> None:
    import torch

    name, batch = f"{watched.scorer.name} ({role})", watched.model.batch
    longer = _longer(rows, _positions(watched.model))
    together = watched(batch(rows), role)
    padded = watched(_padded(batch(rows), len(longer.input_ids)), role)
    require(watched.same(padded, together), f"{name}: more padding, or another token in it, changes a row")
    alone = torch.cat([watched(batch([row]), role) for row in rows])
    require(watched.same(alone, together), f"{name}: a row alone differs from the same row in a batch")
    turned = watched(batch([*rows[1:], rows[0]]), role)
    require(watched.same(turned.roll(1, 0), together), f"{name}: another order of the batch changes a row")
    beside = watched(batch([*rows, longer]), role)
    require(watched.same(beside[:-1], together), f"{name}: a much longer neighbour changes a row")


def _positions(model: "LanguageModel") -> int:
    """How long a row can be."""
    return int(getattr(getattr(model.model, "config", None), "max_position_embeddings", None) or 2**16)


def _longer(rows: Sequence[Row], positions: int) -> Row:
    """The longest row four times over, as far as the model reads."""
    longest = max(rows, key=lambda row: len(row.input_ids))
    length = max(len(longest.input_ids), min(4 * len(longest.input_ids), positions))
    return Row(np.resize(longest.input_ids, length), np.resize(longest.supervised, length), Written(longest.content.turns * 4, longest.content.fields))


def _padded(batch: Batch, width: int) -> Batch:
    """The same rows, padded to `width` tokens with a token that the rows use."""
    from torch.nn.functional import pad

    more = (0, width - batch.input_ids.shape[1])
    mask = pad(batch.mask, more)
    ids = pad(batch.input_ids, more).masked_fill(~mask, int(batch.input_ids.max()))
    return replace(batch, input_ids=ids, mask=mask, supervised=pad(batch.supervised, more))


def _check_determinism(watched: Watched, rows: Sequence[Row]) -> None:
    import torch

    name, batch = watched.scorer.name, watched.model.batch(rows)
    first = watched(batch, seed=5)

    def require_again(promise: str, scorer: Scorer | None = None) -> None:
        again = watched(batch, seed=5, scorer=scorer)
        require(again.equal(first) if watched.model.device == "cpu" else watched.same(again, first), f"{name}: {promise}")

    require_again("the same call twice gives different bits")
    for role in reversed(watched.roles):
        watched(watched.model.batch(rows[::-1]), role, seed=6)
    require_again("a call with another seed, role or batch changes what the next one gives")
    require_again("an instance with equal fields gives other numbers", type(watched.scorer).model_validate(watched.scorer.model_dump()))
    if watched.scorer.warmup:
        with torch.no_grad():
            for parameter in watched.model.names.values():
                parameter.zero_()
        require_again("depends on the weights that the model held before, not on the checkpoints alone")


def _check_workers(watched: Watched, rows: Sequence[Row]) -> None:
    """Shards computed elsewhere, or after a restart: by another copy of the scorer, with its state read back from bytes, last shard first."""
    import torch

    half = len(rows) // 2
    shards = [watched.model.batch(rows[:half]), watched.model.batch(rows[half:])]
    here = [watched(shard) for shard in shards]
    other = watched.elsewhere()
    there = [other(shard) for shard in reversed(shards)][::-1]
    equal = torch.equal if watched.model.device == "cpu" else watched.same
    same = all(equal(found, wanted) for found, wanted in zip(there, here, strict=True))
    require(same, f"{watched.scorer.name}: another worker, or the same after a restart, gives other numbers for the same shard")


def _check_device(watched: Watched, rows: Sequence[Row]) -> None:
    """The same rows on the CPU and on an accelerator, where there is one."""
    import torch

    if not torch.cuda.is_available():
        return
    batch = rows[: max(2, len(rows) // 2)]
    wanted = watched(watched.model.batch(batch)).cpu()
    with watched.on("cuda" if watched.model.device == "cpu" else "cpu") as other:
        found = other(other.model.batch(batch)).cpu()
    require(replace(watched, tolerance=_DEVICE * watched.tolerance).same(found, wanted), f"{watched.scorer.name}: another device gives other numbers")


def _check_refusal(watched: Watched, rows: Sequence[Row]) -> None:
    if not watched.scorer.warmup:
        return
    promise = f"{watched.scorer.name}: must refuse a context without checkpoints with a CurateError of one line"
    require_refusal(promise, lambda: watched.scorer.score(watched.model.batch(rows), replace(watched.context, checkpoints=())))
