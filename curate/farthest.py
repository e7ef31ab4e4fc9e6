"""The row farthest from a growing set of centres, exactly: float32 products say which few rows are worth a float64 look.

Between unit rows |x - y|^2 = 2 - 2 x.y, and a float32 product of D terms errs by no more than about D 2^-24. A distance
that matters is taken from differences in float64, so that copies are at distance exactly 0 and rounding decides nothing.
"""

import numpy as np
from numpy.typing import NDArray

from curate.core import Integers

Distances = NDArray[np.float64]

_BLOCK = 2048
_LATE = 256  # rows whose distances to all earlier ones are held at once
_PENDING = 256  # centres multiplied at once
_ACTIVE = 512
_PATIENCE = 32  # centres that a pass over all rows should serve


def product_error(width: int) -> float:
    """More than the error of 2 - 2 x.y in float32 as the squared distance of two unit rows of this width."""
    return (2 * width + 32) * 2.0**-24


class Farthest:
    """Centres are added one by one; `row` gives the row whose nearest centre is farthest.

    Distances to the nearest centre only shrink, so rows other than an active few keep a stale one as an upper bound
    and meet the centres they missed, many at a time, once the active rows fall below it. O(N K D) for K centres, at
    the speed of a matrix product.
    """

    def __init__(self, rows: NDArray[np.float32]) -> None:
        n, width = rows.shape
        self._rows, self._error = rows, product_error(width)
        self._centres: list[int] = []
        self._met = 0  # centres that `_upper` knows of
        self._upper = np.full(n, np.inf, np.float32)  # squared distances to the first `_met` centres
        self._exact = np.full(n, np.inf)  # distances to the first `_seen` centres
        self._seen = np.zeros(n, np.int64)
        self._size, self._since = _ACTIVE, _PATIENCE
        self._activate(np.zeros(0, np.int64), -np.inf)

    def add(self, row: int) -> None:
        """Make this row a centre."""
        self._centres.append(row)
        self._since += 1
        if len(self._active):
            np.minimum(self._near, 2 - 2 * (self._close @ self._rows[row]), out=self._near)

    def row(self, among: NDArray[np.bool_]) -> int:
        """The row of the mask (N,) farthest from its nearest centre, the lowest of equals; there must be one, and a centre."""
        while True:
            held = np.where(among[self._active], self._near, -np.inf)
            top = held.max(initial=-np.inf)
            first = self._active[held >= top - 2 * self._error] if top > -np.inf else self._active[:0]
            if len(first) == 1 and top - 2 * self._error > self._ceiling:
                return int(first[0])
            if len(first):
                distances = self.distances(first)
                best = int(np.argmax(distances))
                if distances[best] ** 2 > self._ceiling + self._error:
                    return int(first[best])
            self._meet()
            self._choose(among)

    def radius(self, slack: float) -> tuple[int, float]:
        """The largest distance of any row from its nearest centre, and the lowest row that is so far but for the slack."""
        self._meet()
        rows = np.flatnonzero(self._upper >= self._upper.max() - 2 * self._error - 4 * slack)
        distances = self.distances(rows)
        radius = float(distances.max())
        return int(rows[np.argmax(distances >= radius - slack)]), radius

    def distances(self, rows: Integers) -> Distances:
        """(B,) exact distances of these rows from their nearest centres."""
        apart = rows[self._exact[rows] > 0]
        for seen in np.unique(self._seen[apart]):
            late = apart[self._seen[apart] == seen]
            missed = np.asarray(self._centres[seen:], np.int64)
            step = max(1, _BLOCK * _PENDING // max(len(missed), 1))
            for start in range(0, len(late) if len(missed) else 0, step):
                self._look(late[start : start + step], missed)
        self._seen[apart] = len(self._centres)
        return self._exact[rows]

    def _look(self, rows: Integers, centres: Integers) -> None:
        near = 2 - 2 * (self._rows[rows] @ self._rows[centres].T)
        least = np.minimum(near.min(axis=1), self._exact[rows] ** 2)
        i, j = np.nonzero(near <= least[:, None] + 2 * self._error)
        np.minimum.at(self._exact, rows[i], pair_distances(self._rows, rows[i], centres[j]))

    def _meet(self) -> None:
        """Bring the upper bounds of all rows up to date."""
        for start in range(self._met, len(self._centres), _PENDING):
            centres = self._rows[self._centres[start : start + _PENDING]]
            for first in range(0, len(self._rows), _BLOCK):
                part = self._upper[first : first + _BLOCK]
                np.minimum(part, 2 - 2 * (centres @ self._rows[first : first + _BLOCK].T).max(axis=0), out=part)
        self._met = len(self._centres)

    def _choose(self, among: NDArray[np.bool_]) -> None:
        """Make the farthest rows active: more than last time, where those fell below the others too soon or rounding hides which is first."""
        if self._since < _PATIENCE:
            self._size *= 2
        held = np.where(among, self._upper, -np.inf)
        spare = max(len(held) - self._size, 0)
        cut = np.partition(held, spare)[spare]
        self._activate(np.flatnonzero(among & (held >= cut)), float(held[held < cut].max(initial=-np.inf)))
        self._since = 0

    def _activate(self, rows: Integers, ceiling: float) -> None:
        self._active, self._ceiling = rows, ceiling  # the ceiling is no less than any other row's bound
        self._close, self._near = self._rows[rows], self._upper[rows]


def gaps(rows: NDArray[np.float32], order: Integers) -> Distances:
    """(K - 1,) the exact distance of each row of the order but the first from the nearest one before it."""
    found = np.empty(max(len(order) - 1, 0))
    for start in range(1, len(order), _LATE):
        late = np.arange(start, min(start + _LATE, len(order)))
        near = 2 - 2 * (rows[order[late]] @ rows[order[: late[-1]]].T)
        near[np.arange(near.shape[1]) >= late[:, None]] = np.inf
        i, j = np.nonzero(near <= near.min(axis=1, keepdims=True) + 2 * product_error(rows.shape[1]))
        exact = pair_distances(rows, order[late[i]], order[j])
        found[late - 1] = np.minimum.reduceat(exact, np.searchsorted(i, np.arange(len(late))))
    return found


def pair_distances(rows: NDArray[np.float32], one: Integers, other: Integers) -> Distances:
    """(B,) Euclidean distances between rows of these numbers, exactly 0 for copies: differences first, so that nothing cancels."""
    out = np.empty(len(one))
    for start in range(0, len(one), _BLOCK):
        apart = rows[one[start : start + _BLOCK]].astype(np.float64) - rows[other[start : start + _BLOCK]]
        out[start : start + _BLOCK] = np.sqrt(np.einsum("bd,bd->b", apart, apart))
    return out
