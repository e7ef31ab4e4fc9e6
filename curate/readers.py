"""Readers of a pass that several scorers use: means over answer tokens, pooled hidden states, gradient norms."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from curate.core import Checkpoint
from curate.dynamics import Transitions, correct
from curate.fisher import empirical, kronecker
from curate.gradients import LayerGradient
from curate.interfaces import Batch, ScoringContext
from curate.passes import Forward, Reader, Wanted
from curate.woodbury import FirstPass

Weights = Sequence[Checkpoint | None]


class TokenMeans(Reader):
    """(B,) the mean over sets of weights of the mean over a row's answer tokens of a number per token."""

    def __init__(self, weights: Weights, of: Callable[[Forward], Tensor], finish: Callable[[Tensor], Tensor] = lambda means: means) -> None:
        self.weights, self.of, self.finish = weights, of, finish
        self.means: dict[int, Tensor] = {}  # by number: other readers may have the passes come in another order

    def see(self, seen: Forward, number: int) -> None:
        self.means[number] = seen.row_means(self.of(seen))

    def result(self) -> Tensor:
        return self.finish(torch.stack([self.means[number] for number in range(len(self.weights))]).mean(0))


class ForgettingEvents(Reader):
    """(B,) the mean over a row's answer tokens of the times that its greedy prediction went from right to wrong between sets of weights."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.right: dict[int, Tensor] = {}
        self.seen: Forward | None = None

    def see(self, seen: Forward, number: int) -> None:
        self.right[number] = correct(seen.logits, seen.labels)
        self.seen = Forward(seen.batch, None, torch.empty(0), seen.labels, seen.row)  # a slice would keep all logits

    def result(self) -> Tensor:
        if self.seen is None:
            raise ValueError("a reader of answers was shown none")
        tokens = torch.arange(len(self.seen.row))
        transitions = Transitions(len(tokens))
        for number in range(len(self.weights)):
            transitions.update(tokens, self.right[number])
        return self.seen.row_means(transitions.forgetting().float().to(self.seen.row.device))


class PooledStates(Reader):
    """(B, H) the unit vector along the position-weighted mean of a row's last hidden states."""

    wants: ClassVar[frozenset[Wanted]] = frozenset({"hidden"})

    def __init__(self, batch: Batch) -> None:
        positions = torch.cumsum(batch.mask.float(), 1) * batch.mask
        self.share = positions / positions.sum(1, keepdim=True)
        self.pooled = torch.empty(0)

    def see(self, seen: Forward, number: int) -> None:
        if seen.hidden is None:
            raise ValueError("a reader of hidden states was shown none")
        pooled = torch.einsum("bt,btd->bd", self.share, seen.hidden.float())
        self.pooled = torch.nn.functional.normalize(pooled, dim=1)

    def result(self) -> Tensor:
        return self.pooled


class GradientNorms(Reader):
    """(B,) the root of the mean over sets of weights of the squared norm of a row's gradient."""

    wants: ClassVar[frozenset[Wanted]] = frozenset({"gradients"})

    def __init__(self, weights: Weights, modules: str | Sequence[str]) -> None:
        self.weights, self.modules = weights, modules
        self.squares: dict[int, Tensor] = {}

    def take(self, layer: LayerGradient, number: int) -> None:
        self.squares[number] = self.squares[number] + layer.squared_norms if number in self.squares else layer.squared_norms

    def result(self) -> Tensor:
        return torch.stack([self.squares[number] for number in range(len(self.weights))]).mean(0).sqrt().float()


class QuadraticForms(Reader):
    """(B,) the mean over sets of weights of g^T F^-1 g, with the curvature of the context's state."""

    wants: ClassVar[frozenset[Wanted]] = frozenset({"gradients"})

    def __init__(self, weights: Weights, modules: str | Sequence[str], kind: str, context: ScoringContext) -> None:
        self.weights, self.modules, self.kind, self.context = weights, modules, kind, context
        self.sums: dict[int, Tensor] = {}
        self.products: dict[int, FirstPass] = {}

    def take(self, layer: LayerGradient, number: int) -> None:
        if self.kind == "woodbury":
            if number not in self.products:
                self.products[number] = FirstPass(empirical(self.context.state, number))
            self.products[number].add(layer.name, layer.dense.flatten(1))
            return
        found = kronecker(self.context.state, number, layer.name).quadratic(layer.name, layer.dense)
        self.sums[number] = self.sums.get(number, torch.zeros_like(found)) + found

    def result(self) -> Tensor:
        of = (lambda number: self.products[number].quadratic(held_out=True)) if self.kind == "woodbury" else self.sums.__getitem__
        return torch.stack([of(number) for number in range(len(self.weights))]).mean(0).float()  # not in the order that the passes came in
