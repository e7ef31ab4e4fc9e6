"""How sure a difference is: standard errors, intervals, p-values and verdicts, over items and seeds at once."""

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from curate.contrast import Contrast, Matrix, Parts, matrix, parts, sign_test_floor
from curate.mcnemar import McNemar, is_right_or_wrong, mcnemar
from curate.multiplicity import holm

__all__ = [
    "Interval",
    "McNemar",
    "Scale",
    "disagreement",
    "holm",
    "is_right_or_wrong",
    "mcnemar",
    "paired_difference",
    "pairs_seeds",
    "scale",
    "standard_error",
    "verdict",
]

_BLOCK = 256  # bootstrap draws held at once
_PAIRED_FROM = 5  # seeds


class Interval(NamedTuple):
    """A difference of means, the ends of its confidence interval, and the two-sided p-value of no difference (NaN: not known)."""

    difference: float
    low: float
    high: float
    p: float = float("nan")


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
    table = matrix(scores, "scores")
    return float(np.sqrt(parts((table,)).variance)) if table.size > 1 else float("nan")


def pairs_seeds(ours: Sequence[int], baseline: Sequence[int]) -> bool:
    """Whether to pair rows of the same seed: both arms ran the same seeds, in the same order, five or more of them.

    Pairing removes the luck that a seed brings to both arms (correlation r of its effects) and halves the degrees of
    freedom. In simulation with five seeds, both ways cover at least 94%; where seeds decide, the paired interval is 9 to
    11% wider at r = 0, up to 6% narrower at r = 0.3, and 12 to 36% narrower at r = 0.7. With three, it covers 93 to 97%
    and is 21 to 25% wider, 3 to 9% wider, and 6 to 26% narrower. r is rarely known, and choosing by the r of a few seeds
    costs coverage.
    """
    return len(ours) >= _PAIRED_FROM and list(ours) == list(baseline)


def paired_difference(
    scores: ArrayLike, baseline: ArrayLike, *, level: float = 0.95, resamples: int = 2000, seed: int = 0, paired_seeds: bool = False
) -> Interval:
    """Mean of `scores` (S, n) minus mean of `baseline` (S', n), with a hierarchical bootstrap interval and its p-value.

    Items are drawn jointly for both arms, seeds independently within each arm (jointly if `paired_seeds`: row s of both
    shares its seed; `pairs_seeds` says when that helps); one seed is not drawn, so the interval then speaks of items
    only. The draws give the shape. Their width is wrong for few seeds (a plain 95% percentile interval over three
    covers 70 to 78%) and too large where answers vary by seed and item at once (Owen, 2007), so deviations are scaled
    to the standard error of the difference, times t / z, t weighted over items and seeds (expanded percentile,
    Hesterberg, 2015; Cochran and Cox, 1950). p is where that t would put the end on zero, the shape on that side kept:
    p < 1 - level exactly where the interval excludes zero, and p can be far below 1 / resamples. Where so few items
    differ that a sign test could not reach the level even if all agreed (five at 95%), the interval holds zero; p is
    never below that sign test's.
    """
    contrast = Contrast.of(scores, baseline, paired_seeds)
    split, difference, tail = contrast.parts, contrast.difference, (1 - level) / 2
    draws = _draws(contrast.arms, resamples, seed) - difference
    spread, critical = float(np.std(draws)), split.critical(tail)
    stretch = np.sqrt(split.variance) / spread * critical / _z(tail) if spread > 0 else 1.0
    reach = stretch * np.quantile(draws, [tail, 1 - tail])
    ends = np.concatenate([[difference], difference + reach])
    # Rounding of equal means must not read as a proven difference of 1e-17.
    ends = np.where(np.abs(ends) < contrast.rounding, 0.0, ends)
    floor = sign_test_floor(int(np.count_nonzero(contrast.by_item)))
    if floor > 1 - level:
        ends[1:] = min(ends[1], 0.0), max(ends[2], 0.0)
    middle, low, high = (float(end) for end in ends)
    p = max(_p_value(split, critical * abs(middle), float(-reach[0] if middle > 0 else reach[1])), floor)
    # At the border, where rounding decides, the interval has the last word.
    return Interval(middle, low, high, max(p, 1 - level) if low <= 0 <= high else min(p, float(np.nextafter(1 - level, 0))))


def verdict(
    interval: Interval,
    higher_is_better: bool,
    metric: str,
    baseline: str = "random",
    *,
    adjusted: float | None = None,
    comparisons: int = 1,
    level: float = 0.95,
) -> str:
    """The interval in words: better, worse or, where it holds zero, not distinguishable.

    `adjusted` is its p corrected for all `comparisons` (`holm`): where that does not reach 1 - level, the interval
    alone proves nothing, and is shown as such.
    """
    if interval.low <= 0 <= interval.high:
        return f"not distinguishable from {baseline}"
    factor, digits, unit = scale(metric)
    suffix = f" {unit}" if unit else ""
    if adjusted is not None and not adjusted < 1 - level:
        alone = f"{interval.difference * factor:+.{digits}f}{suffix} [{interval.low * factor:.{digits}f}, {interval.high * factor:.{digits}f}]"
        return f"not distinguishable from {baseline} after correction for {comparisons} comparisons (alone: {alone})"
    low, high = sorted((abs(interval.low) * factor, abs(interval.high) * factor))
    word = "better" if _direction(interval, higher_is_better) > 0 else "worse"
    return f"{word} than {baseline} by {abs(interval.difference) * factor:.{digits}f}{suffix} [{low:.{digits}f}, {high:.{digits}f}]"


def disagreement(metric_interval: Interval, metric_higher: bool, likelihood_interval: Interval, likelihood_higher: bool) -> str:
    """What to say where likelihood and the task metric point apart (`..._higher`: more is better); "" where they do not.

    A better metric beside an unclear likelihood is no disagreement: the metric is what was asked for.
    """
    metric, likelihood = _direction(metric_interval, metric_higher), _direction(likelihood_interval, likelihood_higher)
    if likelihood > 0 > metric:
        return "likelihood improves but the task metric gets worse: the answers became likelier, not more often right; judge by the task metric"
    if likelihood > 0 == metric:
        return "likelihood improves but the task metric does not: no gain in the task itself is shown; the answers' form may be all that was learned"
    if metric > 0 > likelihood:
        return "the task metric improves but likelihood gets worse: more answers are right, and the reference answers became less likely"
    return ""


def _direction(interval: Interval, higher_is_better: bool) -> int:
    """1 for better, -1 for worse, 0 where the interval holds zero."""
    if interval.low <= 0 <= interval.high:
        return 0
    return 1 if (interval.difference > 0) == higher_is_better else -1


def _p_value(split: Parts, distance: float, width: float) -> float:
    """The two-sided p at which the critical value of `split` is distance / width; 1e-300 stands for anything less."""
    if distance == 0 or width <= 0:
        return float(distance == 0)
    low, high = np.log(5e-301), np.log(0.5)
    for _ in range(64):
        middle = (low + high) / 2
        if split.critical(float(np.exp(middle))) * width > distance:
            low = middle
        else:
            high = middle
    return float(2 * np.exp(low))


def _z(tail: float) -> float:
    from scipy.special import ndtri

    return float(-ndtri(tail))


def _draws(arms: tuple[Matrix, ...], resamples: int, seed: int) -> NDArray[np.float64]:
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


def _generator(seed: int, purpose: str) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, zlib.crc32(purpose.encode())))))
