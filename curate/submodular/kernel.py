"""The similarity of pool rows to one another, in [0, 1]: as a matrix, or a block of its rows at a time.

s = (1 + cos) / 2 of unit rows in float32, or the step 1[cos >= threshold]. Either way s_ii = 1 and s is symmetric.
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from curate.core import Integers

_ENTRIES = 1 << 23  # of one block: 32 MiB
_CACHED = 16  # rows shaped at a time, so that they are read from memory once
_STEP_NOISE = 1e-6  # copies have a cosine of one but for float32 rounding, so a threshold of one must still find them

Block = NDArray[np.float32]


class Kernel(Protocol):
    """A symmetric matrix (N, N) that is read by rows."""

    def __len__(self) -> int: ...

    def rows(self, rows: Integers) -> Block:
        """(B, N) the similarity of these rows to all; not to be written to."""


class Matrix:
    """A kernel that is held: 4 N^2 bytes."""

    def __init__(self, alike: Block) -> None:
        self.alike = alike

    def __len__(self) -> int:
        return len(self.alike)

    def rows(self, rows: Integers) -> Block:
        return np.asarray(self.alike[rows])


class Tiles:
    """A kernel that is computed from unit rows (N, D) whenever it is read: B N D for a block, and no memory beyond it."""

    def __init__(self, vectors: Block, threshold: float | None = None) -> None:
        self._vectors, self._threshold = vectors, threshold

    def __len__(self) -> int:
        return len(self._vectors)

    def rows(self, rows: Integers) -> Block:
        block = shaped(self._vectors[rows] @ self._vectors.T, self._threshold)
        block[np.arange(len(rows)), rows] = 1
        return block

    def whole(self) -> Matrix:
        alike = self._vectors @ self._vectors.T
        for start in range(0, len(alike), _CACHED):
            shaped(alike[start : start + _CACHED], self._threshold)
        np.fill_diagonal(alike, 1)
        return Matrix(alike)


def shaped(cosines: NDArray[np.floating], threshold: float | None) -> NDArray[np.floating]:
    """s of cosines, written in their place."""
    if threshold is not None:
        cosines[...] = cosines >= threshold - _STEP_NOISE
        return cosines
    cosines += 1
    cosines *= 0.5
    return np.clip(cosines, 0, 1, out=cosines)


def blocks(kernel: Kernel, rows: Integers) -> Iterator[tuple[Integers, Block]]:
    """(rows, their similarities (B, N)), a block at a time."""
    size = max(1, _ENTRIES // max(len(kernel), 1))
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        yield part, kernel.rows(part)
