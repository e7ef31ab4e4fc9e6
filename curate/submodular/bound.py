"""An upper bound on every set within a budget, from the gains that are left after a prefix of a selection.

For f monotone and submodular and O any set within the budget, f(O) <= f(S + O) <= f(S) + the sum over O of the gains beyond S,
for any S: so the most that gains can add up to within the whole budget bounds the optimum, and every prefix S gives such a bound.
The tightest is often a prefix well before the end: late gains are small, but the budget multiplies them all.
"""

import numpy as np

from curate.core import Floats, Integers
from curate.order import best_first
from curate.submodular.objective import Objective

FREE = 1e-9  # a row that costs nothing is as good as bought: its gain per cost only has to be huge and finite
SIXTEENTHS = (1, 2, 3, 4, 6, 8, 12)  # of the budget: where prefixes are bounded, besides the empty one and the last


def prefixes(spent: Integers, capacity: int) -> list[int]:
    """The lengths of the prefixes that are bounded, for rows whose costs add up to `spent` (K,): when each share is first reached."""
    reached = np.searchsorted(16 * spent, np.asarray(SIXTEENTHS) * capacity) + 1
    return sorted({0, len(spent), *(int(length) for length in reached if length <= len(spent))})


def knapsack(gains: Floats, costs: Integers, capacity: int, *, unit: int = 0) -> float:
    """The fractional knapsack optimum of these gains: no set within the capacity adds up to more.

    `unit` is what every row of the pool costs, if they all cost the same: then only whole rows count.
    """
    worth = np.where(costs <= capacity, np.maximum(gains, 0.0), 0.0)
    if unit:
        return float(worth[best_first(worth, capacity // unit)].sum())
    order = best_first(np.where(costs <= capacity, worth / np.maximum(costs, FREE), -1.0))
    before = np.cumsum(costs[order]) - costs[order]
    share = np.clip((capacity - before) / np.maximum(costs[order], FREE), 0.0, 1.0)
    share[costs[order] == 0] = 1.0
    return float((share * worth[order]).sum())


def unit_cost(costs: Integers) -> int:
    """What every row costs, or 0 if they differ or are free."""
    return int(costs[0]) if len(costs) and np.ptp(costs) == 0 else 0


def most_rows(costs: Integers, capacity: int) -> int:
    """How many rows a set within the capacity can have."""
    return int(np.searchsorted(np.cumsum(np.sort(costs)), capacity, side="right"))


def counts(objective: Objective, length: int, widest: int) -> bool:
    """Whether a prefix of this length bounds the optimum; the empty one does even where rows can lower f."""
    return length == 0 or objective.monotone(length + widest)


def recomputed(objective: Objective, rows: Integers, costs: Integers, capacity: int) -> tuple[float, float]:
    """(f, bound) of rows in the order they were taken, from the definition of the objective alone."""
    if not objective.submodular:
        return objective.value_of(rows), objective.value_of(np.arange(len(costs)))
    lengths = prefixes(np.cumsum(costs[rows]), capacity)
    found = objective.after([rows[:length] for length in lengths])
    widest = most_rows(costs, capacity)
    valid = [
        value + knapsack(gains, costs, capacity, unit=unit_cost(costs))
        for length, (value, gains) in zip(lengths, found, strict=True)
        if counts(objective, length, widest)
    ]
    return found[-1][0], max(found[-1][0], min(valid))
