"""Facility location judged by a fixed part of the pool, so that the gain of a few rows costs the same however large the pool is."""

import numpy as np
from numpy.typing import NDArray

from curate.core import Integers


class ReferenceFacility:
    """f(S) = mean over reference rows i of max_{j in S} (1 + cos_ij) / 2, of the rows S added so far; f(empty) = 0.

    Cosines are summed in float64 and compared in float32, so that copies gain alike. O(R D) a row, O(R D) memory.

    Args:
        vectors: (N, D) of length one.
        reference: (R,) the rows that want something close to them.
    """

    def __init__(self, vectors: NDArray[np.float32], reference: Integers) -> None:
        self._vectors = vectors
        self._reference = vectors[reference].astype(np.float64)
        self._best = np.zeros(len(reference), np.float32)

    def gains(self, rows: Integers) -> NDArray[np.float64]:
        """(B,) f(S + row) - f(S)."""
        rise = np.maximum(self._alike(rows) - self._best, 0)
        return np.asarray(rise.mean(axis=1, dtype=np.float64))

    def add(self, row: int) -> None:
        np.maximum(self._best, self._alike(np.asarray([row]))[0], out=self._best)

    def _alike(self, rows: Integers) -> NDArray[np.float32]:
        cosines = self._vectors[rows].astype(np.float64) @ self._reference.T
        return np.clip((1 + cosines) / 2, 0, 1).astype(np.float32)
