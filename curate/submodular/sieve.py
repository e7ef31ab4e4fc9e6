"""Sieve-streaming: one pass over the rows in a random order, each kept or let go for good by every one of a few sieves."""

from copy import copy
from math import ceil, floor, log

import numpy as np
from numpy.typing import NDArray

from curate.core import Integers
from curate.randomness import draw
from curate.submodular.bound import FREE, unit_cost
from curate.submodular.objective import Objective

_BATCH = 256


class _Sieve:
    """Keeps a row whose gain per price is at least `least` when it passes."""

    def __init__(self, objective: Objective, least: float, costs: Integers, capacity: int) -> None:
        self.objective, self.least, self.costs, self.left = copy(objective), least, costs, capacity
        self.objective.reset()
        self.order: list[int] = []

    def pour(self, rows: Integers) -> None:
        while len(rows):
            rows = rows[self.costs[rows] <= self.left]
            if len(rows) == 0:
                return
            rows = rows[self.objective.gains(rows) / np.maximum(self.costs[rows], FREE) >= self.least]
            if len(rows):
                self.objective.add(int(rows[0]))
                self.order.append(int(rows[0]))
                self.left -= int(self.costs[rows[0]])
                rows = rows[1:]


def sieve(objective: Objective, costs: Integers, capacity: int, keys: NDArray[np.uint64], epsilon: float) -> list[int]:
    """The rows of the best sieve, or the best single row; within 1/2 - e of the optimum in rows, 1/3 - e in tokens.

    For each guess v of the optimum, on a grid of ratio 1 + e, a sieve keeps rows whose gain per cost is at least a v /
    capacity, with a = 1/2 for rows (Badanidiyuru et al., 2014) and 2/3 for tokens: either some row that was worth it did not
    fit, and the budget was spent at that rate, or no row left out was worth it. Guesses follow the best single row seen so far.
    """
    whole = unit_cost(costs)
    size, ease = (capacity // whole * whole, 1 / 2) if whole else (capacity, 2 / 3)
    objective.reset()
    singles, prices = np.asarray(objective.upper(), np.float64), np.maximum(costs, FREE)
    stream = np.argsort(draw(keys), kind="stable")
    stream = stream[costs[stream] <= capacity]
    sieves: dict[int, _Sieve] = {}
    best, rate, single = 0.0, 0.0, -1
    step = log(1 + epsilon)
    for start in range(0, len(stream), _BATCH):
        rows = stream[start : start + _BATCH]
        if singles[rows].max() > best:
            single, best = int(rows[np.argmax(singles[rows])]), float(singles[rows].max())
        rate = max(rate, float((singles[rows] / prices[rows]).max()))
        if best <= 0:
            continue
        guesses = range(ceil(log(best) / step), floor(log(rate * size / ease) / step) + 1)
        sieves = {guess: sieves.get(guess) or _Sieve(objective, ease * (1 + epsilon) ** guess / size, costs, capacity) for guess in guesses}
        for held in sieves.values():
            held.pour(rows)
    fullest = max(sieves.values(), key=lambda held: held.objective.value, default=None)
    if fullest is None or fullest.objective.value < best:
        return [single] if single >= 0 else []
    return fullest.order
