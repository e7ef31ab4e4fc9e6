"""Transport against linear programming, every subset, and the symmetries of whitened distance."""

from itertools import combinations

import numpy as np
import pytest
from scipy.optimize import linprog

from curate.core import Budget, Features
from curate.errors import NumericError
from curate.optimal_transport import transport
from curate.selectors.transport import Transport
from curate.whitening import whitened_distances


def problem(n: int = 40, m: int = 4, width: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, width)) * np.arange(1, width + 1), rng.normal(size=(m, width)) + 1


def kept(pool: np.ndarray, goal: np.ndarray, k: int, **fields: object) -> list[int]:
    chosen = Transport.model_validate(fields).select(Features.from_arrays(vectors=pool), Budget(amount=k), target=Features.from_arrays(vectors=goal))
    return [int(row) for row in chosen.indices]


def program(costs: np.ndarray) -> float:
    """The transport optimum as a linear program."""
    k, m = costs.shape
    rows, columns = np.kron(np.eye(k), np.ones(m)), np.kron(np.ones(k), np.eye(m))
    solved = linprog(costs.ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.concatenate([np.full(k, 1 / k), np.full(m, 1 / m)]))
    return float(solved.fun)


def test_the_exact_cost_is_that_of_the_linear_program_and_sinkhorn_is_a_little_above() -> None:
    for seed in range(5):
        costs = np.random.default_rng(seed).random((7, 4))
        exact, rough = transport(costs, 28), transport(costs, 0)
        assert exact.exact and not rough.exact
        assert exact.cost == pytest.approx(program(costs), abs=1e-9)
        assert exact.cost - 1e-9 <= rough.cost <= 1.05 * exact.cost


def test_leaving_out_the_row_of_largest_potential_serves_the_target_better_than_that_of_smallest() -> None:
    better = []
    for seed in range(30):
        costs = np.random.default_rng(seed).random((12, 5))
        potentials = transport(costs, 60).potentials
        without = [transport(np.delete(costs, row, axis=0), 60).cost for row in (int(potentials.argmax()), int(potentials.argmin()))]
        better.append(without[0] < without[1])
    assert np.mean(better) > 0.9


def test_a_layer_that_does_not_fit_is_filled_with_the_rows_that_serve_the_target_well() -> None:
    margins = []
    for seed in range(20):
        pool, goal = problem(60, 8, seed=seed)
        rows = Features.from_arrays(vectors=pool)
        away = whitened_distances(rows, goal, 1e-3).T.astype(float)
        layer = np.unique(away.argmin(axis=0))
        if len(layer) <= 4:
            continue
        chosen = Transport().select(rows, Budget(amount=4), target=Features.from_arrays(vectors=goal))
        assert set(chosen.indices.tolist()) <= set(layer.tolist())
        every = [transport(away[list(some)], 32).cost for some in combinations(layer.tolist(), 4)]
        margins.append(np.mean(every) - transport(away[chosen.indices], 32).cost)
    assert len(margins) > 10
    assert np.mean(np.asarray(margins) > 0) >= 0.8


@pytest.mark.parametrize("seed", range(8))
def test_the_cost_lies_between_bound_and_random_with_the_optimum_in_between(seed: int) -> None:
    pool, goal = problem(10, 3, seed=seed)
    rows = Features.from_arrays(vectors=pool)
    certificate = Transport().select(rows, Budget(amount=3), target=Features.from_arrays(vectors=goal)).certificate
    away = whitened_distances(rows, goal, 1e-3).T.astype(float)
    every = [transport(away[list(some)], 9).cost for some in combinations(range(10), 3)]
    assert certificate is not None
    assert certificate.bound <= min(every) + 1e-6
    assert min(every) - 1e-6 <= certificate.objective <= np.mean(every)


def test_a_pool_that_holds_the_target_gives_exactly_the_target_at_no_cost() -> None:
    pool, goal = problem(30, 6)
    pool[[3, 8, 11, 17, 20, 29]] = goal
    chosen = Transport().select(Features.from_arrays(vectors=pool), Budget(amount=6), target=Features.from_arrays(vectors=goal))
    assert sorted(chosen.indices.tolist()) == [3, 8, 11, 17, 20, 29]
    assert chosen.certificate is not None
    assert chosen.certificate.objective == pytest.approx(0, abs=1e-5)
    assert chosen.certificate.gap == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(("n", "width"), [(40, 5), (12, 30)])
def test_shifting_scaling_and_rotating_the_features_changes_nothing(n: int, width: int) -> None:
    pool, goal = problem(n, 4, width)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(width, width)))[0]
    moved = [7 + 0.03 * side @ rotation for side in (pool, goal)]
    near = [whitened_distances(Features.from_arrays(vectors=a), b, 1e-3) for a, b in ((pool, goal), moved)]
    assert np.allclose(near[0], near[1], atol=1e-3)
    assert kept(pool, goal, 9) == kept(moved[0], moved[1], 9)


def test_without_damping_any_affine_map_of_the_features_changes_nothing() -> None:
    pool, goal = problem()
    mix = np.random.default_rng(2).normal(size=(5, 5))
    near = [whitened_distances(Features.from_arrays(vectors=a), b, 0.0) for a, b in ((pool, goal), (pool @ mix + 1, goal @ mix + 1))]
    assert np.allclose(near[0], near[1], atol=1e-3)


@pytest.mark.parametrize("width", [5, 20])
def test_the_covariance_is_shrunk_as_far_as_few_rows_ask_whether_in_their_span_or_not(width: int) -> None:
    oas = pytest.importorskip("sklearn.covariance").oas
    pool, goal = problem(8, 3, width)
    both = np.vstack([pool, goal]) - np.vstack([pool, goal]).mean(axis=0)
    inverse = np.linalg.inv(oas(both, assume_centered=True)[0])
    inner = both @ inverse @ both.T
    cosine = inner / np.sqrt(np.outer(np.diag(inner), np.diag(inner)))
    assert np.allclose(whitened_distances(Features.from_arrays(vectors=pool), goal, 1e-6), np.sqrt(2 - 2 * cosine[8:, :8]), atol=1e-5)


def test_repeated_target_rows_change_nothing() -> None:
    pool, goal = problem()
    assert kept(pool, goal, 10) == kept(pool, np.vstack([goal, goal[:2], goal[:1]]), 10)


def test_weights_fall_with_the_potential_and_average_one() -> None:
    pool, goal = problem()
    rows = Features.from_arrays(vectors=pool)
    chosen = Transport(weights="potential").select(rows, Budget(amount=12), target=Features.from_arrays(vectors=goal))
    potentials = transport(whitened_distances(rows, np.unique(goal, axis=0), 1e-3)[:, chosen.indices].T, 10**6).potentials
    assert chosen.weights.mean() == pytest.approx(1, abs=1e-6)
    assert 0.5 - 1e-6 <= chosen.weights.min() < chosen.weights.max() <= 1.5 + 1e-6
    assert np.corrcoef(potentials, chosen.weights)[0, 1] == pytest.approx(-1, abs=1e-6)


def test_a_singular_covariance_without_damping_is_refused_with_the_remedy() -> None:
    pool, goal = problem()
    pool[:, 1] = goal[:, 1] = 3
    with pytest.raises(NumericError, match="damping"):
        kept(pool, goal, 3, damping=0.0)
