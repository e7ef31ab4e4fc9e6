"""Log-determinant f(S) = log det(I + a X_S X_S^T): the volume that the kept rows span, or the information they carry about a linear model."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from curate.core import Floats, Integers
from curate.submodular.objective import Objective

_BLOCK = 4096

Wide = NDArray[np.float64]


class LogDeterminant(Objective):
    """Held as the D x D matrix I + a X_S^T X_S, which has the same determinant: row j adds log(1 + a x_j^T (I + a X_S^T X_S)^-1 x_j).

    O(D^2) for a gain and to add a row, by Sherman and Morrison's update of the inverse; O(D^3) to drop one.
    """

    def __init__(self, vectors: NDArray[np.float32] | Wide, scale: float) -> None:
        self._vectors, self._scale = vectors, scale
        self._single: Floats = np.log1p(scale * self._norms(np.eye(vectors.shape[1]), np.arange(len(vectors))))
        self.reset()

    def reset(self) -> None:
        self._gram = np.eye(self._vectors.shape[1])
        self._inverse: Floats = np.eye(self._vectors.shape[1])
        self._value = 0.0

    @property
    def value(self) -> float:
        return self._value

    def upper(self, rows: Integers | None = None) -> Floats:
        return self._single if rows is None else self._single[rows]

    def gains(self, rows: Integers) -> Floats:
        return np.asarray(np.log1p(self._scale * self._norms(self._inverse, rows)))

    def add(self, row: int) -> None:
        self._value += float(self.gains(np.asarray([row]))[0])
        x = self._vectors[row].astype(np.float64)
        u = self._inverse @ x
        self._gram = self._gram + self._scale * np.outer(x, x)
        self._inverse = self._inverse - np.outer(u, u) * (self._scale / (1 + self._scale * float(x @ u)))

    def drop(self, row: int) -> None:
        x = self._vectors[row].astype(np.float64)
        self._gram = self._gram - self._scale * np.outer(x, x)
        self._inverse = np.linalg.inv(self._gram)  # the update above, turned round, would cancel where only this row had a direction
        self._value -= float(self.gains(np.asarray([row]))[0])

    def after(self, sets: Sequence[Integers]) -> Sequence[tuple[float, Floats]]:
        found = []
        for rows in sets:
            gram = np.eye(self._vectors.shape[1])
            for start in range(0, len(rows), _BLOCK):
                block = self._vectors[rows[start : start + _BLOCK]].astype(np.float64)
                gram += self._scale * block.T @ block
            gains = np.log1p(self._scale * self._norms(np.linalg.inv(gram), np.arange(len(self._vectors))))
            gains[rows] = 0
            found.append((float(np.linalg.slogdet(gram)[1]), gains))
        return found

    def _norms(self, matrix: Floats, rows: Integers) -> Floats:
        """(B,) x^T matrix x of these rows."""
        found = np.empty(len(rows))
        for start in range(0, len(rows), _BLOCK):
            block = self._vectors[rows[start : start + _BLOCK]].astype(np.float64)
            found[start : start + len(block)] = np.einsum("bd,bd->b", block @ matrix, block)
        return np.maximum(found, 0.0)
