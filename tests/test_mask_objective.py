"""The objective of masks against its definition, and its bound against every mask."""

from itertools import combinations

import numpy as np
import pytest

from curate.core import Budget, Features
from curate.masks.bound import largest
from curate.masks.diversity import Form
from curate.masks.objective import MaskObjective, sizes, typical_size
from curate.masks.search import greedy_mask
from curate.order import best_first

FORMS: tuple[Form, ...] = ("pairwise", "covariance", "facility")


def pool(n: int, seed: int = 0, width: int = 5) -> Features:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(6, width))[rng.integers(6, size=n)] + 0.6 * rng.normal(size=(n, width)) + 0.3
    return Features.from_arrays(vectors=vectors, scores=rng.normal(size=n), lengths=rng.integers(1, 20, n))


def objective(rows: Features, budget: Budget, weight: float, form: Form) -> MaskObjective:
    assert rows.scores is not None
    made = MaskObjective.of(rows, budget, np.asarray(rows.scores, np.float64), weight, form, 4)
    assert made is not None
    return made


def test_j_is_the_mean_score_and_minus_the_mean_cosine_each_in_deviations_over_random_masks() -> None:
    rows, kept = pool(30), np.asarray([2, 17, 5, 29])
    held = objective(rows, Budget(amount=4), 0.3, "pairwise")
    unit = np.asarray(rows.vectors) / np.linalg.norm(np.asarray(rows.vectors), axis=1, keepdims=True)
    cosine = np.mean([unit[i] @ unit[j] for i, j in combinations(kept, 2)])
    assert rows.scores is not None
    assert held.terms(kept) == pytest.approx((rows.scores[kept].mean(), -cosine), abs=1e-6)
    assert held.value(kept) == pytest.approx(0.3 * rows.scores[kept].mean() / held.sigma_quality - 0.7 * cosine / held.sigma_diversity, abs=1e-5)
    spread = np.std([rows.scores[list(mask)].mean() for mask in combinations(range(30), 4)])
    assert held.sigma_quality == pytest.approx(spread, rel=0.3)  # of 64 masks, an error of 9%


@pytest.mark.parametrize("form", FORMS)
def test_both_terms_vary_by_one_over_random_masks(form: Form) -> None:
    rows, rng = pool(200), np.random.default_rng(0)
    held = objective(rows, Budget(amount=20), 0.5, form)
    terms = np.asarray([held.terms(rng.choice(200, 20, replace=False)) for _ in range(400)])
    assert terms.std(axis=0) / [held.sigma_quality, held.sigma_diversity] == pytest.approx([1, 1], rel=0.35)
    assert held.random == pytest.approx(np.mean(terms @ held.scales), abs=0.4)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(6))
def test_no_mask_exceeds_the_bound_whichever_mask_it_was_drawn_up_for(form: Form, seed: int) -> None:
    rows, rng = pool(10, seed), np.random.default_rng(seed)
    for weight in (0.0, 0.4, 1.0):
        held = objective(rows, Budget(amount=3), weight, form)
        best = {k: max(held.value(np.asarray(mask)) for mask in combinations(range(10), k)) for k in range(1, 7)}
        for k in best:
            given = rng.choice(10, k, replace=False)
            assert best[k] <= largest(rows, held.form, held.quality, held.scales, given, (k, k)) + 1e-6
        for fewest, most in ((1, 6), (2, 4), (1, 1), (3, 6)):
            bound = largest(rows, held.form, held.quality, held.scales, rng.choice(10, most, replace=False), (fewest, most))
            assert max(best[k] for k in range(fewest, most + 1)) <= bound + 1e-6


@pytest.mark.parametrize("form", ["pairwise", "covariance"])
@pytest.mark.parametrize("weight", [0.1, 0.5])
def test_the_bound_is_within_a_tenth_of_the_way_to_random_masks(form: Form, weight: float) -> None:
    rows, budget = pool(400, width=8), Budget(amount=40)
    held = objective(rows, budget, weight, form)
    kept = greedy_mask(held.reward(40), np.ones(400, np.int64), 40)[0]
    assert held.certificate(kept, budget).gap < 0.1


@pytest.mark.parametrize("form", ["pairwise", "covariance"])
def test_even_for_a_random_mask_the_bound_comes_near_the_best(form: Form) -> None:
    rows, budget = pool(400, width=8), Budget(amount=40)
    held = objective(rows, budget, 0.3, form)
    good = held.value(greedy_mask(held.reward(40), np.ones(400, np.int64), 40)[0])
    for seed in range(3):
        given = np.random.default_rng(seed).choice(400, 40, replace=False)
        bound = largest(rows, held.form, held.quality, held.scales, given, (40, 40))
        assert good <= bound + 1e-6 and bound - good < 0.01 * (good - held.random)


def test_the_reward_of_rows_in_memory_is_j() -> None:
    rows = pool(25)
    for form in FORMS:
        held = objective(rows, Budget(amount=6), 0.4, form)
        mask = np.isin(np.arange(25), [1, 4, 9, 16, 20, 24])
        assert held.reward(6).of(mask[None])[0] == pytest.approx(held.value(np.flatnonzero(mask)), abs=1e-5)


def test_sizes_hold_every_mask_that_nothing_more_fits_into() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        costs, capacity = rng.integers(1, 8, 7), int(rng.integers(8, 20))
        full = [
            len(mask)
            for k in range(1, 8)
            for mask in combinations(range(7), k)
            if costs[list(mask)].sum() <= capacity and (k == 7 or capacity - costs[list(mask)].sum() < min(costs[i] for i in range(7) if i not in mask))
        ]
        fewest, most = sizes(costs, capacity)
        assert fewest <= min(full) and most == max(full)


def test_the_typical_size_leaves_something_to_choose_unless_everything_fits() -> None:
    ones = np.ones(10, np.int64)
    assert [typical_size(ones, k) for k in (0, 1, 4, 10, 12)] == [0, 1, 4, 10, 10]
    assert typical_size(np.asarray([50, 60]), 3) == 1 and typical_size(np.asarray([1, 100, 1]), 101) == 2


def test_masks_larger_than_the_sample_that_sigmas_are_taken_on_have_a_random_control_of_their_own() -> None:
    rows, rng = pool(9000), np.random.default_rng(3)
    held = objective(rows, Budget(amount=8000), 0.0, "facility")
    full, part = ([held.value(rng.choice(9000, size, replace=False)) for _ in range(8)] for size in (8000, 4096))
    assert np.mean(full) - np.mean(part) > 0.5
    assert abs(held.random - np.mean(full)) < 0.5 * (np.mean(full) - np.mean(part))


def test_where_no_row_fits_there_is_no_objective() -> None:
    rows = Features.from_arrays(vectors=np.eye(4), scores=np.arange(4.0), lengths=[5, 6, 7, 8])
    assert MaskObjective.of(rows, Budget(amount=4, unit="tokens"), np.arange(4.0), 0.5, "pairwise", 4) is None


def test_best_first_rows_by_quality_reach_the_bound_when_quality_is_all() -> None:
    rows, budget = pool(50), Budget(amount=10)
    held = objective(rows, budget, 1.0, "pairwise")
    assert held.certificate(best_first(held.quality, 10), budget).gap == pytest.approx(0, abs=1e-9)
