"""Gumbel noise of rows: log weights plus noise, sorted, are a draw without replacement."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from curate.randomness import uniform


def gumbel(seed: int, purpose: str, ids: Iterable[str]) -> NDArray[np.float64]:
    """(N,) -log(-log u) for a uniform u of every row.

    The rows of largest log w_i + gumbel_i, best first, are drawn one after the other, each with a probability in proportion
    to w among those not yet drawn (Plackett-Luce; Kool et al., 2019). A smaller draw is a prefix of a larger one.
    """
    return np.asarray(-np.log(-np.log(uniform(seed, purpose, ids))))
