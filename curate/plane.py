"""Rows in a plane: the two directions along which they vary most."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.core import Floats

_GONE = 1e-7  # of the largest spread: rounding

Wide = NDArray[np.float64]


@dataclass(frozen=True)
class Plane:
    """Two orthogonal directions (2, D) through the mean (D,), and the share of the variance that they hold. A direction without variance is zero."""

    basis: Wide
    mean: Wide
    explained: float

    def place(self, rows: Floats) -> Wide:
        """(n, 2) coordinates of rows (n, D), computed in the precision of the rows."""
        return np.asarray(rows @ self.basis.T.astype(rows.dtype) - self.mean @ self.basis.T, np.float64)


def plane(pool: Floats, target: Floats) -> Plane:
    """The first two principal directions of pool rows (N, D) and target rows (M, D) taken together (Pearson, 1901).

    Each points to where its largest component, the first of equal ones, is positive, so that the same rows give the same picture. Rows that
    are all equal have no variance: both directions are zero then, and so is `explained`. Decomposes the inner products of rows, or of
    features where these are fewer: O(n D min(n, D)) for n = N + M, which is meant for a sample of hundreds, not for a pool.
    """
    rows = np.concatenate([np.asarray(pool, np.float64), np.asarray(target, np.float64)])
    mean = rows.mean(axis=0)
    rows -= mean
    total = float(np.einsum("nd,nd->", rows, rows))
    basis, held = np.zeros((2, rows.shape[1])), 0.0
    if total <= np.finfo(np.float64).eps ** 2 * float(mean @ mean) * len(rows):
        return Plane(basis, mean, 0.0)
    wide = rows.shape[1] > len(rows)
    energy, vectors = np.linalg.eigh(rows @ rows.T if wide else rows.T @ rows)
    for number in range(min(2, len(energy))):
        if energy[-1 - number] > _GONE**2 * energy[-1]:
            direction = rows.T @ vectors[:, -1 - number] if wide else vectors[:, -1 - number]
            largest = np.argmax(np.abs(direction) > np.abs(direction).max() * (1 - 1e-9))
            basis[number] = direction * np.sign(direction[largest]) / np.linalg.norm(direction)
            held += float(energy[-1 - number])
    return Plane(basis, mean, held / total)
