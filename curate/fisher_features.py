"""Exact inner products through the inverse of a sampled Fisher, each row of the sample left out of the Fisher that it meets."""

from collections.abc import Mapping

import torch
from torch import Tensor

from curate.fisher import empirical
from curate.gradient_features import ExactReader
from curate.gradient_scorer import GradientScorer
from curate.gradients import LayerGradient
from curate.interfaces import Batch, ScoringContext, State
from curate.woodbury import FirstPass


def halves(block: Mapping[str, Tensor], state: State | None, numbers: int) -> dict[str, Tensor]:
    """`number|half` (m, M): root^-1 G y of every target row, which with that of a pool row gives what the sample takes off their product."""
    found = {}
    for number in range(numbers):
        prefix, first = f"{number}/", FirstPass(empirical(state, number))
        for key, rows in block.items():
            if key.startswith(prefix):
                first.add(key.removeprefix(prefix), rows)
        found[f"{number}|half"] = first.half()
    return found


class HeldOutReader(ExactReader):
    """(B, M) x^T F^-1 y = (x . y - half(x)^T half(y)) / lambda, in one pass over the layers."""

    def __init__(self, scorer: GradientScorer, batch: Batch, context: ScoringContext, block: Mapping[str, Tensor]) -> None:
        super().__init__(scorer, batch, context, block)
        self.fishers = [empirical(context.state, number) for number in range(len(self.shares))]
        self.firsts = [FirstPass(fisher) for fisher in self.fishers]

    def take(self, layer: LayerGradient, number: int) -> None:
        rows = self.directed(layer, number)
        self.dots[number] += rows @ self.block[f"{number}/{layer.name}"].T
        self.firsts[number].add(layer.name, rows)

    def result(self) -> Tensor:
        total = torch.zeros_like(self.dots[0])
        for number, (share, fisher, first) in enumerate(zip(self.shares, self.fishers, self.firsts, strict=True)):
            taken = first.half(held_out=True).T @ self.block[f"{number}|half"]
            total += share * ((self.dots[number].double() - taken) / fisher.ridge).float() / self.lengths(number)
        return total
