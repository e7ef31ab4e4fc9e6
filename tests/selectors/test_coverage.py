"""Coverage: the allocation against every allocation, the edges of the score range, and the rows set aside."""

from itertools import product

import numpy as np
import pytest

from curate.core import Budget, Features
from curate.interfaces import Context
from curate.selectors.coverage import Coverage


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
