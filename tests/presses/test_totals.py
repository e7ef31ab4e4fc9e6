"""Totals are exact, bounds hold, and what a bound takes falls on the others in proportion."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from curate.compression.totals import exact_total
from curate.errors import ConfigError

Problem = tuple[list[int], int, list[int], list[int]]


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Shares, a total that can be reached, and bounds per layer."""
    layers = draw(st.integers(1, 7))
    shares = draw(st.lists(st.integers(0, 9), min_size=layers, max_size=layers))
    low = draw(st.lists(st.integers(0, 12), min_size=layers, max_size=layers))
    high = [least + draw(st.integers(0, 20)) for least in low]
    return shares, draw(st.integers(sum(low), sum(high))), low, high


def by_bisection(shares: list[int], total: int, low: list[int], high: list[int]) -> list[Fraction]:
    """clip(t * share, low, high) with sum `total`, t found in exact fractions by halving."""
    left, right = Fraction(0), Fraction(1000)
    for _ in range(80):
        middle = (left + right) / 2
        reached = sum(min(max(middle * s, a), b) for s, a, b in zip(shares, low, high, strict=True))
        left, right = (middle, right) if reached <= total else (left, middle)
    return [min(max(left * s, Fraction(a)), Fraction(b)) for s, a, b in zip(shares, low, high, strict=True)]


@given(problems())
def test_the_total_is_exact_and_every_bound_holds(problem: Problem) -> None:
    shares, total, low, high = problem
    found = exact_total(shares, total, low, high)
    assert found.dtype == np.int64 and int(found.sum()) == total
    assert (found >= low).all() and (found <= high).all()


@given(problems())
def test_layers_with_a_share_stand_within_one_of_the_exact_proportion(problem: Problem) -> None:
    shares, total, low, high = problem
    assume(total <= sum(b if s else a for s, a, b in zip(shares, low, high, strict=True)))  # else layers without a share divide the rest
    found = exact_total(shares, total, low, high)
    assert all(abs(int(count) - value) < 1 + Fraction(1, 10**6) for count, value in zip(found, by_bisection(shares, total, low, high), strict=True))


@given(problems(), st.sampled_from([0.1, 3.0, 1e6]))
def test_only_the_proportion_of_the_shares_counts(problem: Problem, factor: float) -> None:
    shares, total, low, high = problem
    assert exact_total([share * factor for share in shares], total, low, high).tolist() == exact_total(shares, total, low, high).tolist()


def test_small_totals_by_hand() -> None:
    assert exact_total([1, 1, 1], 10, 0, 10).tolist() == [4, 3, 3]  # of equal fractions the lower layer
    assert exact_total([0.1, 0.3, 0.6], 14, 0, 50).tolist() == [2, 4, 8]  # 1.4, 4.2 and 8.4: equal fractions up to rounding
    assert exact_total([0.1, 0.1, 0.7], 3, 0, 50).tolist() == [1, 0, 2]
    assert exact_total([5, 3, 2], 10, 0, 10).tolist() == [5, 3, 2]
    assert exact_total([10, 1, 1], 12, 0, 6).tolist() == [6, 3, 3]  # what the cap takes goes to the others alike
    assert exact_total([1, 1, 8], 10, 2, 10).tolist() == [2, 2, 6]  # what the floor gives is taken from the others
    assert exact_total([1, 3, 9], 10, 0, [9, 9, 4]).tolist() == [2, 4, 4]  # 1.5, 4.5 and 4
    assert exact_total([1, 0, 0], 9, 0, 5).tolist() == [5, 2, 2]  # layers without a share come last
    assert exact_total([0, 0, 0], 8, 1, 5).tolist() == [3, 3, 2]


def test_a_layer_with_more_share_never_gets_less() -> None:
    shares = np.random.default_rng(0).random(32)
    found = exact_total(shares, 32 * 100, 32, 300)
    assert (np.diff(found[np.argsort(shares)]) >= 0).all() and found.min() >= 32 and found.max() <= 300


@pytest.mark.parametrize(
    ("shares", "total", "low", "high"), [([1, 1], 5, 3, 9), ([1, 1], 19, 3, 9), ([1, 1], 8, 5, 3), ([1, -1], 8, 0, 9), ([1, float("nan")], 8, 0, 9)]
)
def test_what_cannot_be_is_refused_in_one_line(shares: list[float], total: int, low: int, high: int) -> None:
    with pytest.raises(ConfigError, match="layer 1|sum to") as error:
        exact_total(shares, total, low, high)
    assert "\n" not in str(error.value)
