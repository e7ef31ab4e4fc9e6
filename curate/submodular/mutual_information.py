"""How much a subset says of the target rows Q, in the forms of submodular mutual information (Kothawade et al., 2022).

FLQMI: sum_q max_{j in S} s_qj + e sum_{j in S} max_q s_qj.  GCMI: sum_{j in S} sum_q s_qj.  LogDetMI: h(S) - h(S given Q), h the
log-determinant of I + a times the Gram matrix. FLVMI is facility location with caps (curate/facility.py).
"""

from collections.abc import Sequence
from copy import copy
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from curate.core import Floats, Integers
from curate.submodular.log_determinant import LogDeterminant
from curate.submodular.objective import Objective

_BLOCK = 4096


class QueryFacility(Objective):
    """FLQMI over (M, N) similarities to the target rows; O(M) for a gain."""

    def __init__(self, alike: NDArray[np.float32], weight: float) -> None:
        self._alike = np.ascontiguousarray(alike.T)  # (N, M)
        self._bonus: Floats = weight * self._alike.max(axis=1).astype(np.float64)
        self._single: Floats = self._alike.sum(axis=1, dtype=np.float64) + self._bonus
        self.reset()

    def reset(self) -> None:
        self._taken: list[int] = []
        self._best = np.zeros(self._alike.shape[1], np.float32)

    @property
    def value(self) -> float:
        return self._worth(np.asarray(self._taken, np.int64), self._best)

    def upper(self, rows: Integers | None = None) -> Floats:
        return self._single if rows is None else self._single[rows]

    def gains(self, rows: Integers) -> Floats:
        return self._rises(rows, self._best)

    def add(self, row: int) -> None:
        self._taken.append(row)
        self._best = np.maximum(self._best, self._alike[row])

    def drop(self, row: int) -> None:
        self._taken.remove(row)
        self._best = self._best_of(np.asarray(self._taken, np.int64))

    def after(self, sets: Sequence[Integers]) -> Sequence[tuple[float, Floats]]:
        found = []
        for rows in sets:
            best = self._best_of(rows)
            gains = self._rises(np.arange(len(self._alike)), best)
            gains[rows] = 0
            found.append((self._worth(rows, best), gains))
        return found

    def value_of(self, rows: Integers) -> float:
        return self._worth(rows, self._best_of(rows))

    def _best_of(self, rows: Integers) -> NDArray[np.float32]:
        return np.asarray(self._alike[rows].max(axis=0, initial=0))

    def _worth(self, rows: Integers, best: NDArray[np.float32]) -> float:
        return float(best.sum(dtype=np.float64) + self._bonus[rows].sum())

    def _rises(self, rows: Integers, best: NDArray[np.float32]) -> Floats:
        found = self._bonus[rows].copy()
        for start in range(0, len(rows), _BLOCK):
            part = slice(start, start + _BLOCK)
            found[part] += np.maximum(self._alike[rows[part]] - best, 0).sum(axis=1, dtype=np.float64)
        return found


class Modular(Objective):
    """A sum of numbers that belong to the rows: greedy is exact for budgets in rows."""

    def __init__(self, worth: Floats) -> None:
        self._worth = worth
        self.reset()

    def reset(self) -> None:
        self._value = 0.0

    @property
    def value(self) -> float:
        return self._value

    def upper(self, rows: Integers | None = None) -> Floats:
        return self._worth if rows is None else self._worth[rows]

    def gains(self, rows: Integers) -> Floats:
        return self._worth[rows]

    def add(self, row: int) -> None:
        self._value += float(self._worth[row])

    def drop(self, row: int) -> None:
        self._value -= float(self._worth[row])

    def after(self, sets: Sequence[Integers]) -> Sequence[tuple[float, Floats]]:
        found = []
        for rows in sets:
            gains = np.array(self._worth, np.float64)
            gains[rows] = 0
            found.append((float(self._worth[rows].sum()), gains))
        return found


class GaussianInformation(Objective):
    """LogDetMI: h(S) - h(S given Q) = log det(I + a X_S X_S^T) - log det(I + a X_S B X_S^T), B = I - e^2 a Y^T (I + a Y Y^T)^-1 Y.

    The mutual information of noisy Gaussian observations of S and of Q (at e = 1): no row lowers it, but it is not submodular, since
    a row that says nothing of Q by itself can cancel another's noise.
    """

    submodular: ClassVar[bool] = False

    def __init__(self, vectors: NDArray[np.float32], target: NDArray[np.float32], scale: float, strength: float) -> None:
        wide = target.astype(np.float64)
        gram = np.eye(len(wide)) + scale * wide @ wide.T
        rest = np.eye(wide.shape[1]) - strength**2 * scale * wide.T @ np.linalg.solve(gram, wide)
        values, directions = np.linalg.eigh(rest)
        self._alone = LogDeterminant(vectors, scale)
        self._given = LogDeterminant(vectors.astype(np.float64) @ (directions * np.sqrt(np.maximum(values, 0.0))), scale)

    def reset(self) -> None:
        self._alone, self._given = copy(self._alone), copy(self._given)
        self._alone.reset()
        self._given.reset()

    @property
    def value(self) -> float:
        return self._alone.value - self._given.value

    def upper(self, rows: Integers | None = None) -> Floats:
        return self.gains(np.arange(len(self._alone.upper())) if rows is None else rows)

    def gains(self, rows: Integers) -> Floats:
        return np.asarray(self._alone.gains(rows) - self._given.gains(rows))

    def add(self, row: int) -> None:
        self._alone.add(row)
        self._given.add(row)

    def drop(self, row: int) -> None:
        self._alone.drop(row)
        self._given.drop(row)

    def after(self, sets: Sequence[Integers]) -> Sequence[tuple[float, Floats]]:
        pairs = zip(self._alone.after(sets), self._given.after(sets), strict=True)
        return [(one[0] - other[0], np.asarray(one[1] - other[1])) for one, other in pairs]
