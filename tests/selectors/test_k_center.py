"""Farthest-first traversal covers the pool within twice the best radius, and says so."""

from itertools import combinations

import numpy as np
import pytest

from curate.core import Budget, Features
from curate.selectors.k_center import KCenter, covering_radius


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("seed", range(8))
def test_the_radius_lies_between_the_bound_and_twice_the_brute_force_optimum(seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(11, 3)).astype(np.float32)
    pool = Features.from_arrays(vectors=vectors)
    for kept in (1, 2, 3, 4):
        chosen = KCenter().select(pool, Budget(amount=kept))
        best = min(covering_radius(unit(vectors), np.array(rows)) for rows in combinations(range(11), kept))
        certificate = chosen.certificate
        assert certificate is not None
        assert certificate.objective == pytest.approx(covering_radius(unit(vectors), chosen.indices))
        assert certificate.bound <= best + 1e-6
        assert best - 1e-6 <= certificate.objective <= 2 * best + 1e-6


def test_every_cluster_gets_a_row_before_any_gets_two_and_copies_come_last() -> None:
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(6, 20))
    vectors = np.repeat(centres, 5, axis=0) + 0.01 * generator.normal(size=(30, 20))
    vectors[3] = vectors[4]
    chosen = KCenter().select(Features.from_arrays(vectors=vectors.astype(np.float32)), Budget(amount=30))
    assert sorted(chosen.indices[:6] // 5) == list(range(6))
    assert chosen.indices[-1] == 4 and chosen.gains is not None and chosen.gains[-1] == 0
    assert (np.diff(chosen.gains[1:]) <= 1e-9).all()


def test_a_budget_in_tokens_is_filled_without_a_bound() -> None:
    generator = np.random.default_rng(1)
    pool = Features.from_arrays(vectors=generator.normal(size=(40, 5)), lengths=generator.integers(1, 30, 40))
    chosen = KCenter().select(pool, Budget(amount=100, unit="tokens"))
    left = 100 - pool.lengths[chosen.indices].sum()
    rest = np.setdiff1d(np.arange(40), chosen.indices)
    assert 0 <= left < pool.lengths[rest].min() and chosen.certificate is None
