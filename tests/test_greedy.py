"""Lazy greedy against the naive greedy and against every subset, on weighted set cover, where ties abound."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest

from curate import greedy as greedy_module
from curate.greedy import Naive, climb, lazy_greedy
from curate.submodular.bound import knapsack, prefixes, recomputed
from curate.submodular.objective import Objective


class Cover(Objective):
    """f(S) = the weight of the elements that some row of S covers; stale bounds are those of the empty set."""

    def __init__(self, covers: np.ndarray, weights: np.ndarray) -> None:
        self.covers, self.weights, self.calls = covers.astype(bool), weights, 0
        self.reset()

    def reset(self) -> None:
        self.times = np.zeros(self.covers.shape[1], int)

    @property
    def held(self) -> np.ndarray:
        return self.times > 0

    @property
    def value(self) -> float:
        return float(self.weights[self.held].sum())

    def upper(self, rows: np.ndarray | None = None) -> np.ndarray:
        return np.asarray((self.covers if rows is None else self.covers[rows]) @ self.weights)

    def gains(self, rows: np.ndarray) -> np.ndarray:
        self.calls += len(rows)
        return np.asarray((self.covers[rows] & ~self.held) @ self.weights)

    def add(self, row: int) -> None:
        self.times = self.times + self.covers[row]

    def drop(self, row: int) -> None:
        self.times = self.times - self.covers[row]

    def after(self, sets: Sequence[np.ndarray]) -> list[tuple[float, np.ndarray]]:
        found = []
        for rows in sets:
            held = self.covers[rows].any(axis=0)
            found.append((float(self.weights[held].sum()), np.asarray((self.covers & ~held) @ self.weights)))
        return found

    def of(self, rows: tuple[int, ...]) -> float:
        return float(self.weights[self.covers[list(rows)].any(axis=0)].sum()) if rows else 0.0


def cover(n: int, seed: int, chance: float = 0.3) -> Cover:
    rng = np.random.default_rng(seed)
    return Cover(rng.random((n, 12)) < chance, rng.integers(1, 4, 12).astype(float))


def naive(objective: Cover, costs: np.ndarray, capacity: int) -> list[int]:
    """Gain per cost, ties by the lower row, until nothing fits."""
    objective.reset()
    order: list[int] = []
    while True:
        fits = [row for row in range(len(costs)) if row not in order and costs[row] <= capacity]
        if not fits:
            return order
        row = max(fits, key=lambda r: (objective.gains(np.asarray([r]))[0] / costs[r], -r))
        objective.add(row)
        order.append(row)
        capacity -= costs[row]


def best(objective: Cover, costs: np.ndarray, capacity: int) -> float:
    subsets = (rows for size in range(len(costs) + 1) for rows in combinations(range(len(costs)), size))
    return max(objective.of(rows) for rows in subsets if costs[list(rows)].sum() <= capacity)


@pytest.mark.parametrize("seed", range(20))
def test_lazy_takes_the_rows_of_naive_greedy_pick_for_pick(seed: int) -> None:
    objective = cover(40, seed)
    for capacity in (1, 5, 40):
        assert lazy_greedy(objective, np.ones(40, np.int64), capacity).order.tolist() == naive(objective, np.ones(40, np.int64), capacity)


@pytest.mark.parametrize("seed", range(20))
def test_greedy_keeps_its_guarantee_and_its_bound_holds(seed: int) -> None:
    objective, ones = cover(10, seed), np.ones(10, np.int64)
    for k in (1, 3, 4):
        greedy, optimum = lazy_greedy(objective, ones, k), best(objective, ones, k)
        assert greedy.value == pytest.approx(objective.of(tuple(greedy.order.tolist())))
        assert greedy.gains.sum() == pytest.approx(greedy.value)
        assert (1 - 1 / np.e) * optimum <= greedy.value + 1e-9
        assert greedy.value <= optimum + 1e-9 <= greedy.bound + 2e-9


@pytest.mark.parametrize("seed", range(20))
def test_with_costs_greedy_stays_within_its_guarantee_bound_and_budget(seed: int) -> None:
    objective, costs = cover(10, seed), np.random.default_rng(seed + 100).integers(0, 9, 10)
    for capacity in (0, 4, 11, 20):
        greedy, optimum = lazy_greedy(objective, costs, capacity), best(objective, costs, capacity)
        assert costs[greedy.order].sum() <= capacity
        assert (1 - 1 / np.e) / 2 * optimum <= greedy.value + 1e-9
        assert optimum <= greedy.bound + 1e-9
        left_out = np.setdiff1d(np.arange(10), greedy.order)
        assert all(costs[left_out] > capacity - costs[greedy.order].sum())


@pytest.mark.parametrize("seed", range(10))
def test_with_costs_lazy_is_naive_cost_benefit_greedy_or_beats_it(seed: int) -> None:
    objective, costs = cover(30, seed), np.random.default_rng(seed).integers(1, 9, 30)
    expected = naive(objective, costs, 25)
    greedy = lazy_greedy(objective, costs, 25)
    assert greedy.order.tolist() == expected or greedy.value > objective.of(tuple(expected))


def test_one_dear_row_that_beats_all_the_cheap_ones_is_taken() -> None:
    objective = Cover(np.asarray([[True] + [False] * 11, [False] + [True] * 11]), np.ones(12))
    costs = np.asarray([1, 20])
    assert naive(objective, costs, 20) == [0]
    greedy = lazy_greedy(objective, costs, 20)
    assert greedy.order.tolist() == [1]
    assert greedy.value == 11


def test_lazy_asks_for_fewer_gains_than_naive() -> None:
    sparse = cover(300, 0, chance=0.1)
    sparse.calls = 0
    lazy_greedy(sparse, np.ones(300, np.int64), 8)
    assert sparse.calls < 300 * 8 / 2


@pytest.mark.parametrize("seed", range(6))
def test_a_short_front_of_rows_takes_the_same_rows_as_the_whole_pool(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    objective, costs = cover(60, seed), np.random.default_rng(seed).integers(1, 6, 60)
    for prices, capacity in ((np.ones(60, np.int64), 30), (costs, 70)):
        monkeypatch.setattr(greedy_module, "_FRONT", 3)
        short = climb(objective, prices, capacity)
        monkeypatch.undo()
        assert short.order.tolist() == naive(objective, prices, capacity) == climb(objective, prices, capacity, Naive).order.tolist()


@pytest.mark.parametrize("seed", range(10))
def test_the_bound_of_the_pass_is_the_bound_of_the_definition(seed: int) -> None:
    objective, costs = cover(30, seed), np.random.default_rng(seed).integers(0, 6, 30)
    for prices, capacity in ((np.ones(30, np.int64), 7), (costs, 20), (np.full(30, 3), 20)):
        greedy = climb(objective, prices, capacity)
        assert recomputed(objective, greedy.order, prices, capacity) == pytest.approx((greedy.value, greedy.bound))


def test_the_bounded_prefixes_reach_their_share_of_the_budget_first() -> None:
    assert prefixes(np.arange(1, 17), 16) == [0, 1, 2, 3, 4, 6, 8, 12, 16]
    assert prefixes(np.asarray([9, 10]), 16) == [0, 1, 2]
    assert prefixes(np.zeros(0, np.int64), 16) == [0]
    spent = np.cumsum(np.random.default_rng(0).integers(0, 9, 50))
    expected = {next(t for t in range(1, 51) if 16 * spent[t - 1] >= share * 200) for share in (1, 2, 3, 4, 6, 8, 12) if 16 * spent[-1] >= share * 200}
    assert prefixes(spent, 200) == sorted({0, 50} | expected)


@pytest.mark.parametrize("seed", range(20))
def test_the_knapsack_bound_is_the_optimum_of_the_linear_programme(seed: int) -> None:
    from scipy.optimize import linprog

    rng = np.random.default_rng(seed)
    gains, costs, capacity = rng.normal(size=9), rng.integers(0, 6, 9), int(rng.integers(1, 14))
    open_rows = np.where(costs <= capacity, 1.0, 0.0)
    best = -linprog(-gains, A_ub=costs[None, :], b_ub=[capacity], bounds=[(0, top) for top in open_rows]).fun
    assert knapsack(gains, costs, capacity) == pytest.approx(best)
    assert knapsack(gains, np.full(9, 3), 8, unit=3) == pytest.approx(np.maximum(np.sort(gains)[-2:], 0).sum())
