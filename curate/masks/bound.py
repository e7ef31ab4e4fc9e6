"""A number that J exceeds for no mask: D lies below its linearisation at any point, and the best mask of a linear function is a sort.

With c any vector (D,), or any symmetric matrix for `covariance`, and m the mean of x_i, or of x_i x_i^T, over K rows: |m|^2 >= 2 c . m - |c|^2.
So J(S) <= const + mean over S of v_i, v_i = w q_i / sigma_Q - 2 (1 - w) c . x_i / sigma_D, and the K largest v_i bound every mask. The c that
makes this smallest is the m of the best fractional mask (Lagrangian duality): Frank-Wolfe steps from the m of the given mask come
near it. For `facility`, which is submodular, J(S) <= J(T) + the gains on top of any T.
"""

import numpy as np
from numpy.typing import NDArray

from curate.core import Features, Integers
from curate.masks.diversity import Anchors, Diversity, Wide, along
from curate.masks.partitions import part, unit_blocks
from curate.order import best_first
from curate.similarity import unit_rows

_STEPS = 30  # of Frank-Wolfe
_WORK = 10**10  # multiply-adds that they may take
_FITTED = 16_384  # rows that they are taken on, at even distances; any c gives a bound


def largest(pool: Features, form: Diversity, quality: Wide, scales: tuple[float, float], kept: Integers, sizes: tuple[int, int]) -> float:
    """A bound on J of every mask with from sizes[0] to sizes[1] rows, close where `kept` is close to the best.

    One pass over the pool beyond the rows that Frank-Wolfe steps are taken on; O(N D) for `pairwise`.
    """
    summary = form.summary(unit_blocks(pool, np.sort(kept)))
    if isinstance(form, Anchors):
        return _facility(pool, form, quality, scales, summary, sizes)
    points = [np.zeros(summary.shape), summary, _best_mean(pool, quality, scales, summary, len(kept))]
    if summary.ndim == 2:
        points[0] = np.eye(len(summary)) / len(summary)  # -|m|^2 <= -1 / D, for the trace of m is one
    slopes = np.concatenate([[-2 * along(block, point) for point in points] for block in unit_blocks(pool)], axis=1)
    found = [_linear(quality, slope, float(np.vdot(point, point)), scales, sizes, summary.ndim) for slope, point in zip(slopes, points, strict=True)]
    return min(found)


def _linear(quality: Wide, slope: Wide, square: float, scales: tuple[float, float], sizes: tuple[int, int], power: int) -> float:
    """max over K of the mean of the K largest scale_Q q_i + scale_D (slope_i + |c|^2), times K / (K - 1) in its second term for `pairwise`.

    J is linear in that factor for a given mask, so its two ends cover all K.
    """
    fewest, most = sizes
    counts = np.arange(1, most + 1)
    if power == 2:
        return float(_top_means(scales[0] * quality + scales[1] * slope, most)[fewest - 1]) + scales[1] * square
    bounds = [scales[0] * float(quality.max())] if fewest == 1 else []
    for count in {max(fewest, 2), most} if most > 1 else set():
        factor = scales[1] * count / (count - 1)
        means = _top_means(scales[0] * quality + factor * slope, most) + factor * (square + 1 / counts)
        bounds.append(float(means[max(fewest, 2) - 1 :].max()))
    return max(bounds)


def _top_means(values: Wide, most: int) -> Wide:
    """(most,) means of the 1, 2, ... largest values."""
    return np.asarray(np.cumsum(values[best_first(values, most)]) / np.arange(1, most + 1))


def _best_mean(pool: Features, quality: Wide, scales: tuple[float, float], start: Wide, count: int) -> Wide:
    """The c of the least bound that Frank-Wolfe steps on the relaxed J come by: towards the rows of largest v, as far as J rises."""
    rows = np.unique(np.linspace(0, len(pool) - 1, min(_FITTED, len(pool))).astype(np.int64))
    count = max(1, round(count * len(rows) / len(pool)))
    vectors, values = unit_rows(part(pool, rows)), scales[0] * quality[rows]
    factor = scales[1] * (count / (count - 1) if start.ndim == 1 and count > 1 else 1.0)
    best, least, point, mean = start, np.inf, start, None
    for _ in range(min(_STEPS, _WORK // (len(rows) * start.size))):
        slopes = values - 2 * factor * _in_blocks(vectors, point)
        top = best_first(slopes, count)
        bound = float(slopes[top].mean()) + factor * float(np.vdot(point, point))
        if bound < least:
            best, least = point, bound
        towards, ahead = _mean(vectors, top, start.ndim), float(values[top].mean())
        apart = towards - point
        rise = (ahead - mean if mean is not None else 0.0) - 2 * factor * float(np.vdot(point, apart))
        square = 2 * factor * float(np.vdot(apart, apart))
        stride = 1.0 if mean is None else float(np.clip(rise / square, 0, 1)) if square > 0 else 0.0
        point, mean = point + stride * apart, ahead if mean is None else mean + stride * (ahead - mean)
    return best


def _in_blocks(vectors: NDArray[np.float32], point: Wide) -> Wide:
    return np.concatenate([along(vectors[start : start + 1024].astype(np.float64), point) for start in range(0, len(vectors), 1024)])


def _mean(vectors: NDArray[np.float32], rows: Integers, power: int) -> Wide:
    kept = vectors[np.sort(rows)].astype(np.float64)
    return np.asarray(kept.mean(axis=0) if power == 1 else kept.T @ kept / len(kept))


def _facility(pool: Features, form: Anchors, quality: Wide, scales: tuple[float, float], summary: Wide, sizes: tuple[int, int]) -> float:
    """The least of three: gains on top of the given mask beside quality row by row, or apart from it, or every row of the pool."""
    fewest, most = sizes
    gains, ceiling = np.empty(len(pool)), np.zeros(summary.shape)
    start = 0
    for block in unit_blocks(pool):
        alike = form.similarity(block)
        gains[start : start + len(block)] = np.maximum(alike - summary, 0).mean(axis=1)
        ceiling = np.maximum(ceiling, alike.max(axis=0))
        start += len(block)
    value = float(summary.mean())
    highest = min(float(ceiling.mean()), value + float(gains[best_first(gains, most)].sum()))
    apart = scales[0] * float(_top_means(quality, most)[fewest - 1]) + scales[1] * highest
    if fewest < most:
        return apart
    return min(apart, scales[1] * value + most * float(_top_means(scales[0] * quality / most + scales[1] * gains, most)[-1]))
