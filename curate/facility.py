"""Facility location f(S) = sum_i max_{j in S} s_ij, s >= 0, as an objective for greedy: over a full matrix or over nearest neighbours.

Both keep every row's gain up to date instead of taking it again: when the best similarity of row i rises from a to b,
the gain of row j falls by clip(s_ij, a, b) - a. Only rows whose best rose cost anything, about N / t of them at
step t, so K steps read about N log K rows of the matrix in order rather than the many more that lazy refreshes read.
"""

import numpy as np
from numpy.typing import NDArray

from curate.core import Floats, Integers

_STRIP = 16  # rows summed in float32 at a time: they fit the cache, and their rounding error stays small and bounded
_EPSILON = 2.0**-24


class DenseFacility:
    """Over a symmetric matrix (N, N) float32. Kept gains are float32 strips with a proven margin; `gains` decides in float64."""

    def __init__(self, alike: NDArray[np.float32]) -> None:
        self._alike = alike
        self._strip = np.empty((_STRIP, len(alike)), np.float32)
        self._margin = 0.0
        self._whole = np.zeros(len(alike))
        for start in range(0, len(alike), _STRIP):
            self._whole += self._sum(alike[start : start + _STRIP])
        self.reset()

    def reset(self) -> None:
        self._best = np.zeros(len(self._alike), np.float32)
        self._kept = self._whole.copy()

    @property
    def value(self) -> float:
        return float(self._best.sum(dtype=np.float64))

    def upper(self) -> Floats:
        return self._kept + self._margin

    def gains(self, rows: Integers) -> Floats:
        best = self._best.astype(np.float64)
        return np.asarray([(np.maximum(self._alike[row], self._best) - best).sum() for row in rows])

    def value_of(self, rows: Integers) -> float:
        """f of any set of rows, whatever has been added."""
        best = np.zeros_like(self._best)
        for row in rows:
            np.maximum(best, self._alike[row], out=best)
        return float(best.sum(dtype=np.float64))

    def add(self, row: int) -> None:
        column = self._alike[row]
        rose = np.flatnonzero(column > self._best)
        low, high = self._best[rose], column[rose]
        for start in range(0, len(rose), _STRIP):
            part = slice(start, start + _STRIP)
            for place, (i, a, b) in enumerate(zip(rose[part].tolist(), low[part].tolist(), high[part].tolist(), strict=True)):
                self._alike[i].clip(a, b, self._strip[place])
            self._kept -= self._sum(self._strip[: place + 1])
            self._kept += float(low[part].sum(dtype=np.float64))
        self._best[rose] = high

    def _sum(self, strip: NDArray[np.float32]) -> NDArray[np.float32]:
        """Over the rows; m additions of numbers up to h err by at most m^2 h epsilon, which the margin collects."""
        total: NDArray[np.float32] = np.ones(len(strip), np.float32) @ strip
        self._margin += len(strip) * float(total.max(initial=0.0)) * _EPSILON
        return total


class SparseFacility:
    """Over the m nearest neighbours of each row, (N, m) columns and float64 similarities; all others count as 0."""

    def __init__(self, near: Integers, alike: NDArray[np.float64]) -> None:
        n, m = near.shape
        self._near, self._alike = near, alike
        order = np.argsort(near.ravel(), kind="stable")
        self._served, self._values = order // max(m, 1), alike.ravel()[order]
        self._start = np.searchsorted(near.ravel()[order], np.arange(n + 1))
        self._margin = 1e-12 * float(alike.sum())
        self.reset()

    def reset(self) -> None:
        self._best = np.zeros(len(self._near))
        self._kept = np.bincount(self._near.ravel(), self._alike.ravel(), minlength=len(self._near))

    @property
    def value(self) -> float:
        return float(self._best.sum())

    def upper(self) -> Floats:
        return self._kept + self._margin

    def gains(self, rows: Integers) -> Floats:
        return np.asarray([self._rise(row)[1].sum() for row in rows])

    def add(self, row: int) -> None:
        rose, by = self._rise(row)
        rose, by = rose[by > 0], by[by > 0]
        low = self._best[rose][:, None]
        fall = np.clip(self._alike[rose], low, low + by[:, None]) - low
        np.subtract.at(self._kept, self._near[rose].ravel(), fall.ravel())
        self._best[rose] += by

    def value_of(self, rows: Integers) -> float:
        """f of any set of rows, whatever has been added."""
        held = np.zeros(len(self._best), np.bool_)
        held[rows] = True
        return float(np.where(held[self._near], self._alike, 0.0).max(axis=1, initial=0.0).sum())

    def _rise(self, row: int) -> tuple[Integers, NDArray[np.float64]]:
        """The rows that have this one among their neighbours, and by how much it would raise their best."""
        held = slice(self._start[row], self._start[row + 1])
        served = self._served[held]
        return served, np.maximum(self._values[held] - self._best[served], 0.0)
