"""Saturated coverage against its formula, every subset, and what saturation is for."""

from itertools import combinations

import numpy as np
import pytest

from curate.core import Budget, Features
from curate.selectors.saturated_coverage import SaturatedCoverage


def pool(n: int, seed: int = 0) -> Features:
    rng = np.random.default_rng(seed)
    return Features.from_arrays(vectors=rng.normal(size=(3, 5))[rng.integers(3, size=n)] + 0.5 * rng.normal(size=(n, 5)), lengths=rng.integers(4, 9, n))


def alike(rows: Features) -> np.ndarray:
    unit = np.asarray(rows.vectors, np.float64) / np.linalg.norm(rows.vectors, axis=1, keepdims=True)
    return (1 + unit @ unit.T) / 2


def value(similar: np.ndarray, share: float, kept: list[int]) -> float:
    return float(np.minimum(similar[:, kept].sum(axis=1), share * similar.sum(axis=1)).sum())


@pytest.mark.parametrize("seed", range(4))
def test_it_is_within_its_guarantee_and_its_bound_holds(seed: int) -> None:
    rows = pool(10, seed)
    for budget in (Budget(amount=3), Budget(amount=18, unit="tokens")):
        costs, capacity = budget.costs(rows)
        share = 0.8 * capacity / costs.sum()
        sets = [list(some) for size in range(1, 5) for some in combinations(range(10), size) if costs[list(some)].sum() <= capacity]
        best = max(value(alike(rows), share, some) for some in sets)
        kept = SaturatedCoverage(saturation=0.8).select(rows, budget)
        assert kept.certificate is not None
        assert kept.certificate.objective == pytest.approx(value(alike(rows), share, kept.indices.tolist()), abs=1e-5)
        assert (1 - 1 / np.e) * (1 if budget.unit == "rows" else 0.5) * best <= kept.certificate.objective + 1e-5
        assert kept.certificate.objective <= best + 1e-5 <= kept.certificate.bound + 2e-5


def test_without_saturation_the_rows_most_like_the_pool_are_taken() -> None:
    rows = pool(40)
    kept = SaturatedCoverage(saturation=1e6).select(rows, Budget(amount=5)).indices
    assert kept.tolist() == np.argsort(-alike(rows).sum(axis=0), kind="stable")[:5].tolist()


def test_saturation_reaches_clusters_that_the_largest_would_crowd_out() -> None:
    centres = np.eye(3)
    vectors = np.repeat(centres, [40, 12, 8], axis=0) + 0.05 * np.random.default_rng(0).normal(size=(60, 3))
    rows = Features.from_arrays(vectors=vectors)
    cluster = np.repeat([0, 1, 2], [40, 12, 8])
    plain, fair = (cluster[SaturatedCoverage(saturation=a).select(rows, Budget(amount=15)).indices] for a in (1e6, 1.0))
    assert set(plain) == {0} and set(fair) == {0, 1, 2}


def test_its_function_follows_the_budget_so_it_is_not_prefix_consistent() -> None:
    assert not SaturatedCoverage().select(pool(20), Budget(amount=5)).prefix_consistent
