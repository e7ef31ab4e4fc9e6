"""The conformance suite notices a scorer that another worker, or the same after a restart, would get other numbers from."""

from collections.abc import Iterable
from typing import ClassVar, Literal

import pytest
import torch
from torch import Tensor

from curate.core import Row
from curate.interfaces import Batch, Scorer, ScoringContext
from curate.testing import Nonconforming, check_scorer


class Honest(Scorer):
    """The mean of a row's tokens."""

    name: Literal["honest"] = "honest"
    output: ClassVar[Literal["vectors", "scores"]] = "scores"
    reads: ClassVar[Literal["text", "tokens", "logits", "hidden", "gradients"]] = "tokens"

    def score(self, batch: Batch, context: ScoringContext) -> Tensor:
        return (batch.input_ids * batch.mask).sum(1).float() / batch.mask.sum(1)


class Counting(Honest):
    """Scores by the order in which its shards come."""

    calls: ClassVar[list[int]] = [0, 0]

    def score(self, batch: Batch, context: ScoringContext) -> Tensor:
        mean = super().score(batch, context)
        if len(batch.mask) == 4:  # a shard of the nine rows
            self.calls[0] += 1
        return mean * (1.0 + 1e-5 * (self.calls[0] > 1))


class Local(Honest):
    """Depends on being the very object that was prepared."""

    def prepare(self, sample: Iterable[Batch], context: ScoringContext) -> dict[str, Tensor]:
        return {"made": torch.tensor([float(id(self) % 1000)])}

    def score(self, batch: Batch, context: ScoringContext) -> Tensor:
        mine = context.state is not None and float(context.state["made"]) == id(self) % 1000
        return super().score(batch, context) * (1.0 if mine or len(batch.mask) not in (4, 5) else 1.00001)


@pytest.mark.parametrize("broken", [Counting, Local])
def test_another_worker_or_a_restart_is_seen(broken: type[Scorer], base: ScoringContext, some_rows: list[Row]) -> None:
    check_scorer(Honest(), base, some_rows)
    with pytest.raises(Nonconforming, match="another worker, or the same after a restart"):
        check_scorer(broken(), base, some_rows)
