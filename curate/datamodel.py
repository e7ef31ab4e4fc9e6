"""How well scores foretell retraining: the linear datamodelling score, with its uncertainty.

Train on a subset S of the pool, and the outcome of target row j is y_j(S), the larger the better. Scores s claim that
outcomes are linear in membership, up to their scale: the higher sum_{i in S} s(i, j), the higher y_j(S). Over m subsets,

    LDS = mean over target rows j of Spearman over S of ( sum_{i in S} s(i, j), y_j(S) )

in [-1, 1]; scores that say nothing have 0 (Ilyas et al., "Datamodels", 2022; Park et al., "TRAK", ICML 2023).
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from curate.core import Floats, Integers, Strings
from curate.errors import DataError, NumericError
from curate.randomness import uniform

Wide = NDArray[np.float64]


class Estimate(NamedTuple):
    """A linear datamodelling score, or a difference of two, and the ends of its confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Resampled:
    """A number and what it was in each bootstrap draw; two that share their seed share their draws."""

    value: float
    draws: Wide  # (R,)

    def __sub__(self, other: "Resampled") -> "Resampled":
        return Resampled(self.value - other.value, self.draws - other.draws)

    def estimate(self, level: float = 0.95) -> Estimate:
        """With the percentile interval."""
        tail = (1 - level) / 2
        return Estimate(self.value, *(float(end) for end in np.quantile(self.draws, [tail, 1 - tail])))


def subset(ids: Strings, seed: int, number: int, size: int) -> Integers:
    """(size,) positions of the rows of one subset, ascending: a function of (seed, number, row id), whatever the order of the rows."""
    drawn = uniform(seed, f"datamodel subset {number}", ids)
    return np.sort(np.argsort(drawn, kind="stable")[:size]).astype(np.int64)


def for_all_rows(scores: Floats, rows: Integers, count: int) -> Floats:
    """(count, ...) the scores (n, ...) of `rows`, and the mean score for rows that have none: in subsets of one size it says nothing."""
    filled = np.empty((count, *scores.shape[1:]), scores.dtype)
    filled[:] = scores.mean(0, dtype=np.float64)
    filled[rows] = scores
    return filled


def sums(scores: Floats | Integers, subsets: Sequence[Integers]) -> Wide:
    """(m, ...) the scores (N, ...) added up over the rows of each subset."""
    return np.stack([scores[rows].sum(0, dtype=np.float64) for rows in subsets])


def datamodelling_score(predictions: Wide, outcomes: Wide, *, resamples: int = 2000, seed: int = 0) -> Resampled:
    """The LDS of predictions (m, M) for outcomes (m, M), one row per subset and one column per target row.

    Predictions (m,) speak of the target as a whole: the LDS is their one Spearman correlation with the mean outcome.
    Bootstrap draws take subsets and target rows with replacement, both at once, which errs to the wide side where
    target rows are independent (Owen, 2007). Predictions that do not vary have correlation 0.
    """
    _check(predictions, outcomes)
    subsets, targets = outcomes.shape
    counts = _counts(seed, "subsets", subsets, resamples)
    taken = _counts(seed, "target rows", targets, resamples)
    once = np.ones((1, subsets))
    if predictions.ndim == 1:
        below = _below(predictions)
        return Resampled(float(_of_sums(below, outcomes, once, np.ones((1, targets)))[0]), _of_sums(below, outcomes, counts, taken))
    value, draws = 0.0, np.zeros(resamples)
    for prediction, outcome, times in zip(predictions.T, outcomes.T, taken.T, strict=True):
        pair = _below(prediction), _below(outcome)
        value += float(_spearman(*pair, once)[0])
        draws += times * _spearman(*pair, counts)
    return Resampled(value / targets, draws / targets)


def verdict(feature: str, found: Estimate, above_tokens: Estimate, subsets: int) -> str:
    """What the intervals say of a feature, in a sentence."""
    if found.low <= 0 <= found.high:
        return f"{feature} is not distinguishable from chance with {subsets} subsets"
    if found.high < 0:
        return f"{feature} predicts retraining worse than chance: training on its high rows raises the target's loss"
    better = "and better" if above_tokens.low > 0 else "but not distinguishably better"
    return f"{feature} predicts retraining better than chance, {better} than the number of supervised tokens"


def _check(predictions: Wide, outcomes: Wide) -> None:
    if outcomes.ndim != 2 or 0 in outcomes.shape or predictions.shape not in (outcomes.shape, outcomes.shape[:1]):
        raise DataError(f"predictions of shape {predictions.shape} do not fit outcomes of shape {outcomes.shape}; both have a row per subset")
    if not (np.isfinite(predictions).all() and np.isfinite(outcomes).all()):
        raise NumericError("a prediction or an outcome is not finite; score the pool again, or retrain with a lower train.learning_rate")


def _counts(seed: int, purpose: str, n: int, resamples: int) -> Wide:
    """(R, n) how often each of n is taken in a draw of n with replacement."""
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, zlib.crc32(purpose.encode())))))
    return generator.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)


def _below(values: Wide) -> Wide:
    """(m, m) 1 where the column's value is below the row's, 1/2 where they are level: times counts, the middle ranks of a resample."""
    found: Wide = (values[None, :] < values[:, None]) + 0.5 * (values[None, :] == values[:, None])
    return found


def _spearman(below: Wide, others: Wide, counts: Wide) -> Wide:
    """(R,) rank correlation within each resample."""
    return _correlation(counts @ below.T, counts @ others.T, counts)


def _of_sums(below: Wide, outcomes: Wide, counts: Wide, taken: Wide) -> Wide:
    """(R,) rank correlation of one prediction with the summed, so with the mean outcome of each draw's target rows."""
    ranks = np.stack([_below(total) @ count for total, count in zip(taken @ outcomes.T, counts, strict=True)])
    return _correlation(counts @ below.T, ranks, counts)


def _correlation(x: Wide, y: Wide, counts: Wide) -> Wide:
    """(R,) Pearson correlation of rows of x and y (R, m), each entry counted as often as it was taken; 0 where one does not vary."""
    total = counts.sum(1, keepdims=True)
    x, y = (values - (counts * values).sum(1, keepdims=True) / total for values in (x, y))
    spread = np.sqrt((counts * x * x).sum(1) * (counts * y * y).sum(1))
    found: Wide = np.divide((counts * x * y).sum(1), spread, out=np.zeros(len(x)), where=spread > 0)
    return found
