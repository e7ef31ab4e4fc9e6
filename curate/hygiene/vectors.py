"""Near-copies by vectors: paraphrases and translations that share no window of words, as far as an encoder sees them.

Cosines are looked for in float32 and decided in float64, so that neither blocks nor threads change which pairs are found.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from curate.core import Integers

Rows = NDArray[np.float32]
_PAIRS = 8192  # decided in float64 at a time
_ROUNDING = 1e-12  # that the cosine of a vector with itself may fall below 1


def near_by_vectors(pool: Rows, items: Rows, threshold: float = 0.95, block: int = 1024) -> Iterator[tuple[int, int, float]]:
    """(row, item, cosine) of every pair of vectors (N, D) and (M, D) at or above the threshold, by row, then item. O(N M D)."""
    unit = unit_rows(items)
    for start in range(0, len(pool), block):
        rows, found = unit_rows(pool[start : start + block]), pool[start : start + block]
        for row, item in zip(*np.nonzero(alike(rows, unit, threshold)), strict=True):
            yield start + int(row), int(item), float(cosines(found[[row]], items[[item]])[0])


def unit_rows(rows: Rows) -> Rows:
    """(N, D) of length one, to be compared by `alike`; a row of zeros stays as it is."""
    wide = np.asarray(rows, np.float64)
    lengths = np.sqrt(np.einsum("nd,nd->n", wide, wide))
    return np.asarray(wide / np.where(lengths > 0, lengths, 1.0)[:, None], np.float32)


def alike(one: Rows, other: Rows, threshold: float) -> NDArray[np.bool_]:
    """(N, M) which pairs of unit rows have a cosine of at least the threshold; that of copies counts as 1."""
    close = one @ other.T
    margin = (one.shape[1] + 32) * 2.0**-23  # twice the error of a float32 product of unit rows
    found = np.asarray(close >= threshold + margin)
    doubt = np.argwhere((close >= threshold - margin) & ~found)
    for start in range(0, len(doubt), _PAIRS):
        row, column = doubt[start : start + _PAIRS].T
        found[row, column] = cosines(one[row], other[column]) >= threshold - _ROUNDING
    return found


def cosines(one: Rows, other: Rows) -> NDArray[np.float64]:
    """(K,) of the K pairs of rows (K, D), in float64; 0 where a row is zero."""
    left, right = np.asarray(one, np.float64), np.asarray(other, np.float64)
    lengths = np.sqrt(np.einsum("kd,kd->k", left, left) * np.einsum("kd,kd->k", right, right))
    return np.asarray(np.einsum("kd,kd->k", left, right) / np.where(lengths > 0, lengths, 1.0))


def share_alike(rows: Rows, threshold: float) -> float:
    """The share of all pairs of these rows at or above the threshold: what an encoder that tells rows apart keeps near 0."""
    unit = unit_rows(rows)
    pairs = len(unit) * (len(unit) - 1)
    return float((int(alike(unit, unit, threshold).sum()) - int(np.any(unit, axis=1).sum())) / pairs) if pairs else 0.0


def first_of(rows: NDArray[np.bool_]) -> Integers:
    """(N,) the first column that holds in each row of (N, M); -1 where none does."""
    if not rows.shape[1]:
        return np.full(len(rows), -1)
    found = rows.argmax(axis=1)
    return np.where(rows[np.arange(len(rows)), found], found, -1)
