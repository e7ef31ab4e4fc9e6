"""Policy gradients over masks: logits climb the expected reward E[J(S)], S drawn by independent Bernoulli rows or by Plackett-Luce.

The quality term never carries the noise of the diversity term: its expectation is known for Bernoulli, p_i (1 - p_i) q_i, and for
Plackett-Luce each row's own draw is integrated out. Credit `marginal` does the same for diversity: a row is credited with what
it does to the mask itself. Credit `shared` is REINFORCE: all rows are credited with the mask's diversity, less the mean of
the other masks (leave-one-out baseline). All four estimates are unbiased.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from curate.core import Integers
from curate.masks.diversity import Wide
from curate.masks.effects import Effects, Masks
from curate.masks.plackett_luce import Draws, sample
from curate.order import best_first

Policy = Literal["plackett_luce", "bernoulli"]
Credit = Literal["marginal", "shared"]

_SHARPEN = 5.0


@dataclass(frozen=True)
class Reward:
    """J of a mask of n rows in memory: what each row's quality adds (n,), and the diversity term."""

    quality: Wide
    effects: Effects

    def of(self, masks: Masks) -> Wide:
        """(G,) J of each mask."""
        return np.asarray(self.effects.values(masks) + [float(self.quality[mask].sum()) for mask in masks])


@dataclass(frozen=True)
class Estimate:
    """The gradient of E[J] by the logits (n,), and how much each row's chance of being kept hangs on its logit (n,)."""

    gradient: Wide
    sensitivity: Wide

    @property
    def direction(self) -> Wide:
        """(n,) the gradient by the chance instead of by the logit, so that unlikely rows are not stuck."""
        return np.asarray(self.gradient / self.sensitivity)


def bernoulli(reward: Reward, masks: Masks, chances: Wide, credit: Credit) -> Estimate:
    """Rows kept independently with these chances p.

    `marginal`: p_i (1 - p_i) E[J(S + i) - J(S - i)]. `shared`: p_i (1 - p_i) q_i + mean_g A_g (m_gi - p_i).
    """
    sensitivity = chances * (1 - chances)
    if credit == "marginal":
        return Estimate(sensitivity * (reward.quality + reward.effects.gains(masks).mean(axis=0)), sensitivity)
    shared = _advantages(reward.effects.values(masks)) @ masks / len(masks)  # less p, which drops out: advantages sum to zero
    return Estimate(sensitivity * reward.quality + shared, sensitivity)


def plackett_luce(reward: Reward, draws: Draws, credit: Credit) -> Estimate:
    """Masks of exactly K rows.

    `marginal`: E[a_i e^{-a_i} (J(S with i) - J(S without i))], in expectation over which row takes the place of i or leaves it.
    `shared`: the same for quality alone, plus mean_g A_g d log P(S_g) / ds_i.
    """
    quality = np.broadcast_to(reward.quality, draws.masks.shape)
    sensitivity = draws.sensitivity()
    if credit == "marginal":
        exchanges = reward.effects.exchanges(draws.masks, draws.last, draws.first)
        own = _places(draws, quality + reward.effects.gains(draws.masks), exchanges)
        return Estimate((sensitivity * own).mean(axis=0), sensitivity.mean(axis=0))
    own = (sensitivity * _places(draws, quality, np.zeros(quality.shape))).mean(axis=0)
    shared = _advantages(reward.effects.values(draws.masks)) @ draws.scores() / len(quality)
    return Estimate(own + shared, sensitivity.mean(axis=0))


def _advantages(values: Wide) -> Wide:
    """(G,) each mask's value less the mean of the others."""
    return np.asarray((values - values.mean()) * len(values) / (len(values) - 1))


def _places(draws: Draws, gains: Wide, exchanges: Wide) -> Wide:
    """(G, n) J(S with i) - J(S without i), in expectation over the row that i changes places with.

    A kept row i leaves its place to the next j to ring: gain_i - E[gain_j] - exchange(i, j). Any other takes the place of the row that
    the others put there, which is the last of the mask or one of those left out, all on top of the K - 1 before.
    """
    rates, last = draws.rates, np.take_along_axis(gains, draws.last[:, None], axis=1)
    leaving = gains - exchanges - draws.left_out_mean(gains)[:, None]
    on_top = gains + exchanges
    weights = np.where(draws.masks, 0.0, rates)
    total = (weights * on_top).sum(axis=1, keepdims=True) + rates[draws.last][:, None] * last
    mass = weights.sum(axis=1, keepdims=True) + rates[draws.last][:, None]
    others = mass - rates
    alone = others <= 1e-9 * mass  # of all that could have come, next to nothing but i itself and the last
    instead = np.where(alone, last, (total - rates * on_top) / np.where(alone, 1.0, others))
    return np.where(draws.masks, leaving, on_top - instead)


@dataclass(frozen=True)
class Climb:
    """How the logits climb."""

    policy: Policy
    credit: Credit
    steps: int
    samples: int
    learning_rate: float


@dataclass(frozen=True)
class Learnt:
    """Logits (n,) whose largest are the best mask seen; and for every step the J of that mask so far, and the mean J of the sampled masks."""

    logits: Wide
    best: Wide
    sampled: Wide


def learn(reward: Reward, logits: Wide, costs: Integers, capacity: int, size: int, climb: Climb, generator: np.random.Generator) -> Learnt:
    """Climb from these logits, and keep the best mask of `size` rows on the way, 0 < size < n.

    A step moves the logits by learning_rate (1 - t / T) times the direction, in units of its largest standard deviation so far. Masks
    are sampled from the logits times 1 + 4 t / T, so that they come to resemble the mask of the largest logits. That mask is measured
    at every step, and so is every sampled one: where all rows are about equally good, luck beats the logits. A Bernoulli mask costs the
    capacity in expectation; to be measured it is brought to `size` rows by the logits.
    """
    kept, best, sampled, largest = logits, np.full(climb.steps, -np.inf), np.empty(climb.steps), 0.0
    for step in range(climb.steps):
        sharp = logits * (1 + (_SHARPEN - 1) * step / climb.steps)
        masks, estimate = _sampled(reward, sharp, costs, capacity, size, climb, generator)
        spread = float(np.ptp(logits)) + 1
        tried = [_largest(logits, size), *(masks if climb.policy == "plackett_luce" else [_largest(logits + spread * mask, size) for mask in masks])]
        values = reward.of(np.stack(tried))
        sampled[step] = values[1:].mean()
        at = int(np.argmax(values))
        best[step] = max(best[step - 1], values[at])
        if best[step] > best[step - 1]:
            kept = logits + spread * tried[at]
        direction = estimate.direction - estimate.direction.mean()
        largest = max(largest, float(direction.std()))
        if largest > 1e-9 * float(np.abs(estimate.direction).max()):
            logits = logits + climb.learning_rate * (1 - step / climb.steps) * direction / largest
    return Learnt(kept, best, sampled)


def _largest(values: Wide, size: int) -> NDArray[np.bool_]:
    mask = np.zeros(len(values), np.bool_)
    mask[best_first(values, size)] = True
    return mask


def _sampled(reward: Reward, logits: Wide, costs: Integers, capacity: int, size: int, climb: Climb, generator: np.random.Generator) -> tuple[Masks, Estimate]:
    if climb.policy == "plackett_luce":
        draws = sample(logits, size, climb.samples, generator)
        return draws.masks, plackett_luce(reward, draws, climb.credit)
    chances = on_budget(logits, costs, capacity)
    masks = generator.random((climb.samples, len(logits))) < chances
    return masks, bernoulli(reward, masks, chances, climb.credit)


def on_budget(logits: Wide, costs: Integers, capacity: int) -> Wide:
    """(n,) sigmoid(logits + b), away from 0 and 1, with b found by bisection so that the expected cost is the capacity."""
    low, high = -40.0 - float(logits.max()), 40.0 - float(logits.min())
    for _ in range(50):
        middle = (low + high) / 2
        chances = 1 / (1 + np.exp(-np.clip(logits + middle, -40, 40)))
        low, high = (low, middle) if costs @ chances > capacity else (middle, high)
    return np.asarray(np.clip(chances, 1e-9, 1 - 1e-9))
