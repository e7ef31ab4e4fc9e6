"""Experiments of the planned size reach the power that was planned, and smaller ones do not."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import binom, nct, t

from curate.contrast import Contrast, Parts
from curate.errors import ConfigError, DataError
from curate.power import Needed, detectable, needed, needed_words
from curate.statistics import paired_difference

Table = NDArray[np.float64]


def scaled(values: Table, variance: float) -> Table:
    """With mean zero and exactly this sample variance."""
    centred = values - values.mean()
    return centred * np.sqrt(variance / np.var(centred, ddof=1))


def pilot(seeds: int, items: int, seed_sd: float, item_sd: float, rest_sd: float, effect: float = 0.0, draw: int = 0) -> Table:
    """A table whose components of variance are estimated exactly as they are."""
    rng = np.random.default_rng((seeds, draw))
    if seeds == 1:
        return effect + scaled(rng.normal(size=(1, items)), item_sd**2 + rest_sd**2)
    rest = rng.normal(size=(seeds, items))
    rest += rest.mean() - rest.mean(0) - rest.mean(1, keepdims=True)
    rest *= rest_sd / np.sqrt((rest**2).sum() / ((seeds - 1) * (items - 1)))
    by_seed = scaled(rng.normal(size=(seeds, 1)), seed_sd**2 + rest_sd**2 / items)
    return effect + by_seed + scaled(rng.normal(size=(1, items)), item_sd**2 + rest_sd**2 / seeds) + rest


def found(seeds: int, items: int, seed_sd: float, item_sd: float, rest_sd: float, effect: float, *, paired: bool) -> float:
    """The share of simulated experiments that tell the effect; the baseline has no difficulty of items that ours lacks."""
    told = 0
    for run in range(250):
        rng = np.random.default_rng((run, seeds, items))
        luck = [seed_sd * rng.normal(size=(seeds, 1)) + rest_sd * rng.normal(size=(seeds, items)) for _ in range(2)]
        ours = effect + item_sd * rng.normal(size=(1, items)) + luck[0]
        told += paired_difference(ours, np.zeros((seeds, items)) if paired else luck[1], resamples=200, seed=run, paired_seeds=paired).low > 0
    return told / 250


def closed_form(n: int, effect: float, sd: float, level: float = 0.95) -> float:
    return float(nct.sf(t.ppf((1 + level) / 2, n - 1), n - 1, effect * np.sqrt(n) / sd))


@pytest.mark.parametrize(("effect", "power", "level"), [(0.5, 0.8, 0.95), (0.1, 0.8, 0.95), (0.1, 0.9, 0.99), (0.02, 0.6, 0.95), (0.8, 0.8, 0.95)])
def test_items_for_one_seed_are_those_of_the_paired_t_test(effect: float, power: float, level: float) -> None:
    scores = pilot(1, 50, 0, 1, 0, 0.3)
    items = needed(scores, np.zeros(50), power, level, effect).items
    assert items is not None
    assert closed_form(items, effect, 1, level) >= power > closed_form(items - 1, effect, 1, level)


@pytest.mark.parametrize(("items", "sd"), [(20, 1.0), (300, 0.4)])
def test_what_one_seed_could_tell_is_what_the_paired_t_test_could(items: int, sd: float) -> None:
    told = brentq(lambda effect: closed_form(items, effect, sd) - 0.8, 1e-6, 10 * sd)
    assert detectable(pilot(1, items, 0, sd, 0), np.zeros(items)) == pytest.approx(told, rel=1e-6)


@pytest.mark.parametrize(
    ("spread", "effect", "paired"),
    [((3, 150, 0.1, 1, 0.5), 0.4, False), ((5, 150, 0.2, 1, 0.5), 0.45, True), ((5, 150, 0.05, 0.7, 1), 0.2, False)],
)
def test_experiments_of_the_planned_size_reach_the_power(spread: tuple[int, int, float, float, float], effect: float, paired: bool) -> None:
    seeds, n, seed_sd, item_sd, rest_sd = spread
    tables = pilot(*spread, effect), np.zeros((seeds, n)) if paired else pilot(seeds, n, seed_sd, 0, rest_sd, draw=1)
    plan = needed(*tables, effect=effect, paired_seeds=paired)
    assert plan.items is not None and plan.seeds is not None
    sds = (seed_sd, item_sd, rest_sd)
    assert found(seeds, plan.items, *sds, effect, paired=paired) == pytest.approx(0.8, abs=0.07)
    assert found(plan.seeds, n, *sds, effect, paired=paired) >= 0.73
    assert plan.seeds == 2 or found(plan.seeds - 1, n, *sds, effect, paired=paired) <= 0.87
    assert found(seeds, n, *sds, detectable(*tables, paired_seeds=paired), paired=paired) == pytest.approx(0.8, abs=0.07)


def test_what_three_seeds_could_tell_is_told_in_four_of_five_experiments_where_only_seeds_vary() -> None:
    least = detectable(pilot(3, 50, 0.2, 1e-3, 1e-3), pilot(3, 50, 0.2, 1e-3, 1e-3, draw=1))
    rng = np.random.default_rng(3)
    arms = 0.2 * rng.normal(size=(8000, 2, 3))
    told = 0
    for difference, variances in zip(arms.mean(2) @ [1, -1], arms.var(2, ddof=1) / 3, strict=True):
        parts = Parts(0.0, tuple(variances), (0.0, 0.0), (49, 2, 2))
        told += least + difference > parts.critical(0.025) * parts.variance**0.5
    assert told / 8000 == pytest.approx(0.8, abs=0.025)


def test_what_an_experiment_could_tell_needs_just_its_items_and_its_seeds() -> None:
    tables = pilot(4, 90, 0.2, 1, 0.6), pilot(4, 90, 0.2, 0, 0.6, draw=1)
    least = detectable(*tables)
    plan = needed(*tables, effect=least * (1 + 1e-6))
    assert plan.items == 90 and plan.seeds == 4


def test_the_parts_at_the_present_size_are_the_present_ones() -> None:
    parts = Contrast.of(pilot(4, 90, 0.2, 1, 0.6), pilot(3, 90, 0.2, 0, 0.6, draw=1), paired_seeds=False).parts
    planned = parts.planned(90, (4, 3))
    assert planned.freedoms == parts.freedoms
    assert (planned.items, *planned.seeds, *planned.rest) == pytest.approx((parts.items, *parts.seeds, *parts.rest))


def test_parts_of_other_sizes_follow_the_components() -> None:
    parts = Contrast.of(pilot(4, 90, 0.2, 1, 0.6), pilot(4, 90, 0.1, 0, 0.6, draw=1), paired_seeds=False).parts.planned(500, (9, 9))
    rest = 0.36 / (9 * 500)
    assert parts.rest == pytest.approx((rest, rest))
    assert parts.seeds == pytest.approx((0.04 / 9 + rest, 0.01 / 9 + rest), rel=0.05)
    assert parts.variance == pytest.approx(1 / 500 + 0.05 / 9 + 2 * rest, rel=0.05)


def test_no_number_would_do_where_the_other_source_alone_is_too_large() -> None:
    lucky = needed(pilot(3, 200, 1, 0.1, 0.1, 0.5), np.zeros((3, 200)), paired_seeds=True)
    assert lucky.items is None and lucky.seeds is not None and lucky.effect == pytest.approx(0.5)
    varied = needed(pilot(3, 20, 0.01, 1, 0.1, 0.3), np.zeros((3, 20)), paired_seeds=True)
    assert varied.items is not None and varied.seeds is None
    assert needed(pilot(3, 20, 1, 1, 0.1, 0.01), np.zeros((3, 20)), paired_seeds=True) == Needed(None, None, pytest.approx(0.01))


def test_one_seed_says_nothing_of_seeds_and_no_difference_nothing_of_size() -> None:
    assert needed(pilot(1, 50, 0, 1, 0, 0.3), np.zeros(50)).seeds is None
    assert needed(pilot(1, 50, 0, 1, 0, 3.0), np.zeros(50)).seeds is None
    scores = pilot(3, 50, 0.1, 1, 0.5)
    assert needed(scores, scores[::-1]) == Needed(None, None, 0.0)
    assert needed(scores, scores - 0.1, effect=-0.3) == needed(scores, scores + 0.1, effect=0.3)


def test_an_arm_of_one_seed_keeps_it() -> None:
    """Zero-shot has no luck of seeds: more of them help the other arm only."""
    zero_shot, random = pilot(1, 100, 0, 0.3, 0, 0.5), pilot(3, 100, 0.2, 0.3, 0.3)
    plan = needed(zero_shot, random)
    both = needed(random + 0.5, pilot(3, 100, 0.2, 0.3, 0.3, draw=1))
    assert plan.seeds is not None and both.seeds is not None and plan.seeds <= both.seeds


def test_larger_effects_need_no_more_and_more_power_no_less() -> None:
    tables = pilot(3, 80, 0.05, 1, 0.5), pilot(3, 80, 0.05, 0, 0.5, draw=1)
    items = [needed(*tables, effect=effect).items for effect in (1.5, 1.0, 0.7, 0.5, 0.4)]
    assert all(items) and items == sorted(items, key=lambda count: count or 0)
    powers = [needed(*tables, power=power, effect=0.5).items or 0 for power in (0.5, 0.8, 0.9, 0.95)]
    assert powers == sorted(powers) and powers[0] < powers[-1]


@pytest.mark.parametrize("n", [40, 160])
def test_equal_right_or_wrong_answers_could_still_have_told_a_difference(n: int) -> None:
    """Were a share d of the items gained and none lost, this many experiments would tell it."""
    same = (np.arange(n) % 3 > 0).astype(float)
    least = detectable(same, same)
    told = 0
    for run in range(400):
        gained = (np.random.default_rng((run, n)).random(n) < least).astype(float)
        told += paired_difference(gained, np.zeros(n), resamples=200, seed=run).low > 0
    assert 0.72 <= told / 400 <= 0.95
    assert binom.sf(5, n, least) >= 0.8  # six items must differ


def test_few_items_tell_nothing_whatever_the_difference() -> None:
    scores = pilot(3, 5, 0.01, 0.1, 0.1, 5.0)
    assert np.isinf(detectable(scores, np.zeros((3, 5))))
    assert needed(scores, np.zeros((3, 5))).items == 6
    assert np.isinf(detectable([1.0, 0, 0, 0, 1], [0.0, 0, 0, 0, 1]))
    assert np.isnan(detectable(scores, scores))


def test_the_sentence_names_items_seeds_and_what_could_be_told() -> None:
    tables = pilot(5, 300, 0.0, 0.2, 0.2, 0.006), np.zeros((5, 300))
    plan, least = needed(*tables, paired_seeds=True), 100 * detectable(*tables, paired_seeds=True)
    assert plan.items is not None and plan.items > 1000
    two_digits = -(-plan.items // 10 ** (len(str(plan.items)) - 2)) * 10 ** (len(str(plan.items)) - 2)
    rest = f"; this experiment could tell {least:.1f} points"
    start = "to tell 0.6 points from zero with 80% power: "
    assert plan.seeds is None
    assert needed_words(*tables, "acc", paired_seeds=True) == f"{start}{two_digits:,} items (no number of seeds would do with these items){rest}"
    assert needed_words(*tables, "acc", effect=0.035, paired_seeds=True).startswith("to tell 3.5 points from zero with 80% power: ")
    assert " items, or " in needed_words(*tables, "acc", effect=0.035, paired_seeds=True)


def test_the_sentence_says_why_a_number_is_missing() -> None:
    lucky = pilot(3, 200, 1, 0.1, 0.1, 0.5), np.zeros((3, 200))
    assert "seeds (no number of items would do with these seeds); this experiment" in needed_words(*lucky, "nll", paired_seeds=True)
    assert "neither more items nor more seeds alone would do" in needed_words(*lucky, "nll", effect=0.001, paired_seeds=True)
    assert "one seed says nothing of what more seeds would bring" in needed_words(pilot(1, 50, 0, 1, 0, 0.3), np.zeros(50), "nll")
    assert needed_words(pilot(1, 50, 0, 1, 0), np.zeros(50), "f1", effect=1e-5).startswith("to tell less than 0.1 points from zero")
    same = (np.arange(160) % 3 > 0).astype(float)
    assert needed_words(same, same, "acc").startswith("there is no difference to plan for; this experiment could tell 5.8 points")
    assert needed_words(pilot(1, 50, 0, 1, 0), pilot(1, 50, 0, 1, 0), "nll").startswith("the arms are equal on every item")
    assert needed_words([1.0, 0, 0], [0.0, 0, 0], "acc").endswith("this experiment has too few items or seeds to tell any difference")


def test_impossible_wishes_are_refused() -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        needed(np.ones(9), np.zeros(9), power=80)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        detectable(np.ones(9), np.zeros(9), level=1.0)
    with pytest.raises(DataError, match="same items"):
        needed(np.ones(9), np.zeros(8))
