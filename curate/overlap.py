"""How much selections share, and how much random ones of their sizes would."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from curate.core import Integers
from curate.errors import DataError


@dataclass(frozen=True)
class Stable:
    """What the selections of several seeds share: rows that all take, rows that only some take, and Jaccard indices averaged over pairs of seeds."""

    always: int
    sometimes: int
    jaccard: float
    by_chance: float


def jaccard(one: Integers, other: Integers) -> float:
    """|A and B| / |A or B| of two sets of distinct rows; 1 for two empty ones, which are equal. O(K log K)."""
    shared = len(np.intersect1d(one, other, assume_unique=True))
    union = len(one) + len(other) - shared
    return shared / union if union else 1.0


def jaccard_by_chance(a: int, b: int, n: int) -> float:
    """The mean Jaccard index of independent uniform draws of `a` and `b` of `n` rows: E[X / (a + b - X)] for a hypergeometric X, summed exactly.

    DataError if a draw is larger than the pool. O(min(a, b)).
    """
    if not (0 <= a <= n and 0 <= b <= n):
        raise DataError(f"{a} and {b} rows cannot be drawn from a pool of {n}; give sizes between 0 and {n}")
    if not a + b:
        return 1.0
    shared, chance = _hypergeometric(a, b, n)
    return float(chance @ (shared / (a + b - shared)))


def stability(selections: Sequence[Integers], n: int) -> Stable:
    """The selections of two or more seeds, each of distinct rows of a pool of `n`, held against each other."""
    if len(selections) < 2:
        raise DataError(f"stability compares the selections of two seeds or more, and there is {len(selections)}")
    _, times = np.unique(np.concatenate(selections), return_counts=True)
    pairs = list(combinations(selections, 2))
    always = int((times == len(selections)).sum())
    return Stable(
        always,
        len(times) - always,
        float(np.mean([jaccard(one, other) for one, other in pairs])),
        float(np.mean([jaccard_by_chance(len(one), len(other), n) for one, other in pairs])),
    )


def _hypergeometric(a: int, b: int, n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The sizes that the intersection can have, and their probabilities: products of the ratios of neighbours, as logarithms, scaled to sum to one."""
    shared = np.arange(max(0, a + b - n), min(a, b) + 1, dtype=np.float64)
    held = shared[:-1]
    steps = np.log(a - held) + np.log(b - held) - np.log(held + 1) - np.log(n - a - b + held + 1)
    logs = np.concatenate([[0.0], np.cumsum(steps)])
    weights = np.exp(logs - logs.max())
    return shared, weights / weights.sum()
