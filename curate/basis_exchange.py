"""Linearly independent rows that overlap least, found by exchanging one row for another.

Row j may take the place of basis row i exactly when c_i is not zero in row j = sum_i c_i b_i (the exchange lemma), so one table of
coefficients says which exchanges keep the rank, and a sum of overlaps for each row says what each is worth.
"""

from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from curate.core import Floats, Integers

Matrix = NDArray[np.float64]
Overlap = Literal["jaccard", "cosine"]

_LEAST_COEFFICIENT = 1e-4  # a smaller one would leave a basis that is all but dependent
_LATER = 1e-4  # how much shorter the last row is made, so that rounding never chooses between rows of equal length
_DIGITS = 12  # of an overlap: what lies beyond is rounding, and must not choose between rows
_LEAST_GAIN = 1e-10  # smaller than any difference that is not rounding
_CACHED = 2**16  # numbers
_REFRESH = 64  # exchanges after which the coefficients are solved for again


def overlaps(vectors: Matrix, row: Floats, kind: Overlap) -> Matrix:
    """(n,) the overlap of every vector with one row: |a and b| / |a or b| of zeros and ones, or |cos|; of two rows of zeros it is one."""
    dots = vectors @ row
    if kind == "jaccard":
        whole = vectors.sum(axis=1) + row.sum() - dots
    else:
        dots, whole = np.abs(dots), np.sqrt(np.einsum("nd,nd->n", vectors, vectors) * (row @ row))
    return np.asarray(np.round(np.divide(dots, whole, out=np.ones(len(vectors)), where=whole > 0), _DIGITS))


def independent_rows(vectors: Matrix, size: int, tolerance: float) -> tuple[Integers, Matrix]:
    """(at most `size` independent rows, (n, their number) coordinates in which the same sets of that many rows are independent).

    Pivoted QR of the rows at length one: the rank is the number of pivots above `tolerance` times the first. Where it is
    larger than `size`, the coordinates are projected at random, which keeps sets of `size` rows independent with probability one.
    """
    from scipy.linalg import qr

    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    scale = (1 - _LATER * np.arange(len(vectors)) / max(len(vectors), 1)) / np.where(lengths > 0, lengths, 1.0)
    triangle, pivots = qr((vectors * scale[:, None]).T, mode="r", pivoting=True, check_finite=False)
    diagonal = np.abs(np.diagonal(triangle))
    rank = int(np.count_nonzero(diagonal > tolerance * diagonal.max(initial=0.0)))
    coordinates = np.empty((len(vectors), rank))
    coordinates[pivots] = triangle[:rank].T
    size = min(size, rank)
    if size < rank:
        mixed = np.random.Generator(np.random.Philox(rank)).normal(size=(rank, size))
        coordinates = coordinates @ np.linalg.qr(mixed)[0]
    return np.asarray(pivots[:size], np.int64), coordinates


def least_overlapping(
    vectors: Matrix, size: int, kind: Overlap, *, tolerance: float = 1e-6, outside: Floats | None = None, restarts: Iterable[Floats] = (), exchanges: int = 1000
) -> tuple[Integers, float]:
    """(rows, cost): at most `size` independent rows, as many as there are, of small total overlap; never worse than the pivoted QR.

    cost = sum of overlap over pairs of the rows + sum of `outside` over the rows. From the pivoted QR, and from one more basis
    for each random scaling (n,) of the rows in `restarts`, the best exchange of all is made until none gains. O(n r (D + r)) for a
    start, O(n (D + r)) for an exchange, about 32 n r bytes.

    Args:
        vectors: (n, D), none of them zero.
        tolerance: the least pivot, relative to the first, that counts towards the rank.
        outside: (n,) what each row overlaps with rows that are kept already.
        exchanges: the most that are made from one start.
    """
    first, coordinates = independent_rows(vectors, size, tolerance)
    extra = np.zeros(len(vectors)) if outside is None else np.asarray(outside, np.float64)
    starts = [first, *(start for scale in restarts if len(start := _scaled_start(coordinates, scale, tolerance)) == len(first))]
    best, lowest = _exchange(vectors, coordinates, first, kind, extra, 0)
    for start in starts:
        rows, cost = _exchange(vectors, coordinates, start, kind, extra, exchanges)
        if cost < lowest - _LEAST_GAIN and _independent(vectors[rows], tolerance):
            best, lowest = rows, cost
    return best, lowest


def _scaled_start(coordinates: Matrix, scale: Floats, tolerance: float) -> Integers:
    from scipy.linalg import qr

    triangle, pivots = qr((coordinates * scale[:, None]).T, mode="r", pivoting=True, check_finite=False)
    diagonal = np.abs(np.diagonal(triangle))
    return np.asarray(pivots[: np.count_nonzero(diagonal > tolerance * diagonal.max(initial=0.0))], np.int64)


def _independent(rows: Matrix, tolerance: float) -> bool:
    values = np.linalg.svd(rows / np.linalg.norm(rows, axis=1, keepdims=True), compute_uv=False)
    return len(values) == len(rows) and bool(values[-1] > tolerance * values[0])


def _exchange(vectors: Matrix, coordinates: Matrix, start: Integers, kind: Overlap, outside: Matrix, exchanges: int) -> tuple[Integers, float]:
    """(the basis after at most that many exchanges, each the best of all, its cost)."""
    basis = start.copy()
    shared = np.stack([overlaps(vectors, vectors[row], kind) for row in basis], axis=1)
    total = shared.sum(axis=1) + outside
    coefficients: Matrix = np.zeros((0, 0))
    for made in range(exchanges):
        if made % _REFRESH == 0:
            coefficients = np.ascontiguousarray(np.linalg.solve(coordinates[basis].T, coordinates.T).T, np.float64)
        change, row, place = _best_change(total, shared, coefficients, total[basis] - shared[basis, np.arange(len(basis))])
        if change > -_LEAST_GAIN:
            break
        pivot = coefficients[row] / coefficients[row, place]
        pivot[place] = 1 - 1 / coefficients[row, place]
        for block in _blocks(coefficients):
            block -= np.multiply.outer(block[:, place], pivot)
        fresh = overlaps(vectors, vectors[row], kind)
        total += fresh - shared[:, place]
        shared[:, place] = fresh
        basis[place] = row
    return basis, float(outside[basis].sum() + (shared[basis].sum() - np.trace(shared[basis])) / 2)


def _best_change(total: Matrix, shared: Matrix, coefficients: Matrix, inside: Matrix) -> tuple[float, int, int]:
    """(change of cost, row, place) of the best exchange, ties to the lower row; a row of the basis could only take its own place."""
    best, start = (np.inf, 0, 0), 0
    for block, weight, sums in zip(_blocks(shared), _blocks(coefficients), _blocks(total, shared.shape[1]), strict=True):
        change = sums[:, None] - block
        change -= inside
        change[np.abs(weight) <= _LEAST_COEFFICIENT] = np.inf
        where = int(change.argmin())
        if change.flat[where] < best[0]:
            best = float(change.flat[where]), start + where // change.shape[1], where % change.shape[1]
        start += len(block)
    return best


def _blocks(table: Matrix, width: int = 0) -> Iterator[Matrix]:
    """Views of runs of rows that fit a processor's cache; `width` is the rows' length where the table itself is thin."""
    size = max(1, _CACHED // max(width or table.shape[1], 1))
    return (table[start : start + size] for start in range(0, len(table), size))
