"""Lazy greedy against the naive greedy and against every subset, on weighted set cover, where ties abound."""

from itertools import combinations

import numpy as np
import pytest

from curate.greedy import lazy_greedy


class Cover:
    """f(S) = the weight of the elements that some row of S covers; stale bounds are those of the empty set."""

    def __init__(self, covers: np.ndarray, weights: np.ndarray) -> None:
        self.covers, self.weights, self.calls = covers.astype(bool), weights, 0
        self.reset()

    def reset(self) -> None:
        self.held = np.zeros(self.covers.shape[1], bool)

    @property
    def value(self) -> float:
        return float(self.weights[self.held].sum())

    def upper(self) -> np.ndarray:
        return np.asarray(self.covers @ self.weights)

    def gains(self, rows: np.ndarray) -> np.ndarray:
        self.calls += len(rows)
        return np.asarray((self.covers[rows] & ~self.held) @ self.weights)

    def add(self, row: int) -> None:
        self.held |= self.covers[row]

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
