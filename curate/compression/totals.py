"""Whole numbers of tokens per layer that sum to a total exactly, after every bound was respected."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from curate.core import Integers
from curate.errors import ConfigError


def exact_total(shares: ArrayLike, total: int, lowest: ArrayLike, highest: ArrayLike) -> Integers:
    """(L,) int64 that sum to `total`, in proportion to shares (L,) >= 0 as far as lowest <= result <= highest allow (each one number, or (L,)).

    The numbers are clip(t * share, lowest, highest) for the t at which they sum to the total, so that what a bound takes or gives falls on all
    others in proportion; then the largest remainder: rounded down, and one more for each of the largest fractions, of equal ones the lower layer.
    Layers without a share stand at their lowest until all others are full, and then divide the rest alike.
    """
    wanted = np.asarray(shares, np.float64)
    low = np.broadcast_to(np.asarray(lowest, np.int64), wanted.shape)
    high = np.broadcast_to(np.asarray(highest, np.int64), wanted.shape)
    if not (np.isfinite(wanted).all() and (wanted >= 0).all()):
        raise ConfigError(f"shares of a total must be finite and not negative, but layer {int(np.argmin(np.isfinite(wanted) & (wanted >= 0)))} has another one")
    if (low > high).any() or not int(low.sum()) <= total <= int(high.sum()):
        raise ConfigError(f"no numbers within their bounds sum to {total}: the lowest sum to {int(low.sum())}, the highest to {int(high.sum())}")
    full = np.where(wanted > 0, high, low)
    if int(full.sum()) <= total:
        wanted, low = (wanted == 0).astype(np.float64), np.where(wanted > 0, high, low)
    return _rounded(_filled(wanted, total, low, high), total)


def _filled(shares: NDArray[np.float64], total: int, low: Integers, high: Integers) -> NDArray[np.float64]:
    """clip(t * share, low, high) with sum `total`: t lies between two of the points at which a layer leaves or reaches a bound."""
    some = shares > 0
    points = np.unique(np.concatenate([low[some] / shares[some], high[some] / shares[some], [0.0]]))
    sums = np.array([np.clip(t * shares, low, high).sum() for t in points])
    last = int(np.flatnonzero(sums <= total)[-1]) if sums[0] <= total else 0
    t = points[last] if last + 1 == len(points) else (points[last] + points[last + 1]) / 2
    free = some & (t * shares > low) & (t * shares < high)
    if free.any():
        t = (total - np.where(free, 0, np.clip(t * shares, low, high)).sum()) / shares[free].sum()
    filled: NDArray[np.float64] = np.clip(t * shares, low, high)
    return filled


def _rounded(values: NDArray[np.float64], total: int) -> Integers:
    """Rounded down, and one more for the layers whose fraction is largest, until they sum to the total."""
    down: Integers = np.floor(np.round(values, 9)).astype(np.int64)
    first = np.argsort(-np.round(values - down, 9), kind="stable")
    down[first[: total - int(down.sum())]] += 1
    return down
