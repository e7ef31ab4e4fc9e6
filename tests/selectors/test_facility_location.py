"""Facility location against the formula, the naive greedy in float64, and every subset."""

from itertools import combinations

import numpy as np
import pytest

from curate.core import Budget, Features
from curate.facility import DenseFacility, SparseFacility
from curate.selectors.facility_location import FacilityLocation
from curate.submodular.graph import Graph


def pool(n: int, seed: int = 0, width: int = 6) -> Features:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(5, width))[rng.integers(5, size=n)] + 0.7 * rng.normal(size=(n, width))
    return Features.from_arrays(vectors=vectors, lengths=rng.integers(1, 9, n))


def kernel(features: Features) -> np.ndarray:
    rows = np.asarray(features.vectors, np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return (1 + rows @ rows.T) / 2


def value(alike: np.ndarray, rows: list[int]) -> float:
    return float(alike[:, rows].max(axis=1).sum()) if rows else 0.0


def shortfalls(alike: np.ndarray, picks: list[int]) -> list[float]:
    """How much less each pick adds than the best row would have: all 0 for greedy, up to the rounding that settles ties."""
    best = np.zeros(len(alike))
    missing = []
    for pick in picks:
        gains = np.maximum(alike - best[:, None], 0).sum(axis=0)
        missing.append(float(gains.max() - gains[pick]))
        best = np.maximum(best, alike[:, pick])
    return missing


@pytest.mark.parametrize("seed", range(3))
def test_every_pick_is_the_best_in_float64_and_the_objective_is_the_formula(seed: int) -> None:
    rows = pool(150, seed)
    kept = FacilityLocation().select(rows, Budget(amount=25))
    assert max(shortfalls(kernel(rows), kept.indices.tolist())) < 1e-5
    assert kept.certificate is not None and kept.gains is not None
    assert kept.certificate.objective == pytest.approx(value(kernel(rows), kept.indices.tolist()), rel=1e-6)
    assert kept.gains.sum() == pytest.approx(kept.certificate.objective, rel=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_it_keeps_the_guarantee_and_the_bound_is_never_below_the_optimum(seed: int) -> None:
    rows = pool(11, seed)
    alike = kernel(rows)
    for budget in (Budget(amount=3), Budget(amount=12, unit="tokens")):
        costs, capacity = budget.costs(rows)
        subsets = (list(some) for size in range(1, 12) for some in combinations(range(11), size))
        optimum = max(value(alike, some) for some in subsets if costs[some].sum() <= capacity)
        certificate = FacilityLocation().select(rows, budget).certificate
        assert certificate is not None
        assert (1 - 1 / np.e) * optimum <= certificate.objective + 1e-5
        assert certificate.objective <= optimum + 1e-5 <= certificate.bound + 2e-5
        assert 0 <= certificate.gap


def test_the_gap_is_zero_when_everything_is_kept() -> None:
    rows = pool(30)
    certificate = FacilityLocation().select(rows, Budget(amount=30)).certificate
    assert certificate is not None and certificate.gap == pytest.approx(0, abs=1e-6)


def test_with_all_neighbours_every_pick_is_the_best_of_the_full_matrix() -> None:
    rows = pool(120)
    sparse = FacilityLocation(dense_limit=0, neighbours=120).select(rows, Budget(amount=20))
    assert max(shortfalls(kernel(rows), sparse.indices.tolist())) < 1e-5


def test_few_neighbours_still_cover_nearly_as_well() -> None:
    rows = pool(400)
    alike = kernel(rows)
    few = value(alike, FacilityLocation(dense_limit=0, neighbours=64).select(rows, Budget(amount=20)).indices.tolist())
    full = value(alike, FacilityLocation().select(rows, Budget(amount=20)).indices.tolist())
    random = np.mean([value(alike, np.random.default_rng(s).choice(400, 20, replace=False).tolist()) for s in range(20)])
    assert few - random >= 0.9 * (full - random)


@pytest.mark.parametrize("sparse", [False, True])
def test_kept_bounds_stay_above_the_exact_gains_and_close_to_them(sparse: bool) -> None:
    alike = kernel(pool(200)).astype(np.float32)
    alike = np.maximum(alike, alike.T)
    near = np.argsort(-alike, axis=1, kind="stable")[:, :30]
    few = Graph(near.astype(np.int32), np.take_along_axis(alike, near, axis=1).astype(np.float64))
    objective = SparseFacility(few) if sparse else DenseFacility(alike)
    for row in np.random.default_rng(0).permutation(200)[:40].tolist():
        exact, upper, before = objective.gains(np.arange(200)), objective.upper(), objective.value
        assert (upper >= exact).all()
        assert np.allclose(upper, exact, atol=0.01)
        objective.add(row)
        assert objective.value - before == pytest.approx(exact[row], abs=1e-5)
        if row % 4 == 0:
            objective.drop(row)
            assert np.allclose(objective.gains(np.arange(200)), exact, atol=1e-5)


def test_greedy_never_prefers_a_copy_of_a_kept_row_to_another_cluster() -> None:
    vectors = np.repeat(np.eye(4), [30, 5, 5, 5], axis=0)
    kept = FacilityLocation().select(Features.from_arrays(vectors=vectors), Budget(amount=4))
    assert len(np.unique(vectors[kept.indices], axis=0)) == 4
