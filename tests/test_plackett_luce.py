"""Plackett-Luce masks against the enumeration of every order of draws."""

from itertools import permutations

import numpy as np
import pytest

from curate.masks.plackett_luce import sample


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def log_probability(logits: np.ndarray, order: tuple[int, ...]) -> float:
    left, total = np.exp(logits), 0.0
    for row in order:
        total += float(np.log(left[row] / left.sum()))
        left = np.where(np.arange(len(left)) == row, 0, left)
    return total


def inclusion(logits: np.ndarray, count: int) -> np.ndarray:
    """The probability that each row is kept."""
    kept = np.zeros(len(logits))
    for order in permutations(range(len(logits)), count):
        kept[list(order)] += np.exp(log_probability(logits, order))
    return kept


@pytest.mark.parametrize("count", [1, 4, 8])
def test_every_mask_has_exactly_k_rows_even_where_logits_are_far_apart(count: int) -> None:
    for logits in (np.zeros(9), np.linspace(-500, 500, 9), np.asarray([1e3] + [0.0] * 8)):
        draws = sample(logits, count, 50, generator(0))
        each = np.arange(50)
        assert (draws.masks.sum(axis=1) == count).all()
        assert draws.masks[each, draws.last].all() and not draws.masks[each, draws.first].any()
        assert np.isfinite(draws.sensitivity()).all() and (draws.sensitivity() > 0).all()
        assert np.isfinite(draws.scores()).all()


def test_rows_are_kept_as_often_as_enumeration_says() -> None:
    logits, samples = np.random.default_rng(0).normal(size=6), 40_000
    draws = sample(logits, 3, samples, generator(1))
    expected = inclusion(logits, 3)
    error = np.sqrt(expected * (1 - expected) / samples)
    assert (np.abs(draws.masks.mean(axis=0) - expected) < 4.5 * error).all()


def test_scores_are_the_derivative_of_the_log_probability_of_the_order() -> None:
    logits = np.random.default_rng(2).normal(size=7)
    draws = sample(logits, 4, 20, generator(3))
    for g, scores in enumerate(draws.scores()):
        order = tuple(np.argsort(draws.clocks[g])[:4])
        for row in range(7):
            step = 1e-5 * np.eye(7)[row]
            slope = (log_probability(logits + step, order) - log_probability(logits - step, order)) / 2e-5
            assert scores[row] == pytest.approx(slope, abs=1e-7)


def test_the_sensitivity_averages_to_the_derivative_of_the_chance_of_being_kept() -> None:
    logits = np.random.default_rng(4).normal(size=6)
    held = sample(logits, 3, 40_000, generator(5)).sensitivity()
    for row in range(6):
        step = 1e-5 * np.eye(6)[row]
        slope = (inclusion(logits + step, 3) - inclusion(logits - step, 3))[row] / 2e-5
        assert abs(held[:, row].mean() - slope) < 4.5 * held[:, row].std() / 200


def test_the_mean_of_rows_left_out_is_the_expectation_of_the_next_to_ring() -> None:
    logits, values = np.random.default_rng(6).normal(size=6), np.random.default_rng(7).normal(size=6)
    draws = sample(logits, 2, 40_000, generator(8))
    apart = values[draws.first] - draws.left_out_mean(np.broadcast_to(values, draws.masks.shape))
    assert abs(apart.mean()) < 4.5 * apart.std() / 200
