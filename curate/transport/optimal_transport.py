"""The cost of moving uniform mass over K kept rows to uniform mass over M target rows, between proven bounds, with the potential of each row."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.core import Floats
from curate.errors import NumericError
from curate.transport.sinkhorn import Potentials, sinkhorn

_BLUR = 0.01  # entropic regularisation as a share of the mean cost, for problems too large to solve exactly
_TOLERANCE = 1e-4
_BLOCK = 2048

Wide = NDArray[np.float64]


@dataclass(frozen=True)
class Plan:
    """A feasible plan: its cost, what no plan costs less than, feasible dual potentials, and how far the solver's plan missed the marginals."""

    cost: float
    lower: float  # the dual value of the potentials: mean of the rows' + mean of the columns'
    rows: Wide  # (K,)
    columns: Wide  # (M,)
    residual: float
    exact: bool


def transport(costs: Floats, exact_limit: int, start: Wide | None = None) -> Plan:
    """min over plans P >= 0 with row sums 1/K and column sums 1/M of <P, costs> for costs (K, M).

    Up to `exact_limit` entries by the network simplex; beyond, by Sinkhorn from the columns' potentials `start` if there are any, its plan
    rounded to one that meets both marginals (Altschuler et al., 2017), so that the cost is still an upper bound on the
    optimum. Weak duality: potentials with f_i + g_j <= c_ij everywhere cost no plan more than mean f + mean g, and those of either
    solver are made feasible first. A row of large potential is dear to serve: without it the optimal cost would fall.
    """
    k, m = np.shape(costs)
    if k * m > exact_limit:
        found = sinkhorn(costs, blur_of(costs), start=start, tolerance=_TOLERANCE)
        rows, columns = feasible(costs, found.columns)
        cost = _rounded_cost(np.asarray(costs, np.float32), blur_of(costs), found)
        return Plan(cost, float(rows.mean() + columns.mean()), rows, columns, found.residual, False)
    import ot

    wide = np.ascontiguousarray(costs, np.float64)
    a, b = np.full(k, 1 / k), np.full(m, 1 / m)
    plan, log = ot.emd(a, b, wide, numItermax=100_000_000, log=True)
    if log["warning"]:
        raise NumericError(f"optimal transport of {k} rows to {m} target rows was not solved: {log['warning']}")
    rows, columns = feasible(wide, np.asarray(log["v"]))
    residual = float(np.abs(plan.sum(axis=1) - a).sum() + np.abs(plan.sum(axis=0) - b).sum())
    return Plan(float(log["cost"]), float(rows.mean() + columns.mean()), rows, columns, residual, True)


def blur_of(costs: Floats) -> float:
    """The regularisation of these costs."""
    return _BLUR * float(np.mean(costs, dtype=np.float64)) or 1.0


def feasible(costs: Floats, columns: Wide) -> tuple[Wide, Wide]:
    """The largest potentials of the rows under these of the columns, then the largest of the columns under those: never a smaller dual value."""
    rows = np.concatenate([(costs[at] - columns).min(axis=1) for at in _blocks(costs)])
    raised = np.full(len(columns), np.inf)
    for at in _blocks(costs):
        raised = np.minimum(raised, (costs[at] - rows[at, None]).min(axis=0))
    return rows, raised


def _rounded_cost(costs: NDArray[np.float32], blur: float, found: Potentials) -> float:
    """What the entropic plan costs once rows, then columns, that carry too much are scaled down and the rest is spread as a product."""
    k, m = costs.shape
    spilled, fits = np.zeros(m), np.empty(k)
    for at in _blocks(costs):
        plan = _entropic(costs[at], blur, found.rows[at], found.columns)
        fits[at] = np.minimum(1.0, 1 / (k * np.maximum(plan.sum(axis=1), 1e-300)))
        spilled += fits[at] @ plan
    shrink = np.minimum(1.0, 1 / (m * np.maximum(spilled, 1e-300)))
    short = 1 / m - spilled * shrink
    total, missing, dear = 0.0, 0.0, 0.0
    for at in _blocks(costs):
        plan = _entropic(costs[at], blur, found.rows[at], found.columns) * fits[at, None] * shrink
        gap = 1 / k - plan.sum(axis=1)
        total += float((plan * costs[at]).sum())
        missing += float(gap.sum())
        dear += float(gap @ (costs[at] @ short))
    return total + (dear / missing if missing > 0 else 0.0)


def _entropic(costs: NDArray[np.float32], blur: float, rows: Wide, columns: Wide) -> Wide:
    return np.asarray(np.exp(np.minimum((rows[:, None] + columns - costs) / blur, 0.0)))


def _blocks(costs: Floats) -> list[slice]:
    return [slice(start, start + _BLOCK) for start in range(0, len(costs), _BLOCK)]
