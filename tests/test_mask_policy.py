"""The policy gradients against the gradient of the exact expectation, enumerated over every mask."""

from itertools import permutations, product
from typing import Literal

import numpy as np
import pytest

from curate.masks.diversity import Anchors, Diversity, Pairs
from curate.masks.effects import effects_of
from curate.masks.plackett_luce import sample
from curate.masks.policy import Climb, Estimate, Policy, Reward, bernoulli, learn, on_budget, plackett_luce

Credits = Literal["marginal", "shared"]


def unit(n: int, seed: int = 0, width: int = 4) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(n, width)) + 0.5
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def reward_of(name: str, n: int, size: int, seed: int = 0) -> Reward:
    vectors = unit(n, seed)
    form: Diversity = Anchors(vectors[:4]) if name == "facility" else Pairs(1 if name == "pairwise" else 2)
    return Reward(0.3 * np.random.default_rng(seed + 100).normal(size=n), effects_of(form, vectors, size, 2.0))


def kept(n: int, rows: tuple[int, ...]) -> np.ndarray:
    return np.isin(np.arange(n), rows)


def exact_plackett_luce(reward: Reward, logits: np.ndarray, size: int) -> np.ndarray:
    """sum over all orders of P(order) J(rows) d log P(order) / ds."""
    n = len(logits)
    orders = list(permutations(range(n), size))
    values = reward.of(np.asarray([kept(n, order) for order in orders]))
    gradient = np.zeros(n)
    for order, value in zip(orders, values, strict=True):
        left, chance, score = np.exp(logits), 1.0, np.zeros(n)
        for row in order:
            chance *= left[row] / left.sum()
            score += np.eye(n)[row] - left / left.sum()
            left[row] = 0
        gradient += chance * value * score
    return gradient


def exact_bernoulli(reward: Reward, chances: np.ndarray) -> np.ndarray:
    masks = np.asarray(list(product([False, True], repeat=len(chances))))
    odds = np.where(masks, chances, 1 - chances).prod(axis=1)
    return np.asarray((odds * reward.of(masks)) @ (masks - chances))


def agrees(estimates: list[Estimate], exact: np.ndarray) -> None:
    """The mean lies within its standard error of the exact gradient, and that error is small enough to mean something."""
    gradients = np.asarray([estimate.gradient for estimate in estimates])
    error = gradients.std(axis=0, ddof=1) / len(gradients) ** 0.5
    assert (np.abs(gradients.mean(axis=0) - exact) < 4.5 * error + 1e-9).all()
    assert error.max() < 0.08 * np.abs(exact).max()


@pytest.mark.parametrize("credit", ["marginal", "shared"])
@pytest.mark.parametrize(("name", "n", "size"), [("pairwise", 10, 3), ("pairwise", 5, 4), ("covariance", 7, 3), ("facility", 7, 3), ("facility", 6, 1)])
def test_the_plackett_luce_gradient_is_unbiased(name: str, n: int, size: int, credit: Credits) -> None:
    reward, logits = reward_of(name, n, size), 0.7 * np.random.default_rng(1).normal(size=n)
    generator = np.random.Generator(np.random.Philox(2))
    samples = 16 if credit == "marginal" else 200
    estimates = [plackett_luce(reward, sample(logits, size, samples, generator), credit) for _ in range(100)]
    agrees(estimates, exact_plackett_luce(reward, logits, size))


@pytest.mark.parametrize("credit", ["marginal", "shared"])
@pytest.mark.parametrize(("name", "n"), [("pairwise", 10), ("covariance", 7), ("facility", 7)])
def test_the_bernoulli_gradient_is_unbiased(name: str, n: int, credit: Credits) -> None:
    reward, chances = reward_of(name, n, 3), np.random.default_rng(1).uniform(0.1, 0.9, n)
    generator = np.random.Generator(np.random.Philox(3))
    samples = 16 if credit == "marginal" else 200
    estimates = [bernoulli(reward, generator.random((samples, n)) < chances, chances, credit) for _ in range(100)]
    agrees(estimates, exact_bernoulli(reward, chances))


@pytest.mark.parametrize("name", ["pairwise", "covariance", "facility"])
def test_over_all_masks_and_all_pairs_of_masks_the_bernoulli_gradients_average_to_the_exact_one(name: str) -> None:
    reward, chances = reward_of(name, 5, 3), np.random.default_rng(1).uniform(0.1, 0.9, 5)
    masks = np.asarray(list(product([False, True], repeat=5)))
    odds = np.where(masks, chances, 1 - chances).prod(axis=1)
    one = sum(p * bernoulli(reward, mask[None], chances, "marginal").gradient for mask, p in zip(masks, odds, strict=True))
    pairs = [(p * q, np.stack([a, b])) for (a, p), (b, q) in product(list(zip(masks, odds, strict=True)), repeat=2)]
    two = sum(p * bernoulli(reward, pair, chances, "shared").gradient for p, pair in pairs)
    assert np.allclose(one, exact_bernoulli(reward, chances), atol=1e-6)
    assert np.allclose(two, exact_bernoulli(reward, chances), atol=1e-6)


def test_the_plackett_luce_baseline_of_a_pair_is_the_other_mask() -> None:
    reward, logits = Reward(np.zeros(6), reward_of("pairwise", 6, 2).effects), np.random.default_rng(1).normal(size=6)
    draws = sample(logits, 2, 2, np.random.Generator(np.random.Philox(8)))
    values, scores = reward.of(draws.masks), draws.scores()
    expected = ((values[0] - values[1]) * scores[0] + (values[1] - values[0]) * scores[1]) / 2
    assert np.allclose(plackett_luce(reward, draws, "shared").gradient, expected)


@pytest.mark.parametrize(("name", "power"), [("pairwise", 1), ("covariance", 2)])
def test_the_bernoulli_gradient_averages_to_its_closed_form(name: str, power: int) -> None:
    """d/ds_i E = p_i (1 - p_i) (q_i - 2 a sum_{j != i} p_j cos_ij^power), for any number of rows."""
    n, reward, chances = 60, reward_of(name, 60, 20), np.random.default_rng(1).uniform(0.1, 0.6, 60)
    alike = (unit(n).astype(float) @ unit(n).astype(float).T) ** power
    np.fill_diagonal(alike, 0)
    per_pair = 2.0 / (20 * 19) if power == 1 else 2.0 / 20**2
    exact = chances * (1 - chances) * (reward.quality - 2 * per_pair * alike @ chances)
    generator = np.random.Generator(np.random.Philox(4))
    for credit in ("marginal", "shared"):
        gradients = np.asarray([bernoulli(reward, generator.random((200, n)) < chances, chances, credit).gradient for _ in range(100)])  # type: ignore[arg-type]
        assert (np.abs(gradients.mean(axis=0) - exact) < 4.5 * gradients.std(axis=0) / 10).all()


@pytest.mark.parametrize("policy", ["plackett_luce", "bernoulli"])
def test_crediting_rows_with_their_own_effect_is_far_less_noisy(policy: Policy) -> None:
    reward, logits, generator = reward_of("pairwise", 60, 20), np.zeros(60), np.random.Generator(np.random.Philox(5))
    noise = []
    for credit in ("marginal", "shared"):
        if policy == "bernoulli":
            chances = np.full(60, 1 / 3)
            found = [bernoulli(reward, generator.random((8, 60)) < chances, chances, credit).gradient for _ in range(200)]  # type: ignore[arg-type]
        else:
            found = [plackett_luce(reward, sample(logits, 20, 8, generator), credit).gradient for _ in range(200)]  # type: ignore[arg-type]
        noise.append(np.var(found, axis=0).mean())
    assert noise[0] < noise[1] / 10


def test_quality_alone_carries_no_noise_from_the_other_rows_draws() -> None:
    quality = np.random.default_rng(0).normal(size=200)
    reward = Reward(quality, effects_of(Pairs(1), unit(200), 20, 0.0))
    generator = np.random.Generator(np.random.Philox(6))
    direction = plackett_luce(reward, sample(np.zeros(200), 20, 4, generator), "marginal").direction
    assert np.abs(direction - direction.mean() - (quality - quality.mean())).max() < 0.05
    chances = np.full(200, 0.1)
    assert np.allclose(bernoulli(reward, generator.random((4, 200)) < chances, chances, "shared").direction, quality)


def test_a_bernoulli_mask_costs_the_budget_in_expectation() -> None:
    rng = np.random.default_rng(0)
    for spread in (0.1, 3.0, 100.0):
        costs = rng.integers(1, 50, 300)
        chances = on_budget(spread * rng.normal(size=300), costs, 2000)
        assert costs @ chances == pytest.approx(2000, rel=1e-6) and (chances > 0).all() and (chances < 1).all()


@pytest.mark.parametrize("policy", ["plackett_luce", "bernoulli"])
def test_the_best_mask_seen_is_kept_and_the_curves_say_so(policy: Policy) -> None:
    reward = reward_of("pairwise", 40, 8)
    climb = Climb(policy, "marginal", 30, 4, 1.0)
    found = learn(reward, np.zeros(40), np.ones(40, np.int64), 8, 8, climb, np.random.Generator(np.random.Philox(7)))
    top = np.zeros((1, 40), np.bool_)
    top[0, np.argsort(-found.logits, kind="stable")[:8]] = True
    assert reward.of(top)[0] == pytest.approx(found.best[-1])
    assert (np.diff(found.best) >= 0).all() and len(found.sampled) == 30
    assert found.sampled[-10:].mean() > found.sampled[0]
