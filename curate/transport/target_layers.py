"""Pool rows in layers around the target: first the nearest of every target row, then every second nearest, and so on."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from curate.core import Integers
from curate.nearest_lists import NearestLists
from curate.transport.optimal_transport import transport

_BLOCK = 2048
_SHALLOW = 32


class Distances(Protocol):
    """Distances between N pool rows and M target rows, held or computed when read."""

    shape: tuple[int, int]

    def blocks(self, size: int = _BLOCK) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """(first pool row, distances (B, M) of up to `size` pool rows), in order."""

    def of(self, rows: Integers) -> NDArray[np.float32]:
        """(K, M) the distances of these pool rows."""


class Nearest:
    """For each target row the pool rows, nearest first, ties by row; a longer list is found in one more pass, O(N M) time and O(M (depth + block)) memory."""

    def __init__(self, distances: Distances) -> None:
        self._distances = distances
        self._rows = np.zeros((distances.shape[1], 0), np.int64)
        self._away = np.zeros((distances.shape[1], 0), np.float32)

    def upto(self, depth: int) -> tuple[Integers, NDArray[np.float32]]:
        """(rows, distances), each (M, min(depth, N))."""
        n, m = self._distances.shape
        depth = min(depth, n)
        if depth > self._rows.shape[1]:
            lists = NearestLists(m, min(n, max(depth, 2 * self._rows.shape[1])))
            for start, block in self._distances.blocks(max(_BLOCK, depth)):
                lists.add(start, -block)
            rows, alike = zip(*lists.lists(), strict=True)
            self._rows, self._away = np.stack(rows), -np.stack(alike)
        return self._rows[:, :depth], self._away[:, :depth]


def layers(nearest: Nearest, columns: Integers, rows: int) -> Iterator[Integers]:
    """For r = 1, 2, ...: the pool rows that are the r-th nearest of one of these target rows and in no earlier layer, nearest first.

    Args:
        nearest: the lists of every target row.
        columns: whose lists are read.
        rows: of the pool.
    """
    seen = np.zeros(rows, np.bool_)
    for rank in range(rows):
        found, away = (part[columns, rank] for part in nearest.upto(max(_SHALLOW, 1 << rank.bit_length())))
        order = found[np.lexsort((found, away))]
        fresh = order[np.sort(np.unique(order, return_index=True)[1])]
        fresh = fresh[~seen[fresh]]
        seen[fresh] = True
        yield fresh


def rows_in_layers(distances: Distances, costs: Integers, capacity: int, exact_limit: int) -> Integers:
    """Pool rows by layer, as far as whole layers fit; then those of the first that does not, least potential first; then all others, nearest first.

    That layer loses the rows of largest dual potential in the transport of everything so far to the target, half of its excess at a time:
    a row of large potential is dear to serve, and without it the cost falls.

    Args:
        distances: of the pool (N) to the target (M).
        costs: (N,) what each row takes of the capacity.
        capacity: of all kept rows together.
        exact_limit: entries up to which transport is solved exactly.
    """
    n, m = distances.shape
    whole: list[Integers] = []
    left = capacity
    nearest = Nearest(distances)
    nearest.upto(min(n, int(capacity / max(float(costs.mean()), 1e-9))) // m + 1)
    for layer in layers(nearest, np.arange(m), n):
        if costs[layer].sum() > left:
            whole.append(_by_service(distances, whole, layer, costs, left, exact_limit))
            break
        whole.append(layer)
        left -= int(costs[layer].sum())
        if sum(map(len, whole)) == n:
            break
    taken = np.concatenate(whole)
    away = np.concatenate([block.min(axis=1) for _, block in distances.blocks()])
    away[taken] = np.inf
    return np.concatenate([taken, np.argsort(away, kind="stable")[: n - len(taken)]])


def _by_service(distances: Distances, whole: list[Integers], layer: Integers, costs: Integers, left: int, exact_limit: int) -> Integers:
    gone: list[Integers] = []
    before = np.concatenate([np.zeros(0, np.int64), *whole])
    while len(layer) > 1 and (excess := int(costs[layer].sum()) - left) > 0:
        potentials = transport(distances.of(np.concatenate([before, layer])), exact_limit).rows[len(before) :]
        layer = layer[np.argsort(potentials, kind="stable")]
        leaving = max(1, int(np.searchsorted(np.cumsum(costs[layer][::-1]), excess // 2, side="right")))
        gone.append(layer[len(layer) - leaving :])
        layer = layer[: len(layer) - leaving]
    return np.concatenate([layer, *gone[::-1]])
