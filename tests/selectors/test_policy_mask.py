"""The policy's gradient against enumeration, and its masks against every mask."""

from dataclasses import replace
from itertools import combinations, product
from typing import Literal

import numpy as np
import pytest

from curate.core import Budget, Features
from curate.mask_objective import MaskObjective, marginal_gradient, shared_gradient
from curate.selectors.policy_mask import PolicyMask


def objective(n: int, seed: int = 0, size: int = 3) -> MaskObjective:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, 4)) + 0.5
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return MaskObjective(rng.normal(size=n), vectors.astype(np.float32), 0.4, size, 0.3, 0.2)


def reward(held: MaskObjective, mask: np.ndarray) -> float:
    """The relaxed reward of a mask of any size, by its definition over pairs."""
    rows = np.flatnonzero(mask)
    pairs = sum(float(held.vectors[i].astype(float) @ held.vectors[j].astype(float)) for i in rows for j in rows if i != j)
    return float(held.per_row[rows].sum()) - held.per_pair * pairs


def enumerated(held: MaskObjective, chances: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every mask, its probability, and the exact gradient of the expected reward by the logits."""
    masks = np.asarray(list(product([False, True], repeat=len(chances))))
    odds = np.where(masks, chances, 1 - chances).prod(axis=1)
    rewards = np.asarray([reward(held, mask) for mask in masks])
    return masks, odds, (odds * rewards) @ (masks - chances)


def test_the_marginal_gradient_averages_to_the_exact_one_over_all_masks() -> None:
    held, chances = objective(8), np.random.default_rng(1).uniform(0.1, 0.9, 8)
    masks, odds, exact = enumerated(held, chances)
    mean = sum(p * marginal_gradient(held, mask[None], chances) for mask, p in zip(masks, odds, strict=True))
    assert np.allclose(mean, exact, atol=1e-6)


def test_the_shared_gradient_averages_to_the_exact_one_over_all_pairs_of_masks() -> None:
    held, chances = objective(5), np.random.default_rng(1).uniform(0.1, 0.9, 5)
    masks, odds, exact = enumerated(held, chances)
    mean = np.zeros(5)
    for (one, p), (other, q) in product(zip(masks, odds, strict=True), repeat=2):
        mean += p * q * shared_gradient(held, np.stack([one, other]), chances)
    assert np.allclose(mean, exact, atol=1e-6)


def test_the_marginal_gradient_is_the_less_noisy_one() -> None:
    held, chances = objective(60, size=20), np.full(60, 1 / 3)
    rng = np.random.default_rng(0)
    drawn = [rng.random((8, 60)) < chances for _ in range(200)]
    noise = [np.var([estimate(held, masks, chances) for masks in drawn], axis=0).mean() for estimate in (marginal_gradient, shared_gradient)]
    assert noise[0] < noise[1] / 10


def test_diversity_is_minus_the_mean_cosine_over_pairs() -> None:
    held = objective(9)
    rows = np.asarray([1, 4, 7, 8])
    pairs = [float(held.vectors[i].astype(float) @ held.vectors[j].astype(float)) for i, j in combinations(rows, 2)]
    assert held.terms(rows) == pytest.approx((held.quality[rows].mean(), -np.mean(pairs)), abs=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_no_mask_exceeds_the_bound(seed: int) -> None:
    for weight in (0.0, 0.4, 1.0):
        held = replace(objective(10, seed), weight=weight)
        for k in (1, 3, 6):
            best = max(held.value(np.asarray(rows)) for rows in combinations(range(10), k))
            assert best <= held.bound(k, k) + 1e-6
            assert best <= held.bound(1, k) + 1e-6


def pool(n: int, seed: int = 0) -> Features:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(6, 8))[rng.integers(6, size=n)] + 0.6 * rng.normal(size=(n, 8)) + 0.3
    return Features.from_arrays(vectors=vectors, scores=rng.normal(size=n), lengths=rng.integers(1, 20, n))


@pytest.mark.parametrize("credit", ["marginal", "shared"])
@pytest.mark.parametrize("largest", [True, False])
def test_with_quality_alone_it_is_top_k(credit: Literal["marginal", "shared"], largest: bool) -> None:
    rows = pool(80)
    assert rows.scores is not None
    chosen = PolicyMask(quality_weight=1.0, credit=credit, largest=largest).select(rows, Budget(amount=15))
    assert set(chosen.indices.tolist()) == set(np.argsort(-rows.scores if largest else rows.scores)[:15].tolist())
    assert chosen.certificate is not None and chosen.certificate.gap == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("weight", [0.0, 0.5, 0.9])
def test_its_mask_beats_random_masks_and_comes_near_the_best_of_all(weight: float) -> None:
    for seed in range(4):
        rows = pool(12, seed)
        certificate = PolicyMask(quality_weight=weight).select(rows, Budget(amount=4)).certificate
        assert certificate is not None and rows.scores is not None
        details = certificate.details
        vectors = np.asarray(rows.vectors) / np.linalg.norm(np.asarray(rows.vectors), axis=1, keepdims=True)
        held = MaskObjective(rows.scores.astype(float), vectors.astype(np.float32), weight, 4, details["sigma_quality"], details["sigma_diversity"])
        every = [held.value(np.asarray(some)) for some in combinations(range(12), 4)]
        assert certificate.objective <= max(every) + 1e-6 <= certificate.bound + 2e-6
        assert certificate.objective - np.mean(every) >= 0.85 * (max(every) - np.mean(every))


def test_on_mixed_objectives_it_comes_within_a_hair_of_greedy_or_beats_it() -> None:
    for budget in (Budget(amount=60), Budget(amount=600, unit="tokens")):
        certificate = PolicyMask().select(pool(600), budget).certificate
        assert certificate is not None
        details = certificate.details
        assert certificate.objective - details["random"] >= 0.97 * (details["greedy"] - details["random"])
        assert 0 <= certificate.gap < 1


def test_a_mask_of_one_row_is_the_row_of_best_quality() -> None:
    rows = pool(30)
    assert rows.scores is not None
    assert PolicyMask().select(rows, Budget(amount=1)).indices.tolist() == [int(rows.scores.argmax())]
