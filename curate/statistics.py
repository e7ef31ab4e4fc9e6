"""How sure a difference is: standard errors, bootstrap intervals and verdicts, over items and seeds at once."""

import zlib
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from curate.errors import DataError, NumericError

Matrix = NDArray[np.float64]  # (S, n): one row per seed, one column per item

_BLOCK = 256  # bootstrap draws held at once


class Interval(NamedTuple):
    """A difference of means and the ends of its confidence interval."""

    difference: float
    low: float
    high: float


class Scale(NamedTuple):
    """How a metric is printed: multiplied by `factor`, with `digits` decimals, in `unit`."""

    factor: float
    digits: int
    unit: str


_POINTS = Scale(100.0, 1, "points")
_SCALES = {name: _POINTS for name in ("acc", "acc_norm", "accuracy", "exact_match", "em", "f1", "pass@1")}
_SCALES |= {name: Scale(1.0, 3, "nats/token") for name in ("nll", "loss")}


def scale(metric: str) -> Scale:
    """Accuracies in points of a hundred, likelihoods in nats per token, anything else as it is."""
    return _SCALES.get(metric, Scale(1.0, 3, ""))


def standard_error(scores: ArrayLike) -> float:
    """Of the mean of (S, n) scores over the draw of both seeds and items, s^2 / n for one seed; NaN for a single number.

    Two-way random effects: V_seed + V_item - V_rest, where the first two each hold the last; never below the larger
    of them, where chance makes the difference smaller (Searle et al., 1992, ch. 4).
    """
    table = _matrix(scores, "scores")
    return float(np.sqrt(_variance([table]))) if table.size > 1 else float("nan")


def paired_difference(
    scores: ArrayLike, baseline: ArrayLike, *, level: float = 0.95, resamples: int = 2000, seed: int = 0, paired_seeds: bool = False
) -> Interval:
    """Mean of `scores` (S, n) minus mean of `baseline` (S', n), with a hierarchical bootstrap interval.

    Items are drawn jointly for both arms, seeds independently within each arm (jointly if `paired_seeds`: row s of both
    shares its seed); one seed is not drawn, so the interval then speaks of items only. The draws give the shape. Their
    width is wrong for few seeds (a plain 95% percentile interval over three covers 70 to 78%) and too large where
    answers vary by seed and item at once (Owen, 2007), so deviations are scaled to the standard error of the
    difference, times t / z at Satterthwaite's degrees of freedom (expanded percentile, Hesterberg, 2015). Where so few
    items differ that a sign test could not reach the level even if all agreed (five at 95%), the interval holds zero.
    """
    ours, theirs = _matrix(scores, "scores"), _matrix(baseline, "baseline")
    if ours.shape[1] != theirs.shape[1] or ours.shape[1] < 2:
        raise DataError(f"a paired difference needs the same items on both sides, two or more: got {ours.shape[1]} and {theirs.shape[1]}")
    if paired_seeds and len(ours) != len(theirs):
        raise DataError(f"paired seeds need as many seeds on both sides: got {len(ours)} and {len(theirs)}; pass paired_seeds=False")
    together = paired_seeds or len(ours) == len(theirs) == 1
    arms = [ours - theirs] if together else [ours, -theirs]
    difference = sum(arm.mean() for arm in arms)
    draws, tail = _draws(arms, resamples, seed) - difference, (1 - level) / 2
    spread = float(np.std(draws))
    stretch = np.sqrt(_variance(arms)) / spread * _t_over_z(arms, tail) if spread > 0 else 1.0
    ends = np.concatenate([[difference], difference + stretch * np.quantile(draws, [tail, 1 - tail])])
    # Rounding of equal means must not read as a proven difference of 1e-17.
    rounding = 1e-12 * max(float(np.abs(ours).max()), float(np.abs(theirs).max()))
    ends = np.where(np.abs(ends) < rounding, 0.0, ends)
    if 2.0 ** (1 - int(np.count_nonzero(np.abs(ours.mean(0) - theirs.mean(0)) > rounding))) > 1 - level:
        ends[1:] = min(ends[1], 0.0), max(ends[2], 0.0)
    return Interval(*(float(end) for end in ends))


def verdict(interval: Interval, higher_is_better: bool, metric: str, baseline: str = "random") -> str:
    """The interval in words: better, worse or, where it holds zero, not distinguishable."""
    if interval.low <= 0 <= interval.high:
        return f"not distinguishable from {baseline}"
    factor, digits, unit = scale(metric)
    low, high = sorted((abs(interval.low) * factor, abs(interval.high) * factor))
    word = "better" if (interval.difference > 0) == higher_is_better else "worse"
    amount = f"{abs(interval.difference) * factor:.{digits}f}" + (f" {unit}" if unit else "")
    return f"{word} than {baseline} by {amount} [{low:.{digits}f}, {high:.{digits}f}]"


def _matrix(values: ArrayLike, name: str) -> Matrix:
    table = np.atleast_2d(np.asarray(values, np.float64))
    if table.ndim != 2 or table.size == 0:
        raise DataError(f"{name} must be a (seeds, items) table with at least one number, not of shape {table.shape}")
    if not np.isfinite(table).all():
        raise NumericError(f"{name} holds a number that is not finite; evaluate that item again")
    return table


def _draws(arms: list[Matrix], resamples: int, seed: int) -> NDArray[np.float64]:
    """(resamples,) bootstrap values of the sum of the arms' means."""
    items = _generator(seed, "items")
    seeds = [_generator(seed, f"seeds {number}") for number in range(len(arms))]
    out = np.zeros(resamples)
    for start in range(0, resamples, _BLOCK):
        rows = min(_BLOCK, resamples - start)
        weights = _weights(items, rows, arms[0].shape[1])
        for arm, generator in zip(arms, seeds, strict=True):
            out[start : start + rows] += ((weights @ arm.T) * _weights(generator, rows, len(arm))).sum(1)
    return out


def _weights(generator: np.random.Generator, rows: int, n: int) -> NDArray[np.float64]:
    """(rows, n) shares of n draws with replacement, each row summing to one."""
    drawn = generator.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
    return np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n) / n


def _parts(arms: list[Matrix]) -> list[tuple[float, int]]:
    """(variance of the sum of the arms' means, degrees of freedom): by items first, then by the seeds of each arm that has several."""
    by_item = sum(arm.mean(0) for arm in arms)
    items = len(np.atleast_1d(by_item))
    parts = [(float(np.var(by_item, ddof=1)) / items, items - 1)] if items > 1 else []
    return parts + [(float(np.var(arm.mean(1), ddof=1)) / len(arm), len(arm) - 1) for arm in arms if len(arm) > 1]


def _variance(arms: list[Matrix]) -> float:
    """Of the sum of the arms' means; the arms share their items, and each has seeds of its own."""
    parts = [variance for variance, _ in _parts(arms)]
    rest = 0.0
    for arm in arms:
        seeds, items = arm.shape
        if seeds > 1 and items > 1:
            residual = arm - arm.mean(0) - arm.mean(1, keepdims=True) + arm.mean()
            rest += float(np.sum(residual**2)) / ((seeds - 1) * (items - 1)) / arm.size
    return max(sum(parts) - rest, parts[0], sum(parts[1:]))


def _t_over_z(arms: list[Matrix], tail: float) -> float:
    """How much wider a t interval is than a normal one, at Satterthwaite's degrees of freedom of the parts."""
    from scipy.special import ndtri, stdtrit

    parts = _parts(arms)
    spread = sum(variance**2 / freedom for variance, freedom in parts)
    if spread == 0:
        return 1.0
    freedom = sum(variance for variance, _ in parts) ** 2 / spread
    return float(stdtrit(freedom, 1 - tail) / ndtri(1 - tail))


def _generator(seed: int, purpose: str) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, zlib.crc32(purpose.encode())))))
