"""Concave functions of feature totals against the formula, every subset, and what they are for."""

from itertools import combinations

import numpy as np
import pytest

from curate.core import Budget, Features
from curate.selectors.feature_based import FeatureBased


def value(vectors: np.ndarray, kept: list[int], log: bool) -> float:
    split = np.concatenate([np.maximum(vectors, 0), np.maximum(-vectors, 0)], axis=1)[kept].sum(axis=0)
    return float((np.log1p(split) if log else np.sqrt(split)).sum())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("concave", ["root", "log"])
def test_it_is_within_its_guarantee_and_its_bound_holds(seed: int, concave: str) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(10, 6)).astype(np.float32)
    rows = Features.from_arrays(vectors=vectors, lengths=rng.integers(4, 9, 10))
    for budget in (Budget(amount=3), Budget(amount=18, unit="tokens")):
        costs, capacity = budget.costs(rows)
        sets = [list(some) for size in range(1, 5) for some in combinations(range(10), size) if costs[list(some)].sum() <= capacity]
        best = max(value(vectors.astype(np.float64), some, concave == "log") for some in sets)
        kept = FeatureBased(concave=concave).select(rows, budget)  # type: ignore[arg-type]
        assert kept.certificate is not None
        assert kept.certificate.objective == pytest.approx(value(vectors.astype(np.float64), kept.indices.tolist(), concave == "log"))
        assert (1 - 1 / np.e) * (1 if budget.unit == "rows" else 0.5) * best <= kept.certificate.objective + 1e-9
        assert kept.certificate.objective <= best + 1e-9 <= kept.certificate.bound + 2e-9


def test_every_feature_gets_a_row_before_any_gets_a_second() -> None:
    words = np.repeat(np.eye(5), [20, 5, 5, 2, 2], axis=0)
    kept = FeatureBased().select(Features.from_arrays(vectors=words), Budget(amount=5)).indices
    assert sorted(words[kept].argmax(axis=1)) == list(range(5))


def test_opposite_numbers_are_different_features() -> None:
    vectors = np.asarray([[1.0], [1.0], [-0.5]])
    assert FeatureBased().select(Features.from_arrays(vectors=vectors), Budget(amount=2)).indices.tolist() == [0, 2]
