"""Draws follow the weights: chi-square against the softmax and against successive sampling without replacement."""

from itertools import permutations

import numpy as np
import pytest
from scipy.stats import chisquare

from curate.core import Budget, Features
from curate.errors import NumericError
from curate.interfaces import Context
from curate.selectors.dsir_sample import DsirSample
from curate.testing import check_selector

SCORES = np.asarray([0.0, 1.0, -1.0, 2.0, 0.5, -700.0])
POOL = Features.from_arrays(scores=SCORES)


def drawn(k: int, seeds: int, temperature: float = 1.0) -> list[tuple[int, ...]]:
    selector = DsirSample(temperature=temperature)
    return [tuple(selector.select(POOL, Budget(amount=k), context=Context(seed=seed)).indices.tolist()) for seed in range(seeds)]


@pytest.mark.parametrize("temperature", [1.0, 3.0, 0.5])
def test_the_first_row_is_drawn_in_proportion_to_its_weight(temperature: float) -> None:
    weight = np.exp(SCORES[:5] / temperature)
    counts = np.bincount([rows[0] for rows in drawn(1, 3000, temperature)], minlength=6)
    assert counts[5] == 0
    assert chisquare(counts[:5], 3000 * weight / weight.sum()).pvalue > 1e-3


def test_each_further_row_is_drawn_in_proportion_among_those_left() -> None:
    weight = np.exp(SCORES[:5])
    pairs = list(permutations(range(5), 2))
    chance = [weight[a] / weight.sum() * weight[b] / (weight.sum() - weight[a]) for a, b in pairs]
    rows = drawn(2, 3000)
    counts = [rows.count(pair) for pair in pairs]
    assert sum(counts) == 3000
    assert chisquare(counts, 3000 * np.asarray(chance)).pvalue > 1e-3


def test_equal_weights_are_uniform_sampling() -> None:
    pool = Features.from_arrays(scores=np.full(8, 3.0))
    counts = np.zeros(8)
    for seed in range(2000):
        counts[DsirSample().select(pool, Budget(amount=2), context=Context(seed=seed)).indices] += 1
    assert chisquare(counts).pvalue > 1e-3


def test_a_row_keeps_its_number_whatever_other_rows_there_are() -> None:
    scores = np.random.default_rng(0).normal(size=40)
    ids = [f"row-{i:02d}" for i in range(40)]
    whole = Features.from_arrays(scores=scores, ids=ids)
    half = Features.from_arrays(scores=scores[::-2], ids=ids[::-2])
    order = [ids[row] for row in DsirSample().select(whole, Budget(amount=40), context=Context(seed=3)).indices]
    kept = [half.ids[row] for row in DsirSample().select(half, Budget(amount=20), context=Context(seed=3)).indices]
    assert kept == [row for row in order if row in set(half.ids)]


def test_a_low_temperature_is_the_order_of_the_scores_and_a_high_one_none() -> None:
    scores = np.random.default_rng(1).normal(size=50)
    pool = Features.from_arrays(scores=scores)
    cold, hot = (DsirSample(temperature=t).select(pool, Budget(amount=25)) for t in (1e-6, 1e6))
    assert cold.indices.tolist() == np.argsort(-scores)[:25].tolist()
    assert cold.gains is not None and cold.gains.tolist() == scores[cold.indices].tolist()
    assert abs(float(scores[hot.indices].mean())) < 0.5 < float(scores[cold.indices].mean())


def test_scores_of_any_finite_size_are_taken_and_others_refused() -> None:
    for temperature in (1e-6, 1e6):
        kept = DsirSample(temperature=temperature).select(Features.from_arrays(scores=[1e307, -1.7e308, 1.7e308]), Budget(amount=3))
        assert kept.indices.tolist() == [2, 0, 1]
    bare = Features(np.asarray(["a", "b"]), np.ones(2, np.int64), scores=np.asarray([1.0, np.inf]))
    with pytest.raises(NumericError, match="row b"):
        DsirSample().select(bare, Budget(amount=1))


def test_other_temperatures_keep_the_contract() -> None:
    for temperature in (1e-6, 1e6):
        check_selector(DsirSample(temperature=temperature))
