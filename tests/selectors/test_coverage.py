"""Coverage: the allocation against every allocation, the edges of the score range, and the rows set aside."""

from itertools import product
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from curate.core import Budget, Features
from curate.hard_tail import share_beyond_knee, share_beyond_target
from curate.interfaces import Context
from curate.selectors.coverage import Coverage, _drawn
from curate.testing import check_selector, sample_features


def shares(scores: np.ndarray, k: int, strata: int) -> tuple[list[int], list[int]]:
    """(rows kept, rows held) of every bin of equal width."""
    kept = Coverage(strata=strata, hardest_cut=0.0).select(Features.from_arrays(scores=scores), Budget(amount=k)).indices
    bins = np.minimum(((scores - scores.min()) / np.ptp(scores) * strata).astype(int), strata - 1)
    return np.bincount(bins[kept], minlength=strata).tolist(), np.bincount(bins, minlength=strata).tolist()


@pytest.mark.parametrize("seed", range(10))
def test_no_allocation_gives_the_bins_that_still_have_rows_more(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = np.concatenate([[0.0, 4.0], rng.choice([0.5, 1.5, 2.5, 3.5], 9, p=[0.6, 0.2, 0.1, 0.1])])
    for k in (1, 4, 7, 10):
        given, held = shares(scores, k, 4)

        def least(allocation: tuple[int, ...], held: list[int] = held) -> int:
            return min((got for got, has in zip(allocation, held, strict=True) if got < has), default=len(scores))

        every = (some for some in product(*(range(has + 1) for has in held)) if sum(some) == k)
        assert sum(given) == k
        assert least(tuple(given)) == max(least(some) for some in every)


@pytest.mark.parametrize("shift", [-100.0, 0.0, 100.0])
def test_shifting_and_scaling_the_scores_changes_nothing_even_below_zero(shift: float) -> None:
    scores = np.random.default_rng(0).integers(0, 64, 60) / 64
    base = Coverage(strata=5).select(Features.from_arrays(scores=scores), Budget(amount=20))
    moved = Coverage(strata=5).select(Features.from_arrays(scores=4 * scores + shift), Budget(amount=20))
    assert moved.indices.tolist() == base.indices.tolist()


def test_low_scores_are_hard_where_the_recipe_says_so() -> None:
    scores = np.random.default_rng(0).normal(size=50)
    for hard, beyond in (("high", scores >= np.sort(scores)[40]), ("low", scores <= np.sort(scores)[9])):
        kept = Coverage(hard=hard, hardest_cut=0.2).select(Features.from_arrays(scores=scores), Budget(amount=40)).indices  # type: ignore[arg-type]
        assert not beyond[kept].any()


def test_the_rows_set_aside_come_last_and_least_hard_first() -> None:
    scores = np.random.default_rng(0).normal(size=50)
    kept = Coverage(hardest_cut=0.2).select(Features.from_arrays(scores=scores), Budget(amount=45)).indices
    assert kept[40:].tolist() == np.argsort(scores)[40:45].tolist()


def test_the_share_set_aside_is_rounded_down_and_never_the_whole_pool() -> None:
    for rows, cut, aside in ((15, 0.1, 1), (10, 0.3, 3), (9, 0.1, 0), (3, 0.99, 2), (1, 0.99, 0)):
        certificate = Coverage(hardest_cut=cut).select(Features.from_arrays(scores=np.arange(float(rows))), Budget(amount=1)).certificate
        assert certificate is not None and certificate.details["set_aside"] == aside


def test_quantile_bins_hold_equal_numbers_whatever_the_scale() -> None:
    scores = np.exp(np.random.default_rng(0).normal(size=60) * 3)
    kept = Coverage(strata=6, bins="quantile", hardest_cut=0.0).select(Features.from_arrays(scores=scores), Budget(amount=18)).indices
    rank = np.argsort(np.argsort(scores))
    assert np.bincount(rank[kept] // 10, minlength=6).tolist() == [3] * 6


def test_within_a_bin_every_row_is_kept_equally_often() -> None:
    pool = Features.from_arrays(scores=np.ones(8))
    counts = np.zeros(8)
    for seed in range(1000):
        counts[Coverage(hardest_cut=0.0).select(pool, Budget(amount=2), context=Context(seed=seed)).indices] += 1
    assert abs(counts - 250).max() < 5 * np.sqrt(1000 * 0.25 * 0.75)


def test_the_certificate_is_optimal_for_rows_and_a_true_bound_for_tokens() -> None:
    rng = np.random.default_rng(0)
    pool = Features.from_arrays(scores=rng.normal(size=200), lengths=rng.integers(1, 20, 200))
    by_rows = Coverage(strata=8).select(pool, Budget(amount=61)).certificate
    by_tokens = Coverage(strata=8).select(pool, Budget(amount=500, unit="tokens")).certificate
    assert by_rows is not None and by_tokens is not None
    assert by_rows.gap == 0 and by_rows.objective == by_rows.bound > 0
    assert 0 < by_tokens.objective <= by_tokens.bound
    assert by_tokens.gap == pytest.approx(1 - by_tokens.objective / by_tokens.bound)
    coarse = Features.from_arrays(scores=[0.0, 0.0, 1.0, 1.0], lengths=[10] * 4)
    unspent = Coverage(strata=2, hardest_cut=0.0).select(coarse, Budget(amount=15, unit="tokens")).certificate
    assert unspent is not None and (unspent.objective, unspent.bound) == (0, 7.5)


@pytest.mark.parametrize(
    "fields",
    [
        {"balanced": True},
        {"balanced": True, "bins": "quantile", "strata": 3},
        {"hardest_cut": "auto"},
        {"hardest_cut": "auto", "balanced": True, "hard": "low"},
        {"strata": 1, "hardest_cut": 0.0},
    ],
)
def test_other_fields_keep_the_contract(fields: dict[str, Any]) -> None:
    check_selector(Coverage(**fields))


def test_a_cut_read_off_a_scored_target_keeps_the_contract() -> None:
    pool = sample_features(60)
    trusted = Features.from_arrays(scores=np.asarray(pool.scores)[:40] - 1, vectors=np.asarray(pool.vectors)[:40], ids=[f"t{i}" for i in range(40)])
    check_selector(Coverage(hardest_cut="auto"), features=pool, target=trusted)


@pytest.mark.parametrize("fields", [{"hardest_cut": 1.0}, {"hardest_cut": -0.1}, {"hardest_cut": "none"}, {"strata": 0}, {"strata": 10**9}])
def test_absurd_fields_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Coverage(**fields)


@pytest.mark.parametrize("kept", [1, 50, 777, 5_000, 17_999])
def test_drawing_only_the_rows_that_can_be_taken_changes_none(kept: int) -> None:
    rng = np.random.default_rng(0)
    pool = Features.from_arrays(scores=rng.gamma(1.0, size=20_000))
    few = Coverage(strata=20).select(pool, Budget(amount=kept)).indices
    assert few.tolist() == Coverage(strata=20).select(pool, Budget(amount=18_000)).indices[:kept].tolist()


def test_a_bin_whose_random_numbers_are_all_high_is_drawn_whole() -> None:
    stratum = np.repeat(np.arange(2, dtype=np.int32), [5000, 300])
    random = np.concatenate([np.linspace(0, 1, 5000, endpoint=False), np.full(300, 0.9999)])
    drawn = _drawn(stratum, np.asarray([5000, 300]), random, 40)
    assert set(range(5000, 5300)) <= set(drawn.tolist()) and len(drawn) < 1000
    random = np.where(np.arange(2000) % 1000 < 100, 0.1, 0.9)  # one row less than a bin may have to give
    assert len(_drawn(np.repeat(np.arange(2, dtype=np.int32), 1000), np.asarray([1000, 1000]), random, 201)) == 2000


@pytest.mark.parametrize("unit", ["rows", "tokens"])
def test_every_group_gets_its_share_of_the_budget_and_fills_its_own_bins(unit: Any) -> None:
    rng = np.random.default_rng(1)
    sizes = {"large": 600, "middle": 300, "small": 90, "tiny": 10}
    groups = [name for name, size in sizes.items() for _ in range(size)]
    scores = np.concatenate([rng.normal(loc=10 * place, size=size) for place, size in enumerate(sizes.values())])
    pool = Features.from_arrays(scores=scores, groups=groups, lengths=np.full(1000, 3))
    for kept in (10, 100, 333, 999):
        chosen = Coverage(balanced=True, strata=5).select(pool, Budget(amount=float(kept * (3 if unit == "tokens" else 1)), unit=unit))
        assert len(chosen) == kept
        for name, size in sizes.items():
            members = np.flatnonzero(pool.groups == name)
            held = np.intersect1d(chosen.indices, members)
            assert abs(len(held) - kept * size / 1000) < 1
            usable = np.sort(scores[members])[: size - size // 10]
            bins = np.minimum((scores[members] - usable[0]) / np.ptp(usable) * 5, 4).astype(int)
            inside = scores[members] <= usable[-1]
            took = np.bincount(bins[inside & np.isin(members, held)], minlength=5)
            full = took == np.bincount(bins[inside], minlength=5)
            assert np.ptp(took[~full]) <= 1 if (~full).any() else True


def test_one_group_that_is_balanced_is_the_whole_pool() -> None:
    pool = Features.from_arrays(scores=np.random.default_rng(3).normal(size=100))
    for kept in (20, 95):
        one, other = (Coverage(strata=6, balanced=balanced).select(pool, Budget(amount=kept)) for balanced in (False, True))
        assert one.indices.tolist() == other.indices.tolist() and one.certificate == other.certificate


def test_the_certificate_sees_a_selection_that_neglects_a_bin() -> None:
    pool = Features.from_arrays(scores=np.linspace(0, 1, 40))
    selector = Coverage(strata=4, hardest_cut=0.0)
    fair = selector.certify(pool, Budget(amount=8), np.asarray([0, 1, 12, 13, 22, 23, 38, 39]))
    unfair = selector.certify(pool, Budget(amount=8), np.asarray([0, 1, 2, 12, 13, 22, 23, 39]))
    missing = selector.certify(pool, Budget(amount=8), np.arange(8))
    assert fair is not None and unfair is not None and missing is not None
    assert (fair.objective, fair.bound, fair.gap) == (2, 2, 0)
    assert (unfair.objective, unfair.bound, unfair.gap) == (1, 2, 0.5)
    assert (missing.objective, missing.gap) == (0, 1)


def test_the_curves_count_the_rows_of_every_bin_from_easy_to_hard() -> None:
    scores = np.asarray([0.0, 0.1, 0.2, 0.6, 1.0, 9.0])
    chosen = Coverage(strata=2, hardest_cut=0.2).select(Features.from_arrays(scores=scores), Budget(amount=3))
    assert chosen.curves["rows_of_stratum"].tolist() == [3, 2]
    assert chosen.curves["kept_of_stratum"].tolist() == [2, 1]


def test_huge_tiny_and_equal_scores_have_bins() -> None:
    for scores in ([-1.7e308, 0.0, 1.7e308, 1.0], [1e-320, 2e-320, 3e-320, 1e300], [-3.0, -3.0, -3.0, -3.0], [0.0, -1.0, -2.0, -3.0]):
        for cut in (0.0, 0.3):
            with np.errstate(all="raise", under="ignore"):
                chosen = Coverage(strata=3, hardest_cut=cut).select(Features.from_arrays(scores=scores), Budget(amount=4))
            assert sorted(chosen.indices.tolist()) == [0, 1, 2, 3]


def test_the_share_beyond_a_target_is_a_lower_bound_nineteen_times_in_twenty() -> None:
    rng = np.random.default_rng(0)
    above, found = 0, []
    for _ in range(200):
        pool = np.concatenate([rng.normal(size=1600), rng.normal(loc=4, size=400)])
        found.append(share_beyond_target(pool, rng.normal(size=1000)))
        above += found[-1] > 0.2
    assert above <= 10 and 0.1 < np.mean(found) < 0.2


def test_a_pool_like_its_target_loses_nothing_and_few_target_rows_prove_nothing() -> None:
    rng = np.random.default_rng(1)
    assert max(share_beyond_target(rng.normal(size=500), rng.normal(size=500)) for _ in range(100)) == 0
    assert share_beyond_target(np.full(1000, 9.0), np.zeros(1)) == 0
    assert share_beyond_target(np.full(1000, 9.0), np.zeros(1000)) == pytest.approx(0.95, abs=0.02)
    assert share_beyond_target(np.zeros(0), np.zeros(0)) == 0


def test_the_share_beyond_the_knee_is_the_tail_and_nothing_where_there_is_none() -> None:
    rng = np.random.default_rng(2)
    even = [share_beyond_knee(rng.uniform(size=1000)) for _ in range(200)]
    assert np.mean(np.asarray(even) > 0) < 0.1
    tail = np.concatenate([rng.uniform(0, 1, 950), rng.uniform(5, 10, 50)])
    assert share_beyond_knee(tail) == pytest.approx(0.05)
    assert share_beyond_knee(7 * tail - 3) == pytest.approx(0.05)
    assert [share_beyond_knee(np.ones(n)) for n in (1, 2, 50)] == [0, 0, 0]


def test_an_automatic_cut_sets_the_planted_noise_aside() -> None:
    rng = np.random.default_rng(4)
    scores = np.concatenate([rng.normal(size=900), rng.normal(loc=8, size=100)])
    pool, trusted = Features.from_arrays(scores=scores), Features.from_arrays(scores=rng.normal(size=4000))
    for target, low, high in ((None, 0.1, 0.15), (trusted, 0.03, 0.1)):
        chosen = Coverage(hardest_cut="auto").select(pool, Budget(amount=300), target=target)
        assert chosen.certificate is not None and low <= chosen.certificate.details["hardest_cut"] <= high
        assert chosen.certificate == Coverage(hardest_cut="auto").certify(pool, Budget(amount=300), chosen.indices, target=target)
