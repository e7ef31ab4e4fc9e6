"""How much of a budget each cell of kinds may spend, so that all quotas hold and the method's own choice is changed as little as can be.

A cell is a combination of kinds (source x language x length band). With x_c spent in cell c, what a cell holds a_c, the method's own spending u_c,
and quotas low_q <= sum_{c in q} x_c <= high_q, three programmes are solved one after the other: the smallest shortfall from the least amounts, which
must be zero; the largest total within the budget; and, at that total, the smallest sum_c |x_c - u_c|. Rows are whole numbers (mixed-integer, HiGHS).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.errors import DataError

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Limit:
    """At least `low` and at most `high` units over some cells."""

    name: str  # such as language=de
    cells: NDArray[np.bool_]  # (C,)
    low: float
    high: float


def allot(held: Numbers, own: Numbers, limits: Sequence[Limit], capacity: float, *, unit: str, whole: bool) -> Numbers:
    """(C,) what to spend in each cell; DataError that names the quotas that cannot hold, and by how much.

    Args:
        held: (C,) what each cell could spend at most.
        own: (C,) what the method would spend there.
        limits: quotas.
        capacity: of the budget.
        unit: rows or tokens, for the message.
        whole: whether spending is in whole numbers.
    """
    programme = _Programme(held, own, limits, whole)
    spending, short, moved = programme.costs()
    least = programme.solve(short, 0, capacity, shortfall=np.inf)[1]
    if least.sum() > 1e-6:
        _infeasible(limits, least, programme.member @ held, capacity, unit)
    best = programme.solve(-spending, 0, capacity, shortfall=0.0)[0].sum()
    spent = programme.solve(moved, best - 1e-6 * max(1.0, best), capacity, shortfall=0.0)[0]
    return np.rint(spent) if whole else spent


class _Programme:
    """Over (x_c, shortfall of each quota, |x_c - u_c|): the quotas, softened by the shortfalls, and what makes the last part absolute values."""

    def __init__(self, held: Numbers, own: Numbers, limits: Sequence[Limit], whole: bool) -> None:
        self.cells, self.quotas = len(held), len(limits)
        self.member = np.array([limit.cells for limit in limits], float).reshape(self.quotas, self.cells)
        self.held, self.whole = held, whole
        low, high = np.array([limit.low for limit in limits]), np.array([limit.high for limit in limits])
        same, none = np.eye(self.cells), np.zeros((self.cells, self.quotas))
        at_most = np.hstack([self.member, np.zeros((self.quotas, self.quotas + self.cells))])
        at_least = np.hstack([self.member, np.eye(self.quotas), np.zeros((self.quotas, self.cells))])
        self.matrix = np.vstack([at_most, at_least, np.hstack([same, none, -same]), np.hstack([-same, none, -same])])
        far = np.full(2 * self.cells, -np.inf)
        self.low = np.concatenate([np.full(self.quotas, -np.inf), low, far])
        self.high = np.concatenate([high, np.full(self.quotas, np.inf), own, -own])

    def costs(self) -> tuple[Numbers, Numbers, Numbers]:
        """What adds up the spending, the shortfalls, and the changes."""
        parts = np.repeat([0, 1, 2], [self.cells, self.quotas, self.cells])
        return (parts == 0).astype(float), (parts == 1).astype(float), (parts == 2).astype(float)

    def solve(self, cost: Numbers, least: float, most: float, *, shortfall: float) -> tuple[Numbers, Numbers]:
        """(x, shortfalls) of smallest cost with a total between `least` and `most`."""
        from scipy.optimize import Bounds, LinearConstraint, milp

        total = self.costs()[0]
        upper = np.concatenate([self.held, np.full(self.quotas, shortfall), np.full(self.cells, np.inf)])
        constraints = [LinearConstraint(self.matrix, self.low, self.high), LinearConstraint(total[None], least, most)]
        found = milp(cost, constraints=constraints, bounds=Bounds(np.zeros(len(upper)), upper), integrality=total * self.whole)
        if found.x is None:
            raise DataError(f"rules.quotas: the solver found no allotment ({found.message}); loosen a min or a max")
        return found.x[: self.cells], found.x[self.cells : self.cells + self.quotas]


def _infeasible(limits: Sequence[Limit], short: Numbers, held: Numbers, capacity: float, unit: str) -> None:
    worst = int(np.argmax(short))
    limit = limits[worst]
    if limit.low > held[worst] + 1e-9:
        raise DataError(f"rules.quotas: at least {limit.low:g} {unit} of {limit.name} are asked for, but the pool has {held[worst]:g}; lower that min")
    lows = [f"{one.name} {one.low:g}" for one in limits if one.low > 0]
    raise DataError(
        f"rules.quotas: the least amounts cannot all hold within {capacity:g} {unit} ({', '.join(lows[:6])}{', ...' if len(lows) > 6 else ''}); "
        f"{limit.name} falls short by {short[worst]:g}: lower a min, raise a max of rows that count for both, or raise the budget"
    )
