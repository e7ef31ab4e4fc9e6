"""Lazy greedy over any monotone submodular objective, for unit costs and for budgets, with a proof of how far it is from the optimum.

The objective supplies gains; this module knows nothing else of it.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from curate.core import Floats, Integers
from curate.order import best_first

_BATCH = 8
_FREE = 1e-9  # a row that costs nothing is as good as bought: its gain per cost only has to be huge and finite


class Objective(Protocol):
    """A monotone submodular set function with f(empty) = 0 that remembers the set S of the rows added so far."""

    def reset(self) -> None:
        """Empty S."""

    @property
    def value(self) -> float:
        """f(S) of the rows added so far."""

    def upper(self) -> Floats:
        """(N,) numbers not below the current gains; those of an earlier, smaller set will do."""

    def gains(self, rows: Integers) -> Floats:
        """(B,) exactly f(S + row) - f(S) for these rows."""

    def add(self, row: int) -> None:
        """Put a row into S."""


@dataclass(frozen=True)
class Greedy:
    """The rows in the order taken, what each added, f of them all, and a number that no set within the budget exceeds."""

    order: Integers
    gains: NDArray[np.float64]
    value: float
    bound: float


def lazy_greedy(objective: Objective, costs: Integers, capacity: int) -> Greedy:
    """Rows by gain per cost until nothing fits, exactly those of the naive greedy, ties by the lower row.

    Minoux's lazy evaluation: gains only shrink, so a stale gain is an upper bound, and the best row is known once no
    stale bound is above it; stale rows are refreshed a batch at a time. Guarantees f >= (1 - 1/e) OPT for unit costs
    (Nemhauser et al., 1978); with costs the better of greedy and of the best single row that fits, which gives
    (1 - 1/e) / 2 (Leskovec et al., 2007), and the rest of the budget is filled greedily. The bound is
    min over t of f(S_t) + the most that gains at step t could add within the whole budget.

    Args:
        objective: emptied first; what it holds afterwards is not promised.
        costs: (N,) non-negative.
        capacity: what the kept rows may cost together.
    """
    greedy = _climb(objective, costs, capacity, first=None)
    if len(greedy.order) == 0 or np.ptp(costs) == 0:
        return greedy
    objective.reset()
    single = _best(objective, np.array(objective.upper()), costs <= capacity, np.ones(len(costs)))
    if float(objective.gains(np.asarray([single]))[0]) > greedy.value:
        return _climb(objective, costs, capacity, first=single)
    return greedy


def _climb(objective: Objective, costs: Integers, capacity: int, first: int | None) -> Greedy:
    objective.reset()
    price = np.maximum(costs, _FREE)
    free = np.ones(len(costs), np.bool_)
    upper = np.full(len(costs), np.inf)
    order: list[int] = []
    gains: list[float] = []
    left, bound = capacity, np.inf
    while True:
        np.minimum(upper, objective.upper(), out=upper)
        upper[~free] = 0.0
        if _worth_bounding(len(order)):
            bound = min(bound, objective.value + _most(upper, costs, capacity))
        fits = free & (costs <= left)
        if not fits.any():
            break
        row = first if first is not None and not order else _best(objective, upper, fits, price)
        gains.append(float(objective.gains(np.asarray([row]))[0]))
        objective.add(row)
        order.append(row)
        free[row] = False
        left -= int(costs[row])
    value = objective.value
    bound = max(value, min(bound, value + _most(upper, costs, capacity)))
    return Greedy(np.asarray(order, np.int64), np.asarray(gains), value, bound)


def _best(objective: Objective, upper: NDArray[np.float64], fits: NDArray[np.bool_], price: NDArray[np.float64]) -> int:
    """The row of the largest gain per price, ties by the lower row; refreshes entries of `upper` in place."""
    keys = np.where(fits, upper / price, -np.inf)
    best, top = len(keys), -np.inf
    while True:
        rows = best_first(keys, _BATCH)
        rows = rows[(keys[rows] > top) | ((keys[rows] == top) & (rows < best))]
        rows = rows[keys[rows] > -np.inf]
        if len(rows) == 0:
            return best
        upper[rows] = objective.gains(rows)
        fresh = upper[rows] / price[rows]
        keys[rows] = -np.inf
        for row, value in zip(rows.tolist(), fresh.tolist(), strict=True):
            if value > top or (value == top and row < best):
                best, top = row, value


def _worth_bounding(step: int) -> bool:
    """Any step gives a valid bound; the powers of two keep the cost at O(N log K)."""
    return step & (step - 1) == 0


def _most(upper: Floats, costs: Integers, capacity: int) -> float:
    """The fractional knapsack optimum of these gains: no set within the capacity gains more (by submodularity)."""
    gains = np.where(costs <= capacity, np.maximum(upper, 0.0), 0.0)
    if len(costs) and np.ptp(costs) == 0 and costs[0] > 0:
        return float(gains[best_first(gains, capacity // int(costs[0]))].sum())
    order = best_first(np.where(costs <= capacity, gains / np.maximum(costs, _FREE), -1.0))
    before = np.cumsum(costs[order]) - costs[order]
    share = np.clip((capacity - before) / np.maximum(costs[order], _FREE), 0.0, 1.0)
    share[costs[order] == 0] = 1.0
    return float((share * gains[order]).sum())
