"""Intervals cover what they claim, and say no more than the data does."""

import numpy as np
import pytest

from curate.errors import DataError, NumericError
from curate.statistics import Interval, paired_difference, scale, standard_error, verdict


def two_way(rng, seeds, items, *, seed_sd=0.0, item_sd=0.0, rest_sd=0.0):
    return seed_sd * rng.normal(size=(seeds, 1)) + item_sd * rng.normal(size=(1, items)) + rest_sd * rng.normal(size=(seeds, items))


def coverage(simulate, runs, **options):
    """The share of simulated experiments without any true difference whose interval holds zero."""
    held = 0
    for run in range(runs):
        scores, baseline = simulate(np.random.default_rng(run))
        interval = paired_difference(scores, baseline, resamples=400, seed=run, **options)
        held += interval.low <= 0 <= interval.high
    return held / runs


def test_one_seed_and_many_items_gives_the_normal_interval_of_the_paired_differences():
    rng = np.random.default_rng(0)
    scores, baseline = rng.normal(0.3, 1, 4000), rng.normal(0, 1, 4000)
    error = np.std(scores - baseline, ddof=1) / np.sqrt(4000)
    interval = paired_difference(scores, baseline)
    assert interval.difference == pytest.approx(np.mean(scores - baseline))
    assert interval.low == pytest.approx(interval.difference - 1.96 * error, abs=0.12 * error)
    assert interval.high == pytest.approx(interval.difference + 1.96 * error, abs=0.12 * error)


def test_95_percent_intervals_cover_when_only_items_vary():
    held = coverage(lambda rng: (two_way(rng, 1, 40, item_sd=1), two_way(rng, 1, 40, item_sd=1)), 400)
    assert 0.92 <= held <= 0.98


@pytest.mark.parametrize("paired", [False, True])
def test_95_percent_intervals_cover_when_three_seeds_dominate_where_a_plain_percentile_would_not(paired):
    def simulate(rng):
        return two_way(rng, 3, 30, seed_sd=1, rest_sd=0.1), two_way(rng, 3, 30, seed_sd=1, rest_sd=0.1)

    assert 0.91 <= coverage(simulate, 400, paired_seeds=paired) <= 0.995


def test_95_percent_intervals_cover_yes_or_no_answers_that_flip_between_seeds():
    def simulate(rng):
        chance = rng.beta(0.5, 0.5, 80)
        return (rng.random((3, 80)) < chance).astype(float), (rng.random((3, 80)) < chance).astype(float)

    assert 0.93 <= coverage(simulate, 400) <= 0.995


def test_items_shared_by_both_arms_cancel():
    rng = np.random.default_rng(1)
    items = rng.normal(0, 5, 300)
    scores, baseline = items + rng.normal(0, 0.1, 300), items + rng.normal(0, 0.1, 300)
    paired = paired_difference(scores, baseline)
    shuffled = paired_difference(scores, rng.permutation(baseline))
    assert (paired.high - paired.low) < 0.1 * (shuffled.high - shuffled.low)


def test_seeds_shared_by_both_arms_cancel_only_when_they_are_declared_paired():
    rng = np.random.default_rng(2)
    effect = rng.normal(0, 1, (8, 1))
    scores, baseline = effect + rng.normal(0, 0.05, (8, 50)), effect + rng.normal(0, 0.05, (8, 50))
    paired = paired_difference(scores, baseline, paired_seeds=True)
    apart = paired_difference(scores, baseline)
    assert (paired.high - paired.low) < 0.1 * (apart.high - apart.low)


def test_swapping_the_arms_mirrors_the_interval_and_moving_one_moves_it():
    rng = np.random.default_rng(3)
    scores, baseline = rng.normal(size=(4, 25)), rng.normal(size=(4, 25))
    there = paired_difference(scores, baseline, paired_seeds=True, resamples=4000)
    back = paired_difference(baseline, scores, paired_seeds=True, resamples=4000)
    assert back == pytest.approx(Interval(-there.difference, -there.high, -there.low))
    assert paired_difference(scores + 2, baseline, paired_seeds=True, resamples=4000) == pytest.approx(np.add(there, 2))


def test_equal_arms_differ_by_exactly_nothing():
    scores = np.random.default_rng(4).normal(size=(3, 20))
    assert paired_difference(scores, scores, paired_seeds=True) == Interval(0, 0, 0)
    assert paired_difference(np.full((3, 7), 0.1), np.full((2, 7), 0.1)) == Interval(0, 0, 0)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others():
    rng = np.random.default_rng(5)
    scores, baseline = rng.normal(size=(3, 30)), rng.normal(size=(2, 30))
    assert paired_difference(scores, baseline, seed=7) == paired_difference(scores, baseline, seed=7)
    assert paired_difference(scores, baseline, seed=7) != paired_difference(scores, baseline, seed=8)


def test_the_standard_error_of_one_seed_is_the_textbook_one():
    scores = np.random.default_rng(6).normal(size=100)
    assert standard_error(scores) == pytest.approx(np.std(scores, ddof=1) / 10)
    assert np.isnan(standard_error([[0.5]]))
    assert standard_error([[1.0], [2.0], [3.0]]) == pytest.approx(1 / np.sqrt(3))


@pytest.mark.parametrize("spread", [{"seed_sd": 1.0}, {"item_sd": 1.0}, {"seed_sd": 0.5, "item_sd": 1.0, "rest_sd": 2.0}])
def test_the_standard_error_is_the_spread_of_the_mean_over_fresh_seeds_and_items(spread):
    rng = np.random.default_rng(7)
    tables = [two_way(rng, 6, 20, **spread) for _ in range(2000)]
    actual = np.std([table.mean() for table in tables])
    assert np.sqrt(np.mean([standard_error(table) ** 2 for table in tables])) == pytest.approx(actual, rel=0.1)


def test_verdicts_read_as_sentences_in_the_unit_of_the_metric():
    assert verdict(Interval(0.018, 0.004, 0.031), True, "acc") == "better than random by 1.8 points [0.4, 3.1]"
    assert verdict(Interval(-0.42, -0.55, -0.31), False, "nll") == "better than random by 0.420 nats/token [0.310, 0.550]"
    assert verdict(Interval(-0.02, -0.03, -0.01), True, "exact_match") == "worse than random by 2.0 points [1.0, 3.0]"
    assert verdict(Interval(0.018, -0.001, 0.031), True, "acc") == "not distinguishable from random"
    assert verdict(Interval(2.0, 1.0, 3.0), True, "bleu", "full") == "better than full by 2.000 [1.000, 3.000]"
    assert scale("bleu").unit == ""


def test_unusable_scores_are_refused():
    with pytest.raises(DataError, match="same items"):
        paired_difference(np.zeros(3), np.zeros(4))
    with pytest.raises(DataError, match="two or more"):
        paired_difference([[1.0]], [[1.0]])
    with pytest.raises(DataError, match="paired seeds"):
        paired_difference(np.zeros((2, 3)), np.zeros((3, 3)), paired_seeds=True)
    with pytest.raises(NumericError, match="not finite"):
        paired_difference([0.0, np.nan], [0.0, 1.0])
    with pytest.raises(DataError, match="at least one number"):
        standard_error(np.zeros((0, 3)))


@pytest.mark.parametrize(("differing", "proven"), [(1, False), (5, False), (6, True), (40, True)])
def test_a_handful_of_items_proves_nothing(differing: int, proven: bool) -> None:
    """Even if all five agree, a sign test over them has p = 2 / 32."""
    baseline = np.zeros((3, 160))
    scores = baseline.copy()
    scores[:, :differing] = 1
    interval = paired_difference(scores, baseline)
    assert (interval.low > 0) == proven and interval.high > 0
