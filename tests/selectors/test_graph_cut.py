"""Graph cut against its double sum, every subset, and what its weight is for."""

from itertools import combinations

import numpy as np
import pytest

from curate.core import Budget, Features
from curate.selectors.graph_cut import GraphCut


def pool(n: int, seed: int = 0) -> Features:
    rng = np.random.default_rng(seed)
    return Features.from_arrays(vectors=rng.normal(size=(3, 5))[rng.integers(3, size=n)] + 0.5 * rng.normal(size=(n, 5)), lengths=rng.integers(4, 9, n))


def alike(rows: Features) -> np.ndarray:
    unit = np.asarray(rows.vectors, np.float64) / np.linalg.norm(rows.vectors, axis=1, keepdims=True)
    return (1 + unit @ unit.T) / 2


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("weight", [0.0, 0.5, 4.0])
def test_the_bound_is_never_below_the_optimum_even_where_rows_can_lower_the_objective(seed: int, weight: float) -> None:
    rows = pool(11, seed)
    similar = alike(rows)
    for budget in (Budget(amount=4), Budget(amount=21, unit="tokens")):
        costs, capacity = budget.costs(rows)
        sets = [list(some) for size in range(1, 6) for some in combinations(range(11), size) if costs[list(some)].sum() <= capacity]
        best = max(similar[:, some].sum() - weight * similar[np.ix_(some, some)].sum() for some in sets)
        kept = GraphCut(redundancy=weight).select(rows, budget)
        certificate = kept.certificate
        assert certificate is not None
        chosen = kept.indices
        assert certificate.objective == pytest.approx(similar[:, chosen].sum() - weight * similar[np.ix_(chosen, chosen)].sum(), abs=1e-5)
        assert certificate.objective <= best + 1e-5 <= certificate.bound + 2e-5
        if weight <= 0.5:
            share = (1 - 1 / np.e) * (1 if budget.unit == "rows" else 0.5)
            assert certificate.objective >= share * best - 1e-5


def test_without_a_weight_the_rows_most_like_the_pool_are_proven_optimal() -> None:
    rows = pool(30)
    kept = GraphCut(redundancy=0.0).select(rows, Budget(amount=6))
    assert kept.indices.tolist() == np.argsort(-alike(rows).sum(axis=0), kind="stable")[:6].tolist()
    assert kept.certificate is not None and kept.certificate.gap == pytest.approx(0, abs=1e-9)


def test_a_larger_weight_keeps_rows_that_are_less_alike() -> None:
    rows = pool(120)
    inside = [alike(rows)[np.ix_(kept, kept)].mean() for kept in (GraphCut(redundancy=w).select(rows, Budget(amount=12)).indices for w in (0.0, 4.0, 9.0))]
    assert inside[0] > inside[1] > inside[2]
