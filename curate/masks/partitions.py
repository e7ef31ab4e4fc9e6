"""Parts of a pool that are read when they are used: a pool cut at random into equal parts, or read block by block."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.core import Features, Integers
from curate.errors import DataError
from curate.features import ShardedRows
from curate.randomness import row_keys
from curate.similarity import unit_rows

_ENTRIES = 1 << 19  # numbers of a block: four megabytes in float64


@dataclass(frozen=True)
class LazyRows:
    """Rows of an array-like (N, D), read when indexed; sent to another process, they take themselves along and no others."""

    values: Any
    rows: Integers

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.rows), *np.shape(self.values)[1:])

    @property
    def dtype(self) -> Any:
        return self.values.dtype

    def __getitem__(self, key: Any) -> NDArray[Any]:
        return np.asarray(self.values[self.rows[key]])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype)

    def __reduce__(self) -> Any:
        return np.asarray, (self[:],)


def part(pool: Features, rows: Integers) -> Features:
    """The ids, costs and vectors of these rows; vectors are not read yet."""
    if pool.vectors is None:
        raise DataError("this selector needs vectors, but the features carry none; score the pool with a scorer whose output is vectors")
    vectors = pool.vectors.take(rows) if isinstance(pool.vectors, ShardedRows) else LazyRows(pool.vectors, rows)
    return Features(pool.ids[rows], pool.lengths[rows], vectors, supervised=pool.supervised[rows] if len(pool.supervised) else pool.supervised)


def shuffled_parts(pool: Features, size: int, seed: int, purpose: str) -> list[Integers]:
    """The rows of each of ceil(N / size) parts of equal size, ascending; which part a row is in hangs on the hash of its id."""
    parts = -(-len(pool) // size)
    if parts <= 1:
        return [np.arange(len(pool))]
    keys = [row_keys(seed, purpose, pool.ids[start : start + _ENTRIES]) for start in range(0, len(pool), _ENTRIES)]
    order = np.argsort(np.concatenate(keys), kind="stable")
    return [np.sort(rows) for rows in np.array_split(order, parts)]


def shares(capacity: int, costs: Integers, parts: list[Integers]) -> list[int]:
    """The capacity split by what the rows of each part cost together, exactly."""
    ends = np.cumsum([int(costs[rows].sum()) for rows in parts])
    total = max(int(ends[-1]), 1)
    cuts = [min(capacity, total) * int(end) // total for end in ends]
    return [cut - before for cut, before in zip(cuts, [0, *cuts[:-1]], strict=True)]


def unit_blocks(pool: Features, rows: Integers | None = None) -> Iterator[NDArray[np.float64]]:
    """(B, D) vectors of these rows, or of all, scaled to length one and rounded to float32, a few megabytes at a time."""
    chosen = np.arange(len(pool)) if rows is None else rows
    size = max(1, _ENTRIES // max(int(np.shape(part(pool, chosen[:1]).vectors)[1]), 1))
    for start in range(0, len(chosen), size):
        yield unit_rows(part(pool, chosen[start : start + size])).astype(np.float64)
