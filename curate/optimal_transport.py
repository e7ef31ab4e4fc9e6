"""The cost of moving uniform mass over K kept rows to uniform mass over M target rows, with the potential of each kept row."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.core import Floats
from curate.errors import NumericError

_BLUR = 0.01  # entropic regularisation as a share of the mean cost, for problems too large to solve exactly


@dataclass(frozen=True)
class Plan:
    """A feasible plan: its cost, the dual potentials (K,) of the kept rows, and whether the cost is the exact optimum."""

    cost: float
    potentials: NDArray[np.float64]
    exact: bool


def transport(costs: Floats, exact_limit: int) -> Plan:
    """min over plans P >= 0 with row sums 1/K and column sums 1/M of <P, costs> for costs (K, M).

    Up to `exact_limit` entries by the network simplex; beyond, by log-domain Sinkhorn, its plan rounded to one that
    meets both marginals (Altschuler et al., 2017), so that the cost is still an upper bound on the optimum. A row of large
    potential is dear to serve: without it the optimal cost would fall.
    """
    import ot

    wide = np.ascontiguousarray(costs, np.float64)
    k, m = wide.shape
    a, b = np.full(k, 1 / k), np.full(m, 1 / m)
    if k * m <= exact_limit:
        _, log = ot.emd(a, b, wide, numItermax=100_000_000, log=True)
        if log["warning"]:
            raise NumericError(f"optimal transport of {k} rows to {m} target rows was not solved: {log['warning']}")
        return Plan(float(log["cost"]), np.asarray(log["u"]), True)
    blur = _BLUR * float(wide.mean()) or 1.0
    plan, log = ot.bregman.sinkhorn_log(a, b, wide, reg=blur, numItermax=1000, stopThr=1e-6, warn=False, log=True)
    return Plan(float((_rounded(plan, a, b) * wide).sum()), blur * np.asarray(log["log_u"]), False)


def _rounded(plan: NDArray[np.float64], a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    plan = plan * np.minimum(1.0, a / plan.sum(axis=1))[:, None]
    plan = plan * np.minimum(1.0, b / plan.sum(axis=0))[None, :]
    short_a, short_b = a - plan.sum(axis=1), b - plan.sum(axis=0)
    missing = float(short_a.sum())
    result: NDArray[np.float64] = plan + np.outer(short_a, short_b) / missing if missing > 0 else plan
    return result
