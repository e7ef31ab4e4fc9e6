"""Stochastic greedy: each step looks at a random sample of the rows only."""

from math import ceil, log

import numpy as np
from numpy.typing import NDArray

from curate.greedy import Climb
from curate.randomness import draw
from curate.submodular.bound import most_rows

_NOTHING = 1e-7  # of the best single row: gains below it are rounding


class Stochastic:
    """The best of (N / K) log(1 / e) random rows that fit: within 1 - 1/e - e of the optimum in expectation (Mirzasoleiman et al., 2015).

    N log(1 / e) gains in all instead of N K. A sample in which no row adds anything is enlarged until one does, so that a copy
    of a kept row is never taken while a row that adds something is left.
    """

    def __init__(self, climb: Climb, keys: NDArray[np.uint64], epsilon: float) -> None:
        self._climb, self._keys = climb, keys
        kept = max(most_rows(climb.costs, climb.capacity), 1)
        self._size = max(1, ceil(len(keys) / kept * log(1 / epsilon)))
        self._nothing = _NOTHING * float(np.max(climb.objective.upper(), initial=0.0))

    def __call__(self) -> int | None:
        rows = self._climb.fitting()
        if len(rows) == 0:
            return None
        rows = rows[np.argsort(draw(self._keys[rows], len(self._climb.order)), kind="stable")]
        best, top = -1, -np.inf
        for start in range(0, len(rows), self._size):
            sample = np.sort(rows[start : start + self._size])
            keys = self._climb.refreshed(sample)
            if keys.max() > top:
                best, top = int(sample[np.argmax(keys)]), float(keys.max())
            if top * self._climb.price[best] > self._nothing:
                break
        return best
