"""The share of pairs in which a row taken is the longer one is counted as if pair by pair, and said where it is far from a half."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.length_bias import alarm, longer


@given(st.lists(st.tuples(st.integers(1, 6), st.booleans()), min_size=2, max_size=20))
def test_it_is_the_share_of_pairs_with_ties_a_half(pairs: list[tuple[int, bool]]) -> None:
    taken = [length for length, held in pairs if held]
    left = [length for length, held in pairs if not held]
    found = longer([length for length, _ in pairs], np.flatnonzero([held for _, held in pairs])[::-1])
    if not taken or not left:
        assert math.isnan(found)
        return
    wins = sum(1.0 if one > other else 0.5 if one == other else 0.0 for one in taken for other in left)
    assert found == pytest.approx(wins / (len(taken) * len(left)))


def test_it_is_the_statistic_of_mann_and_whitney() -> None:
    from scipy.stats import mannwhitneyu

    generator = np.random.default_rng(0)
    lengths = generator.integers(5, 200, 3000)
    taken = generator.permutation(3000)[:170]
    statistic = mannwhitneyu(lengths[taken], np.delete(lengths, taken)).statistic
    assert longer(lengths, taken) == pytest.approx(statistic / (170 * 2830), rel=1e-12)


def test_the_alarm_says_which_way_and_by_how_much() -> None:
    lengths = np.arange(1, 101)
    up = longer(lengths, np.arange(90, 100))
    assert up == 1.0
    said = alarm(up, 95.5, 45.5)
    assert "longer than a row left in 100% of pairs (95.5 tokens on average against 45.5)" in said and "controls: [length_matched_random]" in said
    down = alarm(longer(lengths, np.arange(10)), 5.5, 55.5)
    assert "shorter than a row left in 100% of pairs (5.5 tokens on average against 55.5)" in down
    assert "read its difference from length_matched_random" in alarm(up, 95.5, 45.5, controlled=True)


def test_there_is_no_alarm_near_a_half_nor_where_nothing_can_be_compared() -> None:
    assert alarm(0.69, 9.0, 8.0) == alarm(0.31, 8.0, 9.0) == alarm(float("nan"), 8.0, float("nan")) == ""
    assert alarm(0.71, 9.0, 8.0) and alarm(0.29, 8.0, 9.0)
