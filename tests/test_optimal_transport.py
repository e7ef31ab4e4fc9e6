"""Transport costs against linear programming, and Sinkhorn against POT, down to a blur at which nothing but log-domain arithmetic or absorption survives."""

import numpy as np
import ot
import pytest
from numpy.typing import NDArray
from scipy.optimize import linprog

from curate.transport.optimal_transport import blur_of, feasible, transport
from curate.transport.sinkhorn import Potentials, sinkhorn

Wide = NDArray[np.float64]


def costs_of(k: int, m: int, seed: int = 0, width: int = 8) -> Wide:
    rng = np.random.default_rng(seed)
    rows, columns = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (rng.normal(size=(k, width)), rng.normal(size=(m, width)) + 0.5))
    return np.asarray(np.sqrt(np.maximum(2 - 2 * rows @ columns.T, 0)))


def program(costs: Wide) -> float:
    """The transport optimum as a linear program."""
    k, m = costs.shape
    rows, columns = np.kron(np.eye(k), np.ones(m)), np.kron(np.ones(k), np.eye(m))
    solved = linprog(costs.ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.concatenate([np.full(k, 1 / k), np.full(m, 1 / m)]))
    return float(solved.fun)


def plan_of(found: Potentials, costs: Wide, blur: float) -> Wide:
    return np.asarray(np.exp((found.rows[:, None] + found.columns - costs) / blur))


@pytest.mark.parametrize(("k", "m"), [(7, 4), (3, 9), (1, 5), (5, 1), (6, 6)])
def test_the_exact_cost_is_that_of_the_linear_program_and_its_duals_prove_it(k: int, m: int) -> None:
    for seed in range(4):
        costs = costs_of(k, m, seed)
        plan = transport(costs, k * m)
        assert plan.exact and plan.cost == pytest.approx(program(costs), abs=1e-9)
        assert plan.lower == pytest.approx(plan.cost, abs=1e-9) and plan.residual < 1e-12
        assert (plan.rows[:, None] + plan.columns <= costs + 1e-9).all()


@pytest.mark.parametrize(("k", "m"), [(7, 4), (3, 9), (60, 20), (1, 5)])
def test_beyond_the_limit_cost_and_dual_value_enclose_the_optimum_closely(k: int, m: int) -> None:
    for seed in range(4):
        costs = costs_of(k, m, seed)
        rough, true = transport(costs, 0), float(ot.emd2([], [], costs))
        assert not rough.exact and rough.residual <= 1e-3
        assert 0.99 * true <= rough.lower <= true + 1e-6 <= rough.cost + 2e-6
        assert rough.cost <= 1.02 * true
        assert (rough.rows[:, None] + rough.columns <= costs + 1e-6).all()


def test_any_columns_are_made_feasible_and_bound_every_plan() -> None:
    costs = costs_of(30, 12)
    optimum = program(costs)
    for seed in range(5):
        rows, columns = feasible(costs, np.random.default_rng(seed).normal(size=12))
        assert (rows[:, None] + columns <= costs + 1e-9).all()
        assert rows.mean() + columns.mean() <= optimum + 1e-9
        slack = costs - rows[:, None] - columns
        assert np.allclose(slack.min(axis=0), 0, atol=1e-9) and np.allclose(slack.min(axis=1), 0, atol=1e-9)


@pytest.mark.parametrize("iterations", [1, 2, 5, 400])
def test_a_plan_is_rounded_to_the_marginals_however_far_it_is_from_them(monkeypatch: pytest.MonkeyPatch, iterations: int) -> None:
    costs, a, b = costs_of(30, 12), np.full(30, 1 / 30), np.full(12, 1 / 12)
    found = sinkhorn(costs, blur_of(costs), tolerance=0.0, most=iterations)
    plan = plan_of(found, costs, blur_of(costs))
    plan = plan * np.minimum(1, a / plan.sum(axis=1))[:, None]
    plan = plan * np.minimum(1, b / plan.sum(axis=0))
    rows, columns = a - plan.sum(axis=1), b - plan.sum(axis=0)
    plan = plan + np.outer(rows, columns) / rows.sum()
    assert np.allclose(plan.sum(axis=0), b) and np.allclose(plan.sum(axis=1), a)
    monkeypatch.setattr("curate.transport.optimal_transport.sinkhorn", lambda *_, **__: found)
    assert transport(costs, 0).cost == pytest.approx(float((plan * costs).sum()), rel=1e-6)


def test_leaving_out_the_row_of_largest_potential_lowers_the_cost_and_that_of_smallest_raises_it() -> None:
    lower, higher = [], []
    for seed in range(30):
        costs = costs_of(12, 5, seed)
        plan = transport(costs, 60)
        without = [transport(np.delete(costs, row, axis=0), 60).cost for row in (int(plan.rows.argmax()), int(plan.rows.argmin()))]
        lower.append(without[0] < plan.cost)
        higher.append(without[1] > plan.cost)
    assert np.mean(lower) > 0.9 and np.mean(higher) > 0.9


@pytest.mark.parametrize("blur", [0.3, 0.02, 0.003])
def test_sinkhorn_gives_the_plan_of_log_domain_sinkhorn(blur: float) -> None:
    costs = costs_of(40, 15)
    found = sinkhorn(costs, blur, tolerance=1e-5, most=20_000)
    theirs = ot.bregman.sinkhorn_log(np.full(40, 1 / 40), np.full(15, 1 / 15), costs, blur, numItermax=200_000, stopThr=1e-9, warn=False)
    plan = plan_of(found, costs, blur)
    assert np.allclose(plan, theirs, atol=2e-5) and found.residual <= 1e-5
    assert np.allclose(plan.sum(axis=1), 1 / 40, atol=2e-5) and np.allclose(plan.sum(axis=0), 1 / 15, atol=1e-5)


def test_at_a_blur_where_every_kernel_entry_underflows_the_cost_is_the_exact_one() -> None:
    costs = 1 + costs_of(60, 20)
    blur = 2e-4
    assert np.exp(-costs / blur).max() == 0
    found = sinkhorn(costs, blur, tolerance=1e-4, most=20_000)
    assert float((plan_of(found, costs, blur) * costs).sum()) == pytest.approx(float(ot.emd2([], [], costs)), rel=1e-3)


def test_scalings_that_run_away_are_absorbed_and_change_nothing() -> None:
    rng = np.random.default_rng(4)
    costs = costs_of(30, 10) + 4 * rng.random(10)
    cold = sinkhorn(costs, 0.01, tolerance=1e-5, most=20_000)
    for far in (2.0, 200.0, 1e6):
        warm = sinkhorn(costs, 0.01, start=far * rng.normal(size=10), tolerance=1e-5, most=20_000)
        assert np.allclose(plan_of(warm, costs, 0.01), plan_of(cold, costs, 0.01), atol=2e-5)


@pytest.mark.parametrize("kept", [5, 20, 50])
def test_capped_sinkhorn_keeps_row_sums_and_signs_and_nears_the_linear_program(kept: int) -> None:
    costs, blur = costs_of(50, 8), 0.005
    found = sinkhorn(costs, blur, mass=1 / kept, tolerance=1e-4, most=20_000)
    plan = plan_of(found, costs, blur)
    sums = plan.sum(axis=1)
    assert sums.max() <= 1 / kept + 1e-6 and found.rows.max() <= 1e-9
    assert np.allclose(sums[found.rows < -1e-3], 1 / kept, rtol=1e-3)
    assert np.abs(plan.sum(axis=0) - 1 / 8).sum() <= 1e-3
    rows, columns = np.kron(np.eye(50), np.ones(8)), np.kron(np.ones(50), np.eye(8))
    solved = linprog(costs.ravel(), A_ub=rows, b_ub=np.full(50, 1 / kept), A_eq=columns, b_eq=np.full(8, 1 / 8))
    assert float((plan * costs).sum()) == pytest.approx(solved.fun, rel=1e-2)


def test_costs_of_zero_are_no_exception() -> None:
    nothing = np.zeros((4, 3))
    assert blur_of(nothing) > 0
    assert transport(nothing, 0).cost == pytest.approx(0, abs=1e-12) and transport(nothing, 12).cost == 0
