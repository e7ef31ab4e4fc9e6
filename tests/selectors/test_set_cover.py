"""Set cover against a count, every subset, and its edges."""

from itertools import combinations

import numpy as np
import pytest

from curate.core import Budget, Features
from curate.selectors.set_cover import SetCover


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("covers", ["rows", "columns"])
def test_it_is_within_its_guarantee_and_its_bound_holds(seed: int, covers: str) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(10, 8)) - 0.5
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    reached = (unit @ unit.T >= 0.3) if covers == "rows" else vectors > 0
    rows = Features.from_arrays(vectors=vectors, lengths=rng.integers(4, 9, 10))
    for budget in (Budget(amount=3), Budget(amount=18, unit="tokens")):
        costs, capacity = budget.costs(rows)
        sets = [list(some) for size in range(1, 5) for some in combinations(range(10), size) if costs[list(some)].sum() <= capacity]
        best = max(reached[some].any(axis=0).sum() for some in sets)
        kept = SetCover(covers=covers, threshold=0.3).select(rows, budget)  # type: ignore[arg-type]
        assert kept.certificate is not None
        assert kept.certificate.objective == reached[kept.indices].any(axis=0).sum()
        assert (1 - 1 / np.e) * (1 if budget.unit == "rows" else 0.5) * best <= kept.certificate.objective <= best <= kept.certificate.bound


def test_a_threshold_of_one_covers_copies_only() -> None:
    vectors = np.repeat(np.random.default_rng(0).normal(size=(6, 7)), [9, 1, 5, 3, 2, 4], axis=0)
    kept = SetCover(threshold=1.0).select(Features.from_arrays(vectors=vectors), Budget(amount=3))
    assert kept.indices.tolist() == [0, 10, 20]
    assert kept.gains is not None and kept.gains.tolist() == [9, 5, 4]


def test_all_that_can_be_covered_is_proven_optimal() -> None:
    words = np.asarray([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1], [1, 0, 0, 0]])
    kept = SetCover(covers="columns").select(Features.from_arrays(vectors=words), Budget(amount=2))
    assert kept.indices.tolist() == [0, 2]
    assert kept.certificate is not None and kept.certificate.gap == 0
