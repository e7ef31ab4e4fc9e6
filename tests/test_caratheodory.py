"""Fewer rows keep every sum and the total weight, the even weights are positive and exact, and linear programming agrees on what can be met."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import linprog

from curate.caratheodory import caratheodory, even_weights

Matrix = NDArray[np.float64]


def sums(values: Matrix, weights: Matrix) -> Matrix:
    return np.asarray(np.concatenate([[weights.sum()], weights @ values]))


def least_weight(values: Matrix, wanted: Matrix) -> float | None:
    """The largest smallest weight among weights of sum one with the wanted means, by linear programming; None where there are none."""
    n = len(values)
    equal = np.concatenate([np.ones((n, 1)), values], axis=1).T
    equal = np.concatenate([equal, np.zeros((len(equal), 1))], axis=1)
    lower = np.concatenate([-np.eye(n), np.ones((n, 1))], axis=1)
    found = linprog([*np.zeros(n), -1.0], A_eq=equal, b_eq=[1.0, *wanted], A_ub=lower, b_ub=np.zeros(n), bounds=(0, 1))
    return float(-found.fun) if found.status == 0 else None


@pytest.mark.parametrize("seed", range(60))
def test_all_sums_and_the_total_weight_stay_on_few_rows(seed: int) -> None:
    generator = np.random.default_rng(seed)
    n, width, size = (int(generator.integers(*ends)) for ends in ((1, 400), (0, 12), (1, 60)))
    values, weights = generator.normal(size=(n, width)) * generator.exponential(size=width), generator.exponential(size=n)
    if seed % 3 == 0:
        values[n // 2 :] = values[: n - n // 2]  # copies
    if seed % 4 == 0 and width > 1:
        values[:, 1] = 2 * values[:, 0]  # a sum that says nothing new
    rows, kept = caratheodory(values, weights, size)
    assert len(rows) == min(n, max(size, width + 1)) == len(np.unique(rows)) and (kept > 0).all()
    scale = np.concatenate([[weights.sum()], weights @ np.abs(values)])
    assert (np.abs(sums(values[rows], kept) - sums(values, weights)) <= 1e-9 * scale).all()


def test_a_pool_that_is_small_enough_comes_back_as_it_was_without_its_weightless_rows() -> None:
    rows, kept = caratheodory(np.arange(8.0).reshape(4, 2), [2.0, 0.0, 1.0, 3.0], 3)
    assert rows.tolist() == [0, 2, 3] and kept.tolist() == [2.0, 1.0, 3.0]
    assert caratheodory(np.zeros((0, 2)), [], 5)[0].tolist() == []


def test_weights_that_reach_zero_together_leave_fewer_rows_but_the_same_sums() -> None:
    square = np.array([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    rows, kept = caratheodory(square, np.ones(4), 3)
    assert len(rows) == 2 and (square[rows[0]] == -square[rows[1]]).all() and kept.tolist() == pytest.approx([2, 2])


@pytest.mark.parametrize("seed", range(40))
def test_weights_are_even_positive_and_exact_wherever_linear_programming_finds_any(seed: int) -> None:
    generator = np.random.default_rng(seed)
    n, width = int(generator.integers(2, 14)), int(generator.integers(1, 6))
    values, wanted = generator.normal(size=(n, width)), 0.5 * generator.normal(size=width)
    weights, count = even_weights(values, wanted)
    assert (weights > 0).all() and weights.sum() == pytest.approx(1, abs=1e-12)
    assert np.abs(weights @ values[:, :count] - wanted[:count]).max(initial=0) <= 1e-9
    possible = [least_weight(values[:, :each], wanted[:each]) for each in range(width + 1)]
    assert count == max(each for each, least in enumerate(possible) if least is not None and least > 1e-9)


def test_the_even_weights_have_the_largest_entropy() -> None:
    from scipy.optimize import minimize

    generator = np.random.default_rng(0)
    values, wanted = generator.normal(size=(9, 2)), np.array([0.2, -0.3])
    weights, count = even_weights(values, wanted)
    met = [{"type": "eq", "fun": lambda w: w.sum() - 1}, {"type": "eq", "fun": lambda w: w @ values - wanted}]
    best = minimize(lambda w: np.sum(w * np.log(w)), np.full(9, 1 / 9), bounds=[(1e-9, 1)] * 9, constraints=met, options={"ftol": 1e-14, "maxiter": 500})
    assert count == 2 and np.abs(weights - best.x).max() < 1e-5


def test_where_nothing_is_asked_weights_are_equal() -> None:
    assert even_weights(np.zeros((4, 0)), np.zeros(0))[0].tolist() == [0.25] * 4
    assert even_weights(np.ones((1, 3)), np.zeros(3)) == (np.array([1.0]), 0)
    assert even_weights(np.ones((5, 2)), np.zeros(2))[1] == 0 and even_weights(np.ones((5, 2)), np.ones(2))[1] == 2


def test_what_caratheodory_leaves_can_always_be_weighted_evenly() -> None:
    for seed in range(30):
        generator = np.random.default_rng(seed)
        values = generator.exponential(size=(300, 7)) ** 2
        values = (values - values.mean(axis=0)) / values.std(axis=0)
        size = int(generator.integers(8, 40))
        rows, _ = caratheodory(values, np.ones(300), size)
        weights, count = even_weights(values[rows], np.zeros(7))
        assert count == 7 and np.abs(weights @ values[rows]).max() <= 1e-9
