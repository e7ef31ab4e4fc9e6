"""Decreasing thresholds: take whatever gains enough, then ask for less."""

from math import ceil, log

import numpy as np

from curate.greedy import Climb, Lazy

_BATCH = 256


class Threshold:
    """Rows, in their order, whose gain per price is at least t; t falls by the factor 1 - e from the best single row's.

    Every row taken is within 1 - e of the best one left, so f >= (1 - 1/e - e) OPT for unit costs (Badanidiyuru and Vondrak,
    2014), with at most log(N / e) / e passes whatever the budget. Below e / N of the first threshold whatever fits is taken, best first.
    """

    def __init__(self, climb: Climb, epsilon: float) -> None:
        self._climb, self._factor = climb, 1 - epsilon
        rows = climb.fitting()
        self._level = float(np.max(climb.refreshed(rows), initial=0.0))
        self._last = self._level * epsilon / max(len(rows), 1)
        self._rows, self._at = rows[climb.keys(rows) >= self._level], 0
        self._rest = Lazy(climb)

    def __call__(self) -> int | None:
        while self._level > self._last:
            if (row := self._next()) is not None:
                return row
            self._lower()
        return self._rest()

    def _next(self) -> int | None:
        """The next row of this threshold that fits and still gains enough."""
        size = 1
        while self._at < len(self._rows):
            rows = self._rows[self._at : self._at + size]
            self._at += len(rows)
            fits = rows[self._climb.open[rows] & (self._climb.costs[rows] <= self._climb.left)]
            enough = fits[self._climb.refreshed(fits) >= self._level] if len(fits) else fits
            if len(enough):
                self._at -= len(rows) - 1 - int(np.searchsorted(rows, enough[0]))
                return int(enough[0])
            size = min(2 * size, _BATCH)
        return None

    def _lower(self) -> None:
        """To the next threshold that some row may still reach."""
        rows = self._climb.fitting()
        keys = self._climb.keys(rows)
        highest = float(np.max(keys, initial=0.0))
        steps = max(1, ceil(log(highest / self._level) / log(self._factor) - 1e-9)) if highest > 0 else 0
        self._level = self._level * self._factor**steps if steps else 0.0
        self._rows, self._at = rows[keys >= self._level], 0
