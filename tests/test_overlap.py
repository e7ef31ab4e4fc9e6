"""Overlap by chance is that of all pairs of draws, and stability counts what seeds agree on."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.errors import DataError
from curate.overlap import jaccard, jaccard_by_chance, stability


def rows(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@pytest.mark.parametrize("n", range(0, 9))
def test_overlap_by_chance_is_the_mean_over_all_pairs_of_draws(n: int) -> None:
    for a in range(n + 1):
        for b in range(a, n + 1):
            one = set(range(a))  # by symmetry any first draw will do
            pairs = [len(one & set(other)) / len(one | set(other)) if a + b else 1.0 for other in combinations(range(n), b)]
            assert jaccard_by_chance(a, b, n) == pytest.approx(np.mean(pairs), rel=1e-12)
            assert jaccard_by_chance(b, a, n) == pytest.approx(np.mean(pairs), rel=1e-12)


def test_overlap_by_chance_agrees_with_an_exact_sum_where_binomials_are_astronomical() -> None:
    from fractions import Fraction
    from math import comb

    a, b, n = 300, 500, 20_000
    total = comb(n, b)
    exact = sum(Fraction(comb(a, x) * comb(n - a, b - x), total) * Fraction(x, a + b - x) for x in range(a + 1))
    assert jaccard_by_chance(a, b, n) == pytest.approx(float(exact), rel=1e-10)


def test_overlap_by_chance_of_large_draws_is_close_to_the_ratio_of_means() -> None:
    a, b, n = 50_000, 80_000, 1_000_000
    shared = a * b / n
    assert jaccard_by_chance(a, b, n) == pytest.approx(shared / (a + b - shared), rel=1e-3)


@given(one=st.sets(st.integers(0, 30)), other=st.sets(st.integers(0, 30)))
def test_the_index_is_that_of_sets_whatever_the_order_of_their_rows(one: set[int], other: set[int]) -> None:
    expected = len(one & other) / len(one | other) if one | other else 1.0
    assert jaccard(rows(*one)[::-1], rows(*other)) == expected


def test_stability_counts_the_core_and_the_coin_flips() -> None:
    found = stability([rows(0, 1, 2, 3), rows(3, 2, 5, 6), rows(2, 3, 1, 7)], 10)
    assert (found.always, found.sometimes) == (2, 5)
    assert found.jaccard == pytest.approx((2 / 6 + 3 / 5 + 2 / 6) / 3)
    assert found.by_chance == pytest.approx(jaccard_by_chance(4, 4, 10))


def test_random_draws_are_as_stable_as_chance_says() -> None:
    generator = np.random.default_rng(0)
    found = stability([generator.permutation(200)[:60] for _ in range(60)], 200)
    assert found.jaccard == pytest.approx(found.by_chance, abs=0.005)


def test_draws_larger_than_the_pool_and_a_single_seed_are_refused() -> None:
    with pytest.raises(DataError, match="11 and 3 rows cannot be drawn from a pool of 10"):
        jaccard_by_chance(11, 3, 10)
    with pytest.raises(DataError, match="two seeds or more"):
        stability([rows(1, 2)], 10)
