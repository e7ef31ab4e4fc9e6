"""A control has the lengths, or the sources, of the arm that it copies, and is random in all else."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.core import Budget, Features, Selection
from curate.matched import BINS, length_matched, source_matched
from curate.order import subset

Match = Callable[[Features, np.ndarray, Budget, int], Selection]
MATCHED: list[Match] = [length_matched, source_matched]


def pool(n: int = 2000, seed: int = 0) -> Features:
    generator = np.random.default_rng(seed)
    lengths = np.round(np.exp(generator.normal(4, 0.8, n))).astype(int) + 1
    groups = generator.choice(["web", "books", "code", "forum"], n, p=[0.6, 0.25, 0.1, 0.05])
    return Features.from_arrays(lengths=lengths, groups=groups.tolist(), supervised=np.maximum(1, lengths // 3))


def longest(rows: Features, count: int) -> np.ndarray:
    """Mostly long rows, but not only."""
    drawn = np.random.default_rng(1).random(len(rows)) ** (1 / rows.lengths.astype(float))
    return np.argsort(-drawn)[:count]


def bin_of(rows: Features) -> np.ndarray:
    """The bin of every row, counted row by row: the share of the pool that is strictly shorter."""
    return np.array([int((rows.lengths < length).sum()) * BINS // len(rows) for length in rows.lengths])


def test_a_control_in_rows_has_as_many_of_every_bin_as_the_arm() -> None:
    rows, budget = pool(), Budget.parse(150)
    taken = longest(rows, 150)
    found = length_matched(rows, taken, budget, 3).validate(rows, budget)
    assert Counter(bin_of(rows)[found.indices].tolist()) == Counter(bin_of(rows)[taken].tolist())
    assert rows.lengths[found.indices].mean() == pytest.approx(rows.lengths[taken].mean(), rel=0.06)
    assert rows.lengths[taken].mean() > 1.3 * rows.lengths.mean()


def test_a_control_in_rows_has_as_many_of_every_group_as_the_arm() -> None:
    rows, budget = pool(), Budget.parse("7.5%")
    taken = np.flatnonzero(rows.groups == "forum")[:60].tolist() + np.flatnonzero(rows.groups == "web")[:90].tolist()
    found = source_matched(rows, np.array(taken), budget, 3).validate(rows, budget)
    assert Counter(rows.groups[found.indices].tolist()) == {"forum": 60, "web": 90}


@pytest.mark.parametrize("match", MATCHED)
@pytest.mark.parametrize("unit", ["tokens", "supervised_tokens"])
def test_a_control_in_tokens_spends_what_the_arm_spent_and_no_more(match: Match, unit: str) -> None:
    rows, budget = pool(), Budget.parse(f"20k {unit}")
    costs = budget.costs(rows)[0]
    taken = budget.fill(longest(rows, len(rows)), rows)
    for seed in range(5):
        found = match(rows, taken, budget, seed).validate(rows, budget).indices
        assert costs[taken].sum() - costs.max() < costs[found].sum() <= costs[taken].sum()
        cells = bin_of(rows) if match is length_matched else np.unique(rows.groups, return_inverse=True)[1]
        assert set(cells[found].tolist()) <= set(cells[taken].tolist())
        shares = [np.bincount(cells[chosen], minlength=cells.max() + 1) / len(chosen) for chosen in (found, taken)]
        assert np.abs(shares[0] - shares[1]).sum() < 0.1


def test_every_row_of_a_bin_is_as_likely_and_the_arm_is_no_reason_for_or_against() -> None:
    rows = Features.from_arrays(lengths=[10] * 12 + [20] * 8)
    taken = np.array([0, 1, 2, 12, 13])
    counts = np.zeros(20)
    for seed in range(3000):
        counts[length_matched(rows, taken, Budget.parse(5), seed).indices] += 1
    expected = np.array([3000 * 3 / 12] * 12 + [3000 * 2 / 8] * 8)
    assert (((counts - expected) ** 2 / (expected * (1 - expected / 3000))).sum()) < 45.3  # chi-squared, 20 degrees of freedom, p = 0.001


@pytest.mark.parametrize("match", MATCHED)
@given(seed=st.integers(0, 50), unit=st.sampled_from(["rows", "tokens"]))
def test_the_order_of_the_pool_does_not_matter(match: Match, seed: int, unit: str) -> None:
    rows = pool(120, seed)
    budget = Budget(amount=30 if unit == "rows" else 1500, unit=unit)
    taken = budget.fill(longest(rows, 120), rows)
    order = np.random.default_rng(seed).permutation(120)
    place = np.argsort(order)
    shuffled = match(subset(rows, order), place[taken][::-1], budget, seed)
    assert order[shuffled.indices].tolist() == match(rows, taken, budget, seed).indices.tolist()


@pytest.mark.parametrize("match", MATCHED)
def test_seeds_and_the_two_controls_draw_apart(match: Match) -> None:
    rows = Features.from_arrays(lengths=[5] * 400)
    taken = np.arange(50)
    drawn = [set(chosen(rows, taken, Budget.parse(50), seed).indices.tolist()) for chosen in (match, *MATCHED) for seed in (0, 1)]
    assert drawn[0] in drawn[2:] and len({frozenset(rows) for rows in drawn}) == 4
    assert all(len(one & other) < 25 for one in drawn for other in drawn if one != other)


@pytest.mark.parametrize("match", MATCHED)
def test_an_arm_that_ended_early_is_copied_as_far_as_it_went(match: Match) -> None:
    rows = pool()
    taken = longest(rows, 40)
    assert len(match(rows, taken, Budget.parse("elbow 10%"), 0)) == len(match(rows, taken, Budget.parse(500), 0)) == 40
    spent = match(rows, taken, Budget.parse("1M tokens"), 0).indices
    assert rows.lengths[taken].sum() - rows.lengths.max() < rows.lengths[spent].sum() <= rows.lengths[taken].sum()


@pytest.mark.parametrize("match", MATCHED)
def test_a_bin_that_the_arm_took_whole_is_taken_whole_and_nothing_taken_is_nothing_drawn(match: Match) -> None:
    rows = pool(100)
    assert sorted(match(rows, np.arange(100), Budget.parse("100%"), 0).indices.tolist()) == list(range(100))
    assert len(match(rows, np.zeros(0, np.int64), Budget.parse("10 tokens"), 0)) == 0
