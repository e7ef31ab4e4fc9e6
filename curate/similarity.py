"""How alike rows are: unit rows, similarity of every pool row to every target row, sorted lists.

`Similarities` gives those of a block of pool rows at a time, so that a selector can pass over pools of any size;
`similarity` holds them all.

Dot products are accumulated in float64 and kept in float32, block by block, so that neither the size of a
block nor the place of a row in it decides between two rows that are equally near.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from curate.core import Features, Floats, Integers
from curate.errors import DataError, NumericError
from curate.order import best_first, by_id

Metric = Literal["auto", "cosine", "inner"]

_BLOCK = 2048
_ENTRIES = 1 << 21  # the most similarities of a block: with very many target rows it is shorter
_LARGEST = 1e38  # what float32 holds


def unit_rows(features: Features) -> NDArray[np.float32]:
    """(N, D) the vectors scaled to length one; an error names the first row that is zero or not finite."""
    if features.vectors is None:
        raise DataError("this selector needs vectors, but the features carry none; score the pool with a scorer whose output is vectors")
    rows = np.empty(np.shape(features.vectors), np.float32)
    for start, block in features.blocks(_BLOCK):
        rows[start : start + len(block)] = _scaled(block, features, start)
    return rows


def refuse_rows_without_direction(features: Features) -> None:
    """An error that names the first row whose vector is zero or not finite; holds one block at a time."""
    for start, block in features.blocks(_BLOCK):
        _scaled(block, features, start)


def _scaled(block: Floats, features: Features, start: int) -> NDArray[np.float64]:
    wide = np.asarray(block, np.float64)
    return np.asarray(wide / _norms(wide, features, start)[:, None])


def _norms(wide: NDArray[np.float64], features: Features, start: int) -> NDArray[np.float64]:
    norms = np.sqrt(np.einsum("bd,bd->b", wide, wide))
    wrong = ~(np.isfinite(norms) & (norms > 0))
    if wrong.any():
        row = features.ids[start + int(np.argmax(wrong))]
        raise NumericError(f"the vector of row {row} is zero or not finite, so it has no direction; drop the row or score it again")
    return np.asarray(norms)


class Similarities:
    """How alike every pool row is to every target row, one block of pool rows at a time; may be passed over again and again.

    `pool.similarity` (N, M) is read where it is given; otherwise cosine or inner product of the vectors, as `metric` or else the features say. Columns are the
    target rows in the order of their ids. O(N M D) for a pass, and one block of memory.
    """

    def __init__(self, pool: Features, target: Features | None, *, metric: Metric = "auto") -> None:
        self._pool = pool
        self._scaled = (pool.metric if metric == "auto" else metric) == "cosine"
        if pool.similarity is not None:
            self._columns = _columns(np.shape(pool.similarity), target)
            self.shape = (len(pool), len(self._columns))
            return
        if target is None or len(target) == 0:
            raise DataError("this selector needs a target; give target rows, or features that carry a similarity to them")
        if pool.vectors is None or target.vectors is None:
            raise DataError("this selector needs vectors of both pool and target, or a similarity; score both with the same scorer")
        goal = by_id(target)[1]
        if np.shape(pool.vectors)[1] != np.shape(goal.vectors)[1]:
            raise DataError(f"pool vectors have width {np.shape(pool.vectors)[1]}, target vectors {np.shape(goal.vectors)[1]}; score both with the same scorer")
        blocks = goal.blocks(_BLOCK)
        self._goal = np.concatenate([_scaled(block, goal, start) if self._scaled else np.asarray(block, np.float64) for start, block in blocks])
        self.shape = (len(pool), len(goal))

    def blocks(self) -> Iterator[tuple[int, Floats]]:
        """(first row, (B, M) similarities of the next B rows, the caller's own), in order; a NumericError names a row that has none."""
        size = max(1, min(_BLOCK, _ENTRIES // self.shape[1]))
        return self._given(size) if self._pool.similarity is not None else self._products(size)

    def _given(self, size: int) -> Iterator[tuple[int, Floats]]:
        for start in range(0, len(self._pool), size):
            values = np.asarray(self._pool.similarity[start : start + size])
            finite = np.isfinite(values).all(axis=1)
            if not finite.all():
                raise NumericError(f"similarity of row {self._pool.ids[start + np.argmin(finite)]} is not finite; drop the row or score it again")
            floating = values if np.issubdtype(values.dtype, np.floating) else values.astype(np.float64)
            yield start, floating.take(self._columns, axis=1)

    def _products(self, size: int) -> Iterator[tuple[int, Floats]]:
        for start, block in self._pool.blocks(size):
            wide = np.asarray(block, np.float64)
            found, norms = wide @ self._goal.T, _norms(wide, self._pool, start)
            if self._scaled:
                found /= norms[:, None]
            elif (beyond := np.abs(found) > _LARGEST).any():
                row = self._pool.ids[start + int(np.argmax(beyond.any(axis=1)))]
                raise NumericError(f"the inner product of row {row} with a target row is beyond {_LARGEST:.0e}; scale the vectors, or compare by cosine")
            yield start, found.astype(np.float32)


def similarity(pool: Features, target: Features | None, *, metric: Metric = "auto") -> Floats:
    """(M, N) similarity of each target row, in the order of the target's ids, to each pool row: all that `Similarities` gives, at once."""
    alike = Similarities(pool, target, metric=metric)
    found: Floats | None = None
    for start, block in alike.blocks():
        if found is None:
            found = np.empty(alike.shape[::-1], block.dtype)
        found[:, start : start + len(block)] = block.T
    return np.empty(alike.shape[::-1], np.float32) if found is None else found


def _columns(shape: tuple[int, ...], target: Features | None) -> Integers:
    if len(shape) != 2 or shape[1] == 0 or (target is not None and shape[1] != len(target)):
        wanted = "at least one column" if target is None else f"{len(target)} columns, one per target row"
        raise DataError(f"similarity has shape {shape}; it needs one row per pool row and {wanted}")
    return np.arange(shape[1]) if target is None else np.argsort(target.ids, kind="stable")


class Rankings:
    """For each target row the pool rows, most alike first, ties by row; lists grow by doubling as they are read."""

    def __init__(self, alike: Floats, depth: int) -> None:
        self._alike = alike  # (M, N)
        self._lists = np.zeros((len(alike), 0), np.int64)
        self.upto(depth)

    def upto(self, depth: int) -> Integers:
        """(M, at least `depth`) pool rows; a depth beyond the pool gives the whole pool."""
        held, n = self._lists.shape[1], self._alike.shape[1]
        if min(depth, n) > held:
            wanted = min(n, max(depth, 2 * held))
            self._lists = np.stack([best_first(row, wanted) for row in self._alike])
        return self._lists
