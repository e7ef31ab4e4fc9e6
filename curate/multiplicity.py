"""Correction for many comparisons: statements that hold together, not each on its own."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from curate.errors import DataError


def holm(p: Sequence[float]) -> NDArray[np.float64]:
    """(k,) adjusted p-values in the order given: those below alpha hold together, with at most alpha risk of any false one.

    The i-th smallest of k becomes the largest of (k - j + 1) p_(j) over j <= i, at most 1 (Holm, 1979): under any
    dependence, and never less powerful than Bonferroni. A limit: it controls the chance of a single false claim, which
    is strict for dozens of arms. DataError for a number outside [0, 1] or NaN.
    """
    values = np.asarray(p, np.float64)
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise DataError("holm needs a list of p-values, each between 0 and 1; leave out comparisons that have none")
    order = np.argsort(values, kind="stable")
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)), 1.0)
    return adjusted
