"""Rows of large dual potential make room for rows that would have a small one, as long as transport gets cheaper."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.core import Floats, Integers
from curate.transport.optimal_transport import Plan, transport

_TRIALS = 50
_WORTH = 1e-9
_NEAR = 1e-3  # a cost this close to the bound, relative to it, is not worth a trial


@dataclass(frozen=True)
class Exchange:
    """The set of least cost that was seen, ascending, with its plan, and the least cost after each trial."""

    rows: Integers
    plan: Plan
    costs: NDArray[np.float64]


def worth_improving(cost: float, bound: float) -> bool:
    """Whether a cost is further than a thousandth above what no set undercuts."""
    return cost > bound * (1 + _NEAR) + _WORTH


def exchange(costs: Floats, kept: Integers, bound: float, exact_limit: int) -> Exchange:
    """Swaps rows between the kept (K,) and the rest of costs (R, M) while the transport cost W falls.

    With optimal duals (f, g) of the kept rows, f_i = min_j (c_ij - g_j) is also what a row outside would have, and swapping i for i' changes W by at
    least (f_i' - f_i) / K: only a row of smaller f can help, and where none has one the set is the best there is. So the
    largest f are swapped for the smallest outside, as many as promise to help, half as many each time that W does not
    fall, until one swap does not help. At most 50 transports of K x M.
    """
    rows = np.sort(kept)
    plan = transport(costs[rows], exact_limit)
    seen = [plan.cost]
    step = len(rows)
    while worth_improving(plan.cost, bound) and len(seen) <= _TRIALS:
        reduced = (costs - plan.columns).min(axis=1)
        out = np.setdiff1d(np.arange(len(costs)), rows)
        leaving = rows[np.argsort(-reduced[rows], kind="stable")][: len(out)]
        coming = out[np.argsort(reduced[out], kind="stable")][: len(leaving)]
        step = min(step, int((reduced[leaving] > reduced[coming] + _WORTH).sum()))
        if step == 0:
            break
        tried = np.union1d(np.setdiff1d(rows, leaving[:step]), coming[:step])
        found = transport(costs[tried], exact_limit)
        if found.cost < plan.cost - _WORTH:
            rows, plan = tried, found
        else:
            step //= 2
        seen.append(plan.cost)
    return Exchange(rows, plan, np.asarray(seen))
