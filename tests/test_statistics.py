"""Intervals cover what they claim, and say no more than the data does."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import t, ttest_rel

from curate.contrast import Parts
from curate.errors import DataError, NumericError
from curate.statistics import Interval, disagreement, paired_difference, pairs_seeds, scale, standard_error, verdict

Table = NDArray[np.float64]


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
    assert tuple(back) == pytest.approx((-there.difference, -there.high, -there.low, there.p))
    assert paired_difference(scores + 2, baseline, paired_seeds=True, resamples=4000)[:3] == pytest.approx(np.add(there[:3], 2))


def test_equal_arms_differ_by_exactly_nothing():
    scores = np.random.default_rng(4).normal(size=(3, 20))
    assert paired_difference(scores, scores, paired_seeds=True) == Interval(0, 0, 0, 1)
    assert paired_difference(np.full((3, 7), 0.1), np.full((2, 7), 0.1)) == Interval(0, 0, 0, 1)


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


def two_arms(rng: np.random.Generator, seeds: int, right_or_wrong: bool, luck: float = 0.3) -> list[Table]:
    """Arms without any true difference: items in common, seeds of their own."""
    item = rng.normal(size=60)
    latent = [item + 0.5 * rng.normal(size=60) + two_way(rng, seeds, 60, seed_sd=luck * (seeds > 1), rest_sd=0.7) for _ in range(2)]
    return [(arm > 0.3).astype(float) if right_or_wrong else arm for arm in latent]


@pytest.mark.parametrize("level", [0.8, 0.9375, 0.95, 0.99])
def test_p_is_below_one_minus_the_level_exactly_where_the_interval_excludes_zero(level: float) -> None:
    seen = set()
    for run in range(120):
        rng = np.random.default_rng(run)
        scores, baseline = two_arms(rng, 1 + run % 4, run % 2 > 0)
        scores[:, : run % 9] += run % 3
        interval = paired_difference(scores, baseline, level=level, resamples=200, seed=run)
        assert (interval.p < 1 - level) == (not interval.low <= 0 <= interval.high)
        assert 0 <= interval.p <= 1
        seen.add(interval.p < 1 - level)
    assert seen == {True, False}


@pytest.mark.parametrize("side", [-1, 1])
@pytest.mark.parametrize("seeds", [1, 3])
def test_p_is_one_minus_the_level_where_an_end_touches_zero(seeds: int, side: int) -> None:
    """Of skewed scores, whose two ends are not equally far."""
    for run in range(12):
        rng = np.random.default_rng(run)
        scores = rng.exponential(size=(seeds, 30)) ** 2 + two_way(rng, seeds, 30, seed_sd=0.3)
        ends = paired_difference(scores, np.zeros((1, 30)))
        touching = scores - (ends.low if side > 0 else ends.high)
        interval = paired_difference(touching, np.zeros((1, 30)))
        assert interval.p == pytest.approx(0.05, rel=1e-6)
        assert (interval.p < 1 - 0.95) == (not interval.low <= 0 <= interval.high)
        assert paired_difference(touching + side * 0.01, np.zeros((1, 30))).p == pytest.approx(0.05, abs=0.005)


@pytest.mark.parametrize("shift", [0.0, 0.02, 0.05, 0.1])
def test_p_of_one_seed_and_many_items_is_that_of_the_paired_t_test(shift: float) -> None:
    rng = np.random.default_rng(8)
    scores, baseline = rng.normal(shift, 1, 4000), rng.normal(0, 1, 4000)
    p = paired_difference(scores, baseline, resamples=10000).p
    assert np.log(p) == pytest.approx(np.log(ttest_rel(scores, baseline).pvalue), rel=0.05, abs=0.02)


@pytest.mark.parametrize(("seeds", "right_or_wrong"), [(1, False), (1, True), (3, False), (3, True)])
def test_p_is_small_by_chance_no_more_often_than_it_says(seeds: int, right_or_wrong: bool) -> None:
    runs = [paired_difference(*two_arms(np.random.default_rng((run, 1)), seeds, right_or_wrong), resamples=400, seed=run).p for run in range(500)]
    assert 0.01 <= np.mean(np.less(runs, 0.05)) <= 0.07
    assert np.mean(np.less(runs, 0.01)) <= 0.022


@pytest.mark.parametrize("share", [0.4, 0.7, 0.95])
@pytest.mark.parametrize(("level", "allowed"), [(0.95, 0.055), (0.99, 0.0135), (0.998, 0.0045)])
def test_the_weighted_t_keeps_its_level_where_three_seeds_decide(share: float, level: float, allowed: float) -> None:
    """Satterthwaite's t, for comparison, excludes zero in 7.5%, 3.4% and 2% of these experiments at a share of 0.95."""
    rng = np.random.default_rng(9)
    items, luck, mean = (1 - share) * rng.chisquare(159, 8000) / 159, share * rng.chisquare(2, 8000) / 2, rng.normal(size=8000)
    drawn = [Parts(item, (seed,), (0.0,), (159, 2)) for item, seed in zip(items, luck, strict=True)]
    outside = [abs(value) > part.critical((1 - level) / 2) * part.variance**0.5 for value, part in zip(mean, drawn, strict=True)]
    assert np.mean(outside) <= allowed


def test_an_experiment_to_come_is_given_the_freedom_that_its_estimates_will_have() -> None:
    """Two arms of three seeds: four degrees of freedom, but three by what is estimated (harmonic mean), for luck makes the arms unequal."""
    drawn = np.random.default_rng(11).chisquare(2, (40000, 2))
    estimated = 1 / np.mean((drawn**2 / 2).sum(1) / drawn.sum(1) ** 2)
    ahead = Parts(0.0, (1.0, 1.0), (0.0, 0.0), (99, 2, 2))
    assert ahead.critical(0.025, ahead=True) == pytest.approx(t.isf(0.025, estimated), rel=0.01)
    assert ahead.critical(0.025) == pytest.approx(t.isf(0.025, 4))
    assert Parts(3.0, (1.0,), (0.0,), (99, 4)).critical(0.025, ahead=True) == pytest.approx(0.75 * t.isf(0.025, 99) + 0.25 * t.isf(0.025, 4))


def test_p_is_not_held_up_by_the_number_of_resamples_but_by_the_number_of_items_that_differ() -> None:
    rng = np.random.default_rng(10)
    assert paired_difference(rng.normal(2, 1, 200), np.zeros(200), resamples=100).p < 1e-20
    scores = np.zeros(200)
    scores[:8] = 1 + 0.01 * rng.random(8)
    assert paired_difference(scores, np.zeros(200)).p >= 2**-7


@pytest.mark.parametrize(("seeds", "correlation", "low", "high"), [(3, 0.0, 1.1, 1.4), (5, 0.0, 1.0, 1.2), (5, 0.7, 0.5, 0.8)])
def test_pairing_seeds_widens_three_independent_ones_and_narrows_five_correlated_ones(seeds: int, correlation: float, low: float, high: float) -> None:
    widths = np.zeros(2)
    for run in range(120):
        rng = np.random.default_rng(run)
        common = rng.normal(size=(seeds, 1)) * correlation**0.5
        arms = [common + two_way(rng, seeds, 40, seed_sd=(1 - correlation) ** 0.5, rest_sd=0.5) for _ in range(2)]
        for way in (0, 1):
            interval = paired_difference(*arms, resamples=200, paired_seeds=way > 0)
            widths[way] += interval.high - interval.low
    assert low < widths[1] / widths[0] < high


def test_seeds_are_paired_where_five_or_more_are_the_same() -> None:
    assert pairs_seeds([0, 1, 2, 3, 4], (0, 1, 2, 3, 4))
    assert not pairs_seeds([0, 1, 2], [0, 1, 2])
    assert not pairs_seeds([0, 1, 2, 3, 4], [0, 1, 2, 4, 3])
    assert not pairs_seeds([0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5])


def test_a_verdict_that_correction_takes_away_shows_what_the_interval_says_alone() -> None:
    up, down = Interval(0.018, 0.004, 0.031, 0.011), Interval(-0.018, -0.031, -0.004, 0.011)
    taken = "not distinguishable from random after correction for 24 comparisons (alone: "
    assert verdict(up, True, "acc", adjusted=0.26, comparisons=24) == taken + "+1.8 points [0.4, 3.1])"
    assert verdict(down, True, "acc", adjusted=0.05000001, comparisons=24) == taken + "-1.8 points [-3.1, -0.4])"
    assert verdict(up, True, "bleu", "full", adjusted=1.0, comparisons=2).endswith("2 comparisons (alone: +0.018 [0.004, 0.031])")
    assert verdict(up, True, "acc", adjusted=0.04, comparisons=24) == "better than random by 1.8 points [0.4, 3.1]"
    assert verdict(down, True, "acc", adjusted=0.04, comparisons=24) == "worse than random by 1.8 points [0.4, 3.1]"
    assert verdict(up, True, "acc", adjusted=0.04, comparisons=24, level=0.99).startswith(taken)
    assert verdict(Interval(0.018, -0.001, 0.031), True, "acc", adjusted=1.0, comparisons=24) == "not distinguishable from random"


BETTER, WORSE, UNCLEAR = Interval(0.2, 0.1, 0.3), Interval(-0.2, -0.3, -0.1), Interval(0.1, -0.1, 0.3)


@pytest.mark.parametrize(
    ("metric", "likelihood", "words"),
    [
        (WORSE, BETTER, "likelihood improves but the task metric gets worse"),
        (UNCLEAR, BETTER, "likelihood improves but the task metric does not"),
        (BETTER, WORSE, "the task metric improves but likelihood gets worse"),
        *((metric, likelihood, "") for metric, likelihood in [(BETTER, BETTER), (WORSE, WORSE), (UNCLEAR, UNCLEAR)]),
        *((metric, likelihood, "") for metric, likelihood in [(BETTER, UNCLEAR), (WORSE, UNCLEAR), (UNCLEAR, WORSE)]),
    ],
)
def test_likelihood_and_task_metric_disagree_in_three_ways(metric: Interval, likelihood: Interval, words: str) -> None:
    nll = Interval(-likelihood.difference, -likelihood.high, -likelihood.low)
    for said in (disagreement(metric, True, likelihood, True), disagreement(metric, True, nll, False)):
        assert said.startswith(words) and bool(said) == bool(words)


@pytest.mark.parametrize(("differing", "proven"), [(1, False), (5, False), (6, True), (40, True)])
def test_a_handful_of_items_proves_nothing(differing: int, proven: bool) -> None:
    """Even if all five agree, a sign test over them has p = 2 / 32."""
    baseline = np.zeros((3, 160))
    scores = baseline.copy()
    scores[:, :differing] = 1
    interval = paired_difference(scores, baseline)
    assert (interval.low > 0) == proven and interval.high > 0
