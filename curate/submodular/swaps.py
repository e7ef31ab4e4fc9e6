"""Local search: exchange one kept row for one that was left out while the objective rises."""

import numpy as np

from curate.core import Floats, Integers
from curate.greedy import climb
from curate.order import best_first
from curate.submodular.objective import Objective

_LEAST = 1e-9  # of f: a smaller rise may be rounding, and exchanges could go round in a circle
_BATCH = 16


def improved(objective: Objective, costs: Integers, capacity: int, order: Integers, most: int) -> Integers:
    """The rows after at most `most` exchanges, each the best there is, best first again; never worth less than `order`.

    An exchange of u for v changes f by the gain of v beyond S - u less what u is worth; for monotone submodular f it cannot be more than
    the gain of v beyond S, so one look at all gains rules out most of the pairs. Alone, for monotone submodular f and budgets in
    rows, a set that no exchange improves is worth half the optimum (Nemhauser et al., 1978).
    """
    rows, start = order, objective.value_of(order)
    for _ in range(most):
        pair = _best_exchange(objective, costs, capacity, rows)
        if pair is None:
            break
        rows = np.append(rows[rows != pair[0]], pair[1])
    if len(rows) == 0 or rows is order:
        return order
    among = np.zeros(len(costs), np.bool_)
    among[rows] = True
    ranked = climb(objective, costs, capacity, among=among)
    filled = climb(objective, costs, capacity, first=ranked.order)
    return filled.order if filled.value > start else order


def _best_exchange(objective: Objective, costs: Integers, capacity: int, rows: Integers) -> tuple[int, int] | None:
    """The (row out, row in) of the largest rise, ties by the lower rows; None if there is none."""
    objective.reset()
    for row in rows.tolist():
        objective.add(row)
    out = np.ones(len(costs), np.bool_)
    out[rows] = False
    others = np.flatnonzero(out)
    if len(others) == 0:
        return None
    beyond = objective.gains(others) if objective.submodular and objective.monotone(len(rows) + 1) else np.full(len(others), np.inf)
    value, left = objective.value, capacity - int(costs[rows].sum())
    top, pair = _LEAST * abs(value), None
    for row in np.sort(rows).tolist():
        may = beyond > top
        objective.drop(row)
        found = _best_entry(objective, others[may], beyond[may], value, top, costs, left + int(costs[row]))
        objective.add(row)
        if found is not None:
            pair, top = (row, found[0]), found[1]
    return pair


def _best_entry(objective: Objective, rows: Integers, beyond: Floats, value: float, top: float, costs: Integers, left: int) -> tuple[int, float] | None:
    """The row that lifts f above `value` the most, if by more than `top`, and by how much."""
    fits = costs[rows] <= left
    rows, beyond = rows[fits], beyond[fits]
    lost = value - objective.value
    most = np.minimum(beyond, objective.upper(rows) - lost)
    best = None
    order = best_first(most)
    for start in range(0, len(rows), _BATCH):
        part = order[start : start + _BATCH]
        if most[part[0]] <= top:
            break
        rises = objective.gains(rows[part]) - lost
        for row, rise in sorted(zip(rows[part].tolist(), rises.tolist(), strict=True)):
            if rise > top:
                best, top = (row, rise), rise
    return best
