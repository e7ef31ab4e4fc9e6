"""The rows of every step: a pure function of the rows, the settings and the seed, and of the losses seen where training prunes."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.core import Integers, Row, Strings
from curate.randomness import uniform
from curate.settings import Optimizer
from curate.training.pruning import Pruning


@dataclass(frozen=True)
class TrainingSet:
    """The rows of one run, with the weight of each row's loss."""

    ids: Strings
    rows: Sequence[Row]
    lengths: Integers
    weights: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.ids)

    def only(self, rows: Integers) -> "TrainingSet":
        """These rows of the set."""
        return TrainingSet(self.ids[rows], [self.rows[int(row)] for row in rows], self.lengths[rows], self.weights[rows])


def supervised_tokens(rows: Iterable[Row]) -> int:
    """How many tokens of these rows carry loss: the first of a row has nothing before it."""
    return sum(int(row.supervised[1:].sum()) for row in rows)


@dataclass(frozen=True)
class Step:
    """One step of the optimizer: which rows, what their losses are multiplied by, and where the learning rate stands."""

    rows: Integers  # (B,) positions in the training set
    factors: NDArray[np.float32]  # (B,)
    position: float  # in steps of the plan
    denominator: float | None = None  # what the sum of losses is divided by, where it is not the step's own tokens


def plan_steps(data: TrainingSet, settings: Optimizer, seed: int, *, tokens: int | None = None, steps: int | None = None) -> list[Integers]:
    """The rows of every step: whole epochs, or as many batches as reach `tokens` tokens or `steps` steps.

    Every epoch visits each row once, in an order drawn from (seed, epoch, row id).
    """
    plan: list[Integers] = []
    seen, epoch = 0, 0
    while len(data.ids):
        if tokens is None and steps is None and epoch == settings.epochs:
            break
        for batch in epoch_batches(data, np.arange(len(data)), settings, seed, epoch):
            if (tokens is not None and seen >= tokens) or (steps is not None and len(plan) >= steps):
                return plan
            plan.append(batch)
            seen += int(data.lengths[batch].sum())
        epoch += 1
    return plan


def epoch_batches(data: TrainingSet, rows: Integers, settings: Optimizer, seed: int, epoch: int) -> list[Integers]:
    """These rows in the order of one epoch, cut into batches."""
    order = rows[np.argsort(uniform(seed, f"training epoch {epoch}", data.ids[rows]), kind="stable")]
    return [order[start : start + settings.batch_size] for start in range(0, len(order), settings.batch_size)]


def walk(
    data: TrainingSet, plan: Sequence[Integers], settings: Optimizer, seed: int, pruning: Pruning | None, seen: NDArray[np.float32]
) -> Iterator[Step]:
    """The steps of a run. With pruning, an epoch visits part of the rows, chosen by `seen`, the loss that each row had last (NaN: not seen yet).

    Pruned epochs are as many as the plan's, and the learning rate falls over them as it does over the plan's. Where the
    method's factors make an epoch's gradient unbiased, the sum of losses is divided by a constant, the supervised tokens of
    an average batch: dividing by the tokens of the rows that happened to stay would bring a bias back.
    """
    if pruning is None:
        for number, rows in enumerate(plan):
            yield Step(rows, np.ones(len(rows), np.float32), float(number))
        return
    epochs = sum(map(len, plan)) / len(data)
    usual = settings.batch_size * supervised_tokens(data.rows) / len(data)
    number = 0
    while number < epochs:
        visit = pruning.epoch(number, epochs, seen.copy(), data.ids, seed)
        factors = np.zeros(len(data), np.float32)
        factors[visit.rows] = visit.factors
        batches = epoch_batches(data, visit.rows, settings, seed, number)
        for place, rows in enumerate(batches):
            done = (number + place / len(batches)) / epochs
            if done >= 1:
                return
            yield Step(rows, factors[rows], done * len(plan), usual if pruning.rescales else None)
        number += 1
