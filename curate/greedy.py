"""Greedy over any set function: one pass takes rows and proves how far from the optimum it can be; how the next row is picked is apart."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from curate.core import Floats, Integers
from curate.order import best_first
from curate.submodular.bound import FREE, SIXTEENTHS, counts, knapsack, most_rows, unit_cost
from curate.submodular.objective import Objective

_BATCH = 8
_FRONT = 4096  # rows that compete closely: a pick looks at these, and at the whole pool only when they fall behind it


@dataclass(frozen=True)
class Greedy:
    """The rows in the order taken, what each added, f of them all, and a number that no set within the budget exceeds."""

    order: Integers
    gains: NDArray[np.float64]
    value: float
    bound: float


class Climb:
    """Rows taken one after the other within a capacity, with the best bound that any prefix gave."""

    def __init__(self, objective: Objective, costs: Integers, capacity: int, among: NDArray[np.bool_] | None = None) -> None:
        self.objective, self.costs, self.capacity, self.left = objective, costs, capacity, capacity
        self.price = np.maximum(costs, FREE)
        self.open = np.ones(len(costs), np.bool_) if among is None else among.copy()  # rows that may still be taken
        self.order: list[int] = []
        self._upper = np.full(len(costs), np.inf)
        self._free = np.ones(len(costs), np.bool_)
        self._gains: list[float] = []
        self._bound = np.inf
        self._shares = list(SIXTEENTHS)
        self._widest, self._unit = most_rows(costs, capacity), unit_cost(costs)
        objective.reset()
        self._tighten()

    def fitting(self) -> Integers:
        """The rows that may be taken now."""
        return np.flatnonzero(self.open & (self.costs <= self.left))

    def keys(self, rows: Integers) -> Floats:
        """(B,) the most that each row can gain per price, as far as is known without asking again."""
        stale = self.objective.upper(rows)
        if self.objective.submodular:
            stale = self._upper[rows] = np.minimum(self._upper[rows], stale)
        return np.asarray(stale / self.price[rows])

    def refreshed(self, rows: Integers) -> Floats:
        """(B,) the gain of each row per price."""
        self._upper[rows] = self.objective.gains(rows)
        return np.asarray(self._upper[rows] / self.price[rows])

    def take(self, row: int) -> None:
        self._gains.append(float(self.objective.gains(np.asarray([row]))[0]))
        self.objective.add(row)
        self.order.append(row)
        self.open[row] = self._free[row] = False
        self.left -= int(self.costs[row])
        reached = [share for share in self._shares if 16 * (self.capacity - self.left) >= share * self.capacity]
        if reached:
            del self._shares[: len(reached)]
            self._tighten()

    def finish(self) -> Greedy:
        self._tighten()
        value = self.objective.value
        return Greedy(np.asarray(self.order, np.int64), np.asarray(self._gains), value, max(value, self._bound))

    def _tighten(self) -> None:
        if not self.objective.submodular:
            self._bound = self.objective.value_of(np.arange(len(self.costs))) if self._bound == np.inf else self._bound
        elif counts(self.objective, len(self.order), self._widest):
            self._bound = min(self._bound, self.objective.value + self._residual())

    def _residual(self) -> float:
        """`knapsack` of the exact gains of all rows, of which only those are taken again that could be in it."""
        rows = np.flatnonzero(self._free & (self.costs <= self.capacity))
        keys = np.maximum(self.keys(rows), 0.0)
        order = best_first(keys)
        rows, keys, costs = rows[order], keys[order], self.costs[rows[order]]
        known, size = 0, int(np.searchsorted(np.cumsum(costs), self.capacity)) + 2
        while known < len(rows):
            size = min(size, len(rows))
            self.refreshed(rows[known:size])
            fresh = self._upper[rows[:size]]
            certain = np.ones(size, np.bool_) if size == len(rows) else fresh / self.price[rows[:size]] >= keys[size]
            if size == len(rows) or costs[:size][certain].sum() >= self.capacity:
                return knapsack(fresh[certain], costs[:size][certain], self.capacity, unit=self._unit)
            known, size = size, 2 * size
        return 0.0


class Picker(Protocol):
    """Chooses the next row of a climb."""

    def __call__(self) -> int | None:
        """A row that fits; None if none does."""


class Lazy:
    """The row of the largest gain per price, ties by the lower row, without asking for all gains (Minoux, 1978).

    Gains only shrink, so a stale gain is an upper bound, and the best row is known once no stale bound is above it. The
    rows of the largest bounds stand in front; the others are looked at only when the best in front falls behind them.
    """

    def __init__(self, climb: Climb) -> None:
        self._climb = climb
        self._front = np.zeros(0, np.int64)
        self._floor, self._edge = np.inf, 0  # the largest key that is not in front, and the lowest row that has it

    def __call__(self) -> int | None:
        while True:
            front = self._front
            front = front[self._climb.open[front] & (self._climb.costs[front] <= self._climb.left)]
            if len(front):
                row, key = self._best(front)
                if key > self._floor or (key == self._floor and row < self._edge):
                    return row
            if not self._refill():
                return None

    def _best(self, rows: Integers) -> tuple[int, float]:
        keys = self._climb.keys(rows)
        best, top, size = len(self._climb.costs), -np.inf, _BATCH
        while True:
            ahead = best_first(keys, size)
            ahead = ahead[(keys[ahead] > top) | ((keys[ahead] == top) & (rows[ahead] < best))]
            ahead = ahead[keys[ahead] > -np.inf]
            if len(ahead) == 0:
                return best, top
            fresh = self._climb.refreshed(rows[ahead])
            keys[ahead] = -np.inf
            lead = float(fresh.max())
            row = int(rows[ahead[fresh == lead]].min())
            if lead > top or (lead == top and row < best):
                best, top = row, lead
            size = min(2 * size, 512)

    def _refill(self) -> bool:
        rows = self._climb.fitting()
        keys = self._climb.keys(rows)
        order = best_first(keys, _FRONT + 1)
        self._front = np.sort(rows[order[:_FRONT]])
        self._floor, self._edge = (float(keys[order[-1]]), int(rows[order[-1]])) if len(order) > _FRONT else (-np.inf, len(self._climb.costs))
        return len(rows) > 0


class Naive:
    """The same row, by asking for the gain of every row that fits: what lazy evaluation is held against."""

    def __init__(self, climb: Climb) -> None:
        self._climb = climb

    def __call__(self) -> int | None:
        rows = self._climb.fitting()
        return int(rows[np.argmax(self._climb.refreshed(rows))]) if len(rows) else None


def climb(
    objective: Objective,
    costs: Integers,
    capacity: int,
    picker: Callable[[Climb], Picker] = Lazy,
    *,
    first: Iterable[int] = (),
    among: NDArray[np.bool_] | None = None,
) -> Greedy:
    """Take `first` in this order, then what the picker says until nothing (of `among`) fits."""
    run = Climb(objective, costs, capacity, among)
    for row in first:
        run.take(row)
    pick = picker(run)
    while (best := pick()) is not None:
        run.take(best)
    return run.finish()


def guarded(objective: Objective, costs: Integers, capacity: int, picker: Callable[[Climb], Picker] = Lazy) -> Greedy:
    """Rows by gain per cost until nothing fits, or the best single row and what fits beside it, if that row alone is worth more.

    f >= (1 - 1/e) OPT for unit costs (Nemhauser et al., 1978), (1 - 1/e) / 2 with costs (Leskovec et al., 2007), for
    monotone submodular f and a picker of the best row; gain per cost alone can be arbitrarily bad.
    """
    greedy = climb(objective, costs, capacity, picker)
    if len(greedy.order) == 0 or np.ptp(costs) == 0:
        return greedy
    single = climb(objective, np.where(costs <= capacity, 1, 2), 1)
    return climb(objective, costs, capacity, picker, first=single.order) if single.value > greedy.value else greedy


def lazy_greedy(objective: Objective, costs: Integers, capacity: int) -> Greedy:
    """`guarded` with lazy evaluation: exactly the rows of the naive greedy, ties by the lower row.

    Args:
        objective: emptied first; what it holds afterwards is not promised.
        costs: (N,) non-negative.
        capacity: what the kept rows may cost together.
    """
    return guarded(objective, costs, capacity, Lazy if objective.submodular else Naive)
