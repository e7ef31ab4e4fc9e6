"""Concave functions of feature totals, f(S) = sum_d g(sum_{j in S} m_jd), m >= 0: more of a feature is worth less and less.

A negative number counts for a feature of its own: m has 2 D columns, max(x, 0) and max(-x, 0).
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from curate.core import Features, Floats, Integers
from curate.errors import NumericError
from curate.submodular.objective import Objective

Concave = Literal["root", "log", "cover"]

_BLOCK = 4096
_SHAPES: dict[str, Callable[[Floats], Floats]] = {"root": np.sqrt, "log": np.log1p, "cover": lambda total: np.minimum(total, 1.0)}


class FeatureBased(Objective):
    """O(D) for a gain; rows are read where they are, O(N) memory. `cover` counts whole columns: m is then 1[x > 0]."""

    def __init__(self, features: Features, shape: Concave) -> None:
        self._vectors: Any = features.vectors
        self._shape, self._covers = _SHAPES[shape], shape == "cover"
        self._single = np.empty(len(features))
        for start, block in features.blocks(_BLOCK):
            finite = np.isfinite(block).all(axis=1)
            if not finite.all():
                raise NumericError(f"the vector of row {features.ids[start + int(np.argmin(finite))]} is not finite; drop the row or score it again")
            self._single[start : start + len(block)] = self._shape(self._parts(block)).sum(axis=1)
        self.reset()

    def reset(self) -> None:
        self._total = np.zeros(self._vectors.shape[1] * (1 if self._covers else 2))

    @property
    def value(self) -> float:
        return float(self._shape(self._total).sum())

    def upper(self, rows: Integers | None = None) -> Floats:
        return self._single if rows is None else self._single[rows]

    def gains(self, rows: Integers) -> Floats:
        return self._rises(rows, [self._total])[0]

    def add(self, row: int) -> None:
        self._total = self._total + self._masses(np.asarray([row]))[0]

    def drop(self, row: int) -> None:
        self._total = np.maximum(self._total - self._masses(np.asarray([row]))[0], 0.0)

    def after(self, sets: Sequence[Integers]) -> Sequence[tuple[float, Floats]]:
        totals = [self._total_of(rows) for rows in sets]
        gains = self._rises(np.arange(len(self._single)), totals)
        for rows, gain in zip(sets, gains, strict=True):
            gain[rows] = 0
        return [(float(self._shape(total).sum()), gain) for total, gain in zip(totals, gains, strict=True)]

    def value_of(self, rows: Integers) -> float:
        return float(self._shape(self._total_of(rows)).sum())

    def _total_of(self, rows: Integers) -> NDArray[np.float64]:
        total = np.zeros(self._vectors.shape[1] * (1 if self._covers else 2))
        for start in range(0, len(rows), _BLOCK):
            total += self._masses(rows[start : start + _BLOCK]).sum(axis=0)
        return total

    def _rises(self, rows: Integers, totals: Sequence[NDArray[np.float64]]) -> list[Floats]:
        """For each total: (B,) how much each row would add to it."""
        found: list[Floats] = [np.empty(len(rows)) for _ in totals]
        for start in range(0, len(rows), _BLOCK):
            masses = self._masses(rows[start : start + _BLOCK])
            for total, gain in zip(totals, found, strict=True):
                gain[start : start + len(masses)] = (self._shape(total + masses) - self._shape(total)).sum(axis=1)
        return found

    def _masses(self, rows: Integers) -> NDArray[np.float64]:
        return self._parts(np.asarray(self._vectors[rows], np.float32))

    def _parts(self, block: NDArray[np.float32]) -> NDArray[np.float64]:
        if self._covers:
            return (block > 0).astype(np.float64)
        return np.concatenate([np.maximum(block, 0), np.maximum(-block, 0)], axis=1, dtype=np.float64)
