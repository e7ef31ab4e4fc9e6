"""Fewer rows, with weights, whose sums are those of all: Caratheodory's theorem, and the evenest weights that have the sums.

A point in the cone of n rows of d numbers is in the cone of d of them. The proof is the algorithm: more than d rows have a combination
that sums to zero, and moving the weights along it until the first is zero takes a row out and leaves every sum alone.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from curate.core import Integers

Matrix = NDArray[np.float64]

_NOTHING = 1e-9  # of the largest entry of a combination: less is rounding
_VANISHED = 1e-13  # of the largest weight: less is rounding
_MET = 1e-11  # how nearly sums of columns with unit variance are those asked for
_SAME = 1e-14  # relative difference of two values that is rounding
_STEPS = 100


def caratheodory(values: Matrix, weights: ArrayLike, size: int) -> tuple[Integers, Matrix]:
    """(rows, positive weights) with sum w = sum weights and sum w v = sum weights v, on at most max(size, t + 1) of the n rows.

    A column of ones is added, so the total weight is among the t + 1 sums. It stops as soon as `size` rows are left; fewer are where
    several weights reach zero at once. Rows are merged into 2 (t + 1) clusters, about half of which go at a time (Maalouf
    et al., 2019), while all of a cluster may go: O(n t + t^3 log n).

    Args:
        values: (n, t) what is summed.
        weights: (n,) non-negative.
        size: the rows to leave; t + 1 is the least that the theorem promises.
    """
    columns = np.concatenate([np.ones((len(values), 1)), np.asarray(values, np.float64)], axis=1)
    left = np.asarray(weights, np.float64).copy()
    width = columns.shape[1]
    alive = np.flatnonzero(left > 0)
    while len(alive) > max(size, width):
        excess = len(alive) - max(size, width)
        per = max(1, len(alive) // (2 * width))
        if per > excess // 2 or len(alive) <= 2 * width:
            going = min(excess, width)
            clusters = np.split(alive[: width + going], np.arange(1, width + going))
        else:
            clusters = np.array_split(alive, 2 * width)
            going = min(width, excess // len(clusters[0]))
        rows, starts = np.concatenate(clusters), np.cumsum([0, *(len(cluster) for cluster in clusters[:-1])])
        heavy = np.add.reduceat(left[rows], starts)
        centres = np.add.reduceat(left[rows, None] * columns[rows], starts) / heavy[:, None]
        kept = _without(centres, heavy, going) / heavy
        left[rows] *= np.repeat(kept, [len(cluster) for cluster in clusters])
        alive = alive[left[alive] > 0]
    return alive, left[alive]


def _without(columns: Matrix, weights: Matrix, count: int) -> Matrix:
    """Weights of the same sums with at least `count` more zeros; there are at least as many rows as columns and `count` together."""
    null = np.linalg.qr(columns, mode="complete")[0][:, columns.shape[1] :].copy()
    left, least = weights.copy(), _VANISHED * float(weights.max())
    for turn in range(count):
        move = null[:, turn]
        rising = np.flatnonzero(move > _NOTHING * move.max())  # some entry is, for the column of ones makes them sum to zero
        steps = left[rising] / move[rising]
        first = int(steps.argmin())
        row = rising[first]
        left -= steps[first] * move
        left[left < least] = 0.0  # that of the row, and of rows that reach zero with it
        left[row] = 0.0
        rest = null[:, turn + 1 :]
        rest -= np.multiply.outer(move, rest[row] / move[row])
        rest[row] = 0.0
    return left


def even_weights(values: Matrix, wanted: Matrix) -> tuple[Matrix, int]:
    """(positive weights of sum one, how many leading columns have their wanted mean): the most even ones, by entropy.

        maximise -sum w log w   subject to   sum w = 1, sum w v = wanted;     w_i is proportional to exp(v_i . lambda)

    They exist where any positive weights have the means, and depend on the rows alone (Deville and Sarndal, 1992; Hainmueller,
    2012). Where none do, the last columns are given up, one after the other. Newton's method on the dual, O(n t^2) a step.
    """
    for count in range(min(values.shape[1], len(values) - 1), -1, -1):
        weights = _tilted(values[:, :count], wanted[:count])
        if weights is not None:
            return weights, count
    return np.full(len(values), 1 / max(len(values), 1)), 0


def _tilted(values: Matrix, wanted: Matrix) -> Matrix | None:
    n, width = values.shape
    if n == width + 1:
        return _only(values, wanted)
    shifted = values - wanted
    dual, (weights, value) = np.zeros(width), _tilt(shifted, np.zeros(width))
    for _ in range(_STEPS):
        mean = weights @ shifted
        if np.abs(mean).max(initial=0.0) <= _MET:
            return weights
        if value < -_MET:  # the least value is the entropy of the weights, so there are none
            return None
        curvature = (shifted * weights[:, None]).T @ shifted - np.multiply.outer(mean, mean)
        step = -np.linalg.solve(curvature + _SAME * (np.trace(curvature) or 1.0) * np.eye(width), mean)
        size = 1.0
        while size > 1e-6:
            moved, lower = _tilt(shifted, dual + size * step)
            if lower <= value + 1e-4 * size * float(mean @ step) + _SAME * (1 + abs(value)):
                break
            size /= 2
        else:
            return None
        dual, weights, value = dual + size * step, moved, lower
    return None


def _tilt(shifted: Matrix, dual: Matrix) -> tuple[Matrix, float]:
    """(weights proportional to exp(shifted . dual), the logarithm of their sum)."""
    power = shifted @ dual
    top = float(power.max())
    raised = np.exp(power - top)
    total = float(raised.sum())
    return raised / total, top + float(np.log(total))


def _only(values: Matrix, wanted: Matrix) -> Matrix | None:
    """The weights of as many rows as there are sums: there is one choice, if any is positive."""
    columns = np.concatenate([np.ones((len(values), 1)), values], axis=1)
    weights = np.linalg.lstsq(columns.T, np.concatenate([[1.0], wanted]), rcond=None)[0]
    met = np.abs(weights @ columns - np.concatenate([[1.0], wanted])).max() <= 1e-9
    return weights / weights.sum() if met and weights.min() > 0 else None
