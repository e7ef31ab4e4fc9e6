"""The log-determinant against numpy's, every subset, and what its scale is for."""

from itertools import combinations

import numpy as np
import pytest

from curate.core import Budget, Features
from curate.selectors.log_determinant import LogDeterminant


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def value(rows: np.ndarray, kept: list[int], scale: float) -> float:
    return float(np.linalg.slogdet(np.eye(len(kept)) + scale * rows[kept] @ rows[kept].T)[1])


@pytest.mark.parametrize("seed", range(4))
def test_it_is_within_its_guarantee_and_its_bound_holds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = Features.from_arrays(vectors=rng.normal(size=(10, 4)), lengths=rng.integers(4, 9, 10))
    for budget in (Budget(amount=4), Budget(amount=18, unit="tokens")):
        costs, capacity = budget.costs(rows)
        sets = [list(some) for size in range(1, 5) for some in combinations(range(10), size) if costs[list(some)].sum() <= capacity]
        best = max(value(unit(np.asarray(rows.vectors)), some, 3.0) for some in sets)
        kept = LogDeterminant(scale=3.0).select(rows, budget)
        assert kept.certificate is not None and kept.gains is not None
        assert kept.certificate.objective == pytest.approx(value(unit(np.asarray(rows.vectors)), kept.indices.tolist(), 3.0), abs=1e-5)
        assert (1 - 1 / np.e) * (1 if budget.unit == "rows" else 0.5) * best <= kept.certificate.objective + 1e-5
        assert kept.certificate.objective <= best + 1e-5 <= kept.certificate.bound + 2e-5
        assert kept.gains.sum() == pytest.approx(kept.certificate.objective)


def test_as_many_rows_as_dimensions_span_all_of_them() -> None:
    vectors = np.repeat(np.eye(4), 5, axis=0) + 0.1 * np.random.default_rng(0).normal(size=(20, 4))
    kept = LogDeterminant(scale=100.0).select(Features.from_arrays(vectors=vectors), Budget(amount=4)).indices
    assert np.linalg.matrix_rank(vectors[kept], tol=0.5) == 4
