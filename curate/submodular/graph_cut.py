"""Graph cut f(S) = sum_{i, j in S} s_ij - w sum_{i in S, j in S} s_ij with s = (1 + cos) / 2: like the pool, unlike one another.

s is linear in the row vectors, so sums of similarities are dot products with sums of vectors, and no matrix is needed.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from curate.core import Floats, Integers
from curate.submodular.objective import Objective

_BLOCK = 4096


class GraphCut(Objective):
    """O(D) for a gain. With d_j = sum_i s_ij, row j adds d_j - w (1 + 2 sum_{l in S} s_jl): monotone while the bracket is small."""

    def __init__(self, vectors: NDArray[np.float32], weight: float) -> None:
        self._vectors, self._weight = vectors, weight
        self._degree = self._alike(vectors.sum(axis=0, dtype=np.float64), len(vectors))
        self.reset()

    def reset(self) -> None:
        self._sum = np.zeros(self._vectors.shape[1])
        self._size = 0
        self._value = 0.0

    @property
    def value(self) -> float:
        return self._value

    def upper(self, rows: Integers | None = None) -> Floats:
        return np.asarray((self._degree if rows is None else self._degree[rows]) - self._weight)

    def gains(self, rows: Integers) -> Floats:
        return np.asarray(self._degree[rows] - self._weight * (1 + 2 * self._alike(self._sum, self._size, rows)))

    def add(self, row: int) -> None:
        self._value += float(self.gains(np.asarray([row]))[0])
        self._sum = self._sum + self._vectors[row]
        self._size += 1

    def drop(self, row: int) -> None:
        self._sum = self._sum - self._vectors[row]
        self._size -= 1
        self._value -= float(self.gains(np.asarray([row]))[0])

    def after(self, sets: Sequence[Integers]) -> Sequence[tuple[float, Floats]]:
        found = []
        for rows in sets:
            alike = self._alike(self._vectors[rows].sum(axis=0, dtype=np.float64), len(rows))
            gains = self._degree - self._weight * (1 + 2 * alike)
            gains[rows] = 0
            found.append((float(self._degree[rows].sum() - self._weight * alike[rows].sum()), gains))
        return found

    def monotone(self, size: int) -> bool:
        """The most that a set of fewer rows can take away is w (1 + 2 min(size - 1, d_j - 1)): always less than d_j for w <= 1/2."""
        taken = np.minimum(max(size - 1, 0), self._degree - 1)
        return bool((self._degree >= self._weight * (1 + 2 * taken) - 1e-9 * self._degree).all())

    def _alike(self, total: NDArray[np.float64], count: int, rows: Integers | None = None) -> Floats:
        """(B,) the summed similarity of rows to `count` unit rows with this sum."""
        if rows is not None and len(rows) <= _BLOCK:
            return np.asarray((count + np.einsum("bd,d->b", self._vectors[rows].astype(np.float64), total)) / 2)
        every = np.arange(len(self._vectors)) if rows is None else rows
        return np.concatenate([self._alike(total, count, every[start : start + _BLOCK]) for start in range(0, len(every), _BLOCK)] or [np.zeros(0)])
