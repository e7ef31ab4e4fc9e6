"""Choosing K rows by capacity transport, against linear programming and every subset; streamed, against the same in memory."""

from itertools import combinations
from typing import Any

import numpy as np
import ot
import pytest
from numpy.typing import NDArray
from scipy.optimize import linprog

from curate.transport.semidiscrete import choose_by_capacity, price


class Streamed:
    """Distances handed out in blocks; counts the passes and the most entries asked for at once."""

    def __init__(self, costs: NDArray[np.float64]) -> None:
        self.costs = costs.astype(np.float32)
        self.shape = costs.shape
        self.passes = self.largest = 0

    def blocks(self, size: int = 2048) -> Any:
        self.passes += 1
        for start in range(0, len(self.costs), min(size, 100)):
            yield start, self.costs[start : start + min(size, 100)]

    def of(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        self.largest = max(self.largest, len(rows) * self.shape[1])
        return self.costs[rows]


def mixture(n: int, m: int, kinds: int = 8, width: int = 8, seed: int = 0) -> Streamed:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(kinds, width))
    sides = [centres[rng.integers(many, size=size)] + 0.7 * rng.normal(size=(size, width)) for size, many in ((n, kinds), (m, 3))]
    rows, goal = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides)
    return Streamed(np.sqrt(np.maximum(2 - 2 * rows @ goal.T, 0)))


def cost(away: Streamed, rows: Any) -> float:
    return float(ot.emd2([], [], away.costs[np.asarray(rows)].astype(np.float64)))


def relaxation(away: Streamed, kept: int) -> float:
    """min <P, c> with column sums 1/M and row sums at most 1/K, by linear programming."""
    n, m = away.shape
    rows, columns = np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))
    solved = linprog(away.costs.ravel(), A_ub=rows, b_ub=np.full(n, 1 / kept), A_eq=columns, b_eq=np.full(m, 1 / m))
    return float(solved.fun)


@pytest.mark.parametrize(("n", "m", "kept"), [(10, 3, 3), (12, 2, 4), (11, 4, 4), (12, 1, 5)])
def test_where_the_targets_divide_the_kept_rows_the_rows_are_the_best_of_all_subsets(n: int, m: int, kept: int) -> None:
    for seed in range(8):
        away = mixture(n, m, seed=seed)
        found = choose_by_capacity(away, kept, exact_limit=10**6, hold=10**6)
        best = min(cost(away, some) for some in combinations(range(n), kept))
        assert cost(away, found.order[:kept]) == pytest.approx(best, abs=1e-7)
        assert found.bound == pytest.approx(best, abs=1e-7)


@pytest.mark.parametrize(("n", "m", "kept"), [(10, 4, 3), (40, 7, 10), (60, 5, 3), (30, 6, 30), (30, 6, 29)])
def test_the_bound_is_the_linear_program_and_no_subset_is_below_it(n: int, m: int, kept: int) -> None:
    for seed in range(3):
        away = mixture(n, m, seed=seed)
        found = choose_by_capacity(away, kept, exact_limit=10**6, hold=10**6)
        assert sorted(found.order.tolist()) == list(range(n))
        assert found.bound == pytest.approx(relaxation(away, kept), abs=1e-7)
        rng = np.random.default_rng(seed)
        others = [found.order[:kept], *(rng.permutation(n)[:kept] for _ in range(30))]
        assert found.bound <= min(cost(away, rows) for rows in others) + 1e-7


def test_any_duals_bound_every_subset() -> None:
    away = mixture(11, 4)
    subsets = [cost(away, some) for some in combinations(range(11), 4)]
    for seed in range(10):
        columns = np.random.default_rng(seed).normal(size=4)
        reduced, bound = price(away, columns, 4)
        assert np.allclose(reduced, (away.costs - columns).min(axis=1))
        assert bound <= min(subsets) + 1e-9


@pytest.mark.parametrize("exact_limit", [0, 10**6])
def test_rows_that_were_no_candidates_join_when_their_price_is_low_enough(monkeypatch: pytest.MonkeyPatch, exact_limit: int) -> None:
    """Six target rows compete for the same few rows, which are all that their lists hold."""
    rng = np.random.default_rng(0)
    away = Streamed(rng.random(300)[:, None] + 0.05 * rng.random((300, 6)))
    away.costs[:, 5] = rng.random(300)
    monkeypatch.setattr("curate.transport.semidiscrete._candidates", lambda distances, kept: np.unique(distances.costs.argsort(axis=0)[:30]))
    found = choose_by_capacity(away, 60, exact_limit=exact_limit, hold=10**6)
    assert found.bound == pytest.approx(relaxation(away, 60), abs=1e-7 if exact_limit else 5e-3)
    assert cost(away, found.order[:60]) == pytest.approx(found.bound, abs=1e-7 if exact_limit else 2e-2)


def test_lists_that_name_the_same_few_rows_are_filled_up_with_the_nearest_others() -> None:
    rng = np.random.default_rng(0)
    away = Streamed(np.repeat(np.sort(rng.random(300))[:, None], 6, axis=1))
    found = choose_by_capacity(away, 60, exact_limit=10**6, hold=10**6)
    assert sorted(found.order[:60].tolist()) == list(range(60))


def test_of_rows_with_equal_prices_those_that_the_plan_uses_are_kept() -> None:
    for seed in range(30):
        away = mixture(50, 10, seed=seed)
        found = choose_by_capacity(away, 10, exact_limit=10**6, hold=10**6)
        assert cost(away, found.order[:10]) == pytest.approx(found.bound, abs=1e-7)
        prices = (away.costs - found.columns).min(axis=1)
        assert prices[found.order[:10]].max() <= 1e-6 and prices[found.order[10:]].min() >= -1e-6


@pytest.mark.parametrize(("n", "m", "kept"), [(800, 10, 100), (800, 10, 95), (500, 40, 30)])
def test_capped_sinkhorn_chooses_almost_as_well_and_its_bound_is_almost_as_tight(n: int, m: int, kept: int) -> None:
    away = mixture(n, m)
    exact, rough = (choose_by_capacity(away, kept, exact_limit=limit, hold=10**7) for limit in (10**7, 0))
    chance = cost(away, np.random.default_rng(1).permutation(n)[:kept])
    assert rough.bound <= exact.bound + 1e-9
    assert chance - rough.bound <= 1.02 * (chance - exact.bound)
    assert cost(away, rough.order[:kept]) - exact.bound <= cost(away, exact.order[:kept]) - exact.bound + 0.04 * (chance - exact.bound)


@pytest.mark.parametrize("exact_limit", [0, 10**7])
def test_streaming_a_pool_whose_candidates_cannot_be_held_is_near_the_optimum_in_few_passes_and_little_memory(exact_limit: int) -> None:
    away = mixture(4000, 10)
    kept = 800
    whole = choose_by_capacity(away, kept, exact_limit=10**7, hold=10**7)
    away.passes = away.largest = 0
    hold = 8 * kept
    found = choose_by_capacity(away, kept, exact_limit=exact_limit, hold=hold)
    assert away.largest <= 2 * hold and away.passes <= 10
    assert sorted(found.order.tolist()) == list(range(4000))
    chance = cost(away, np.random.default_rng(1).permutation(4000)[:kept])
    assert found.bound <= whole.bound + 1e-9
    assert chance - found.bound <= 1.02 * (chance - whole.bound)
    assert cost(away, found.order[:kept]) - whole.bound <= 0.03 * (chance - whole.bound)


def test_streaming_serves_the_target_rows_more_evenly_than_the_thinner_pool_did(monkeypatch: pytest.MonkeyPatch) -> None:
    away = mixture(4000, 10)
    costs = []
    for ascents in (1, 8):
        monkeypatch.setattr("curate.transport.semidiscrete._ASCENTS", ascents)
        costs.append(cost(away, choose_by_capacity(away, 800, exact_limit=0, hold=6400).order[:800]))
    assert costs[1] < costs[0]


def test_rows_with_equal_distances_are_taken_in_order() -> None:
    away = Streamed(np.tile(np.linspace(0, 1, 10)[:, None], (4, 2)))
    order = choose_by_capacity(away, 8, exact_limit=0, hold=10**6).order[:8]
    assert sorted(order.tolist()) == [0, 1, 10, 11, 20, 21, 30, 31]
