"""McNemar's test: two arms on the same right-or-wrong items."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from curate.contrast import matrix, sign_test_floor
from curate.errors import DataError


class McNemar(NamedTuple):
    """Answers that only one arm had right, summed over seeds, and the two-sided p-value of no difference."""

    only_ours: int
    only_theirs: int
    p: float


def is_right_or_wrong(table: ArrayLike) -> bool:
    """Whether every score is 0 or 1, and there is one."""
    values = np.asarray(table)
    return values.size > 0 and bool(np.isin(values, (0, 1)).all())


def mcnemar(scores: ArrayLike, baseline: ArrayLike) -> McNemar:
    """The answers that only one arm had right: are they as many on both sides? (S, n) scores of 0 or 1, rows paired by seed.

    One seed: the exact conditional test, Binomial(only_ours + only_theirs, 1/2). Several: item k brings b_k answers
    right in ours alone and c_k in theirs alone, and chi2 = (sum_k (b_k - c_k))^2 / sum_k (b_k - c_k)^2 at one degree of
    freedom, clustered by item (Durkalski et al., 2003). That formula is an approximation for many items with
    b_k != c_k; p is never below that of an exact sign test in which all of them agree.

    A limit: it speaks of these trained models on new items only, not of the luck of seeds, which `paired_difference`
    holds as well. DataError for scores other than 0 and 1, and for tables of different shapes.
    """
    ours, theirs = matrix(scores, "scores"), matrix(baseline, "baseline")
    if ours.shape != theirs.shape:
        raise DataError(f"McNemar's test needs the same seeds and items on both sides: got shapes {ours.shape} and {theirs.shape}")
    if not (is_right_or_wrong(ours) and is_right_or_wrong(theirs)):
        raise DataError("McNemar's test needs scores of 0 (wrong) or 1 (right); use paired_difference for any other score")
    by_item = (ours - theirs).sum(0)
    only_ours, only_theirs = int((ours > theirs).sum()), int((ours < theirs).sum())
    return McNemar(only_ours, only_theirs, _exact(only_ours, only_theirs) if len(ours) == 1 else _clustered(by_item))


def _exact(ours: int, theirs: int) -> float:
    from scipy.stats import binomtest

    return float(binomtest(ours, ours + theirs).pvalue) if ours + theirs else 1.0


def _clustered(by_item: NDArray[np.float64]) -> float:
    from scipy.special import chdtrc

    differing = int(np.count_nonzero(by_item))
    if not differing:
        return 1.0
    return max(float(chdtrc(1, by_item.sum() ** 2 / (by_item**2).sum())), sign_test_floor(differing))
