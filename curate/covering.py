"""How well centres cover unit rows: the covering radius from its definition, and a radius that no other centres can beat."""

import numpy as np
from numpy.typing import NDArray

from curate.core import Integers

_BLOCK = 2048
_POINTS = 512
SAME = 1e-6  # distances this close count as equal, and below it as 0: differences of float64 products cannot tell them apart


def nearest_two(rows: NDArray[np.float32], points: Integers) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(N,) distances of every row from its nearest and its second nearest of these rows, inf where there is none; O(N K D)."""
    found = np.full((2, len(rows)), np.inf)
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK].astype(np.float64)
        length = np.einsum("bd,bd->b", block, block)[:, None]
        first, second = found[:, start : start + len(block)]
        for begin in range(0, len(points), _POINTS):
            some = rows[points[begin : begin + _POINTS]].astype(np.float64)
            apart = np.maximum(length + np.einsum("pd,pd->p", some, some) - 2 * (block @ some.T), 0)
            place = apart.argmin(axis=1)[:, None]
            low = np.take_along_axis(apart, place, 1)[:, 0]
            np.put_along_axis(apart, place, np.inf, 1)
            np.minimum(np.minimum(second, apart.min(axis=1)), np.maximum(first, low), out=second)
            np.minimum(first, low, out=first)
    distances = np.sqrt(found)
    distances[distances < SAME] = 0
    return distances[0], distances[1]


def covering_radius(rows: NDArray[np.float32], centres: Integers) -> float:
    """The largest distance of any row from its nearest centre."""
    return float(nearest_two(rows, centres)[0].max())


def covering_bound(rows: NDArray[np.float32], points: Integers) -> float:
    """A covering radius that no K rows as centres can go below, from any K + 1 rows.

    Whatever K centres are taken, one of them, c, serves two of the K + 1 points, so its radius is at least the distance of
    c from its second nearest point; the least of that over all rows c is the bound. It is never below half the least
    distance between two of the points, which is the usual argument, and comes close to that distance itself where no
    row lies between two of them.
    """
    return float(nearest_two(rows, points)[1].min())
