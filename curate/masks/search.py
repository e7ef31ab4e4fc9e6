"""The two plain searches for a mask of good rows that differ from one another: greedy on J itself, and maximal marginal relevance."""

import numpy as np
from numpy.typing import NDArray

from curate.core import Integers
from curate.masks.diversity import Wide
from curate.masks.effects import products
from curate.masks.policy import Reward

_PAIRS = 4096


def greedy_mask(reward: Reward, costs: Integers, capacity: int) -> tuple[Integers, Wide]:
    """The row that adds most to J, until nothing fits, ties to the lower row; and what each added. O(K N D)."""
    growing, free, left = reward.effects.growing(), np.ones(len(costs), np.bool_), capacity
    kept: list[int] = []
    gains: list[float] = []
    while (fits := free & (costs <= left)).any():
        worth = reward.quality + growing.gains
        row = int(np.argmax(np.where(fits, worth, -np.inf)))
        kept.append(row)
        gains.append(float(worth[row]))
        free[row] = False
        left -= int(costs[row])
        growing.add(row)
    return np.asarray(kept, np.int64), np.asarray(gains)


def mmr_mask(vectors: NDArray[np.float32], quality: Wide, weight: float, costs: Integers, capacity: int) -> tuple[Integers, Wide]:
    """The row of largest w q_i / sd(q) - (1 - w) max_{j kept} cos_ij / sd(cos), until nothing fits; and that value of each. O(K N D).

    The deviations are those of rows, and of random pairs of rows; unit `vectors` (N, D), ties to the lower row.
    """
    worth = weight * (quality - quality.mean()) / (float(quality.std()) or 1.0)
    price = (1 - weight) / _cosine_deviation(vectors)
    nearest, free, left = np.zeros(len(costs)), np.ones(len(costs), np.bool_), capacity
    kept: list[int] = []
    values: list[float] = []
    while (fits := free & (costs <= left)).any():
        value = worth - price * nearest
        row = int(np.argmax(np.where(fits, value, -np.inf)))
        alike = products(vectors, vectors[row : row + 1].astype(np.float64))[0].astype(np.float32)
        nearest = np.maximum(nearest, alike) if kept else alike.astype(np.float64)
        kept.append(row)
        values.append(float(value[row]))
        free[row] = False
        left -= int(costs[row])
    return np.asarray(kept, np.int64), np.asarray(values)


def _cosine_deviation(vectors: NDArray[np.float32]) -> float:
    """The standard deviation of the cosine over some thousand random pairs of different rows; one if it does not vary."""
    rows = np.random.Generator(np.random.Philox(0)).permutation(len(vectors))[: 2 * _PAIRS]
    half = len(rows) // 2
    pairs = np.einsum("nd,nd->n", vectors[rows[:half]].astype(np.float64), vectors[rows[half : 2 * half]].astype(np.float64))
    deviation = float(pairs.std()) if half else 0.0
    return deviation if deviation > 1e-6 else 1.0
