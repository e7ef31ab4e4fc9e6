"""How redundant each row is: its cosine to rows that come before it, looked for within clusters so that the cost stays far below N^2.

A pair is seen if its rows share one of their `probes` nearest centroids; with one probe, duplicates on two sides of a border are
missed. Cosines are of rows scaled anew in float64, kept in float32: those of copies are exactly 1.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from curate.core import Floats, Integers
from curate.spherical_kmeans import spherical_kmeans

Cosines = NDArray[np.float32]

_BLOCK = 1024
_NOTHING = np.float32(-1)  # of a row with none before it: as far as a row can be


@dataclass(frozen=True)
class Neighbourhoods:
    """The nearest centroids of each row (N, P), nearest first, and its cosine to the first of them (N,)."""

    places: Integers
    typical: Cosines

    def members(self, rank: Integers) -> Iterator[Integers]:
        """The rows around every centroid, by rank."""
        n, probes = self.places.shape
        place, row = self.places.ravel(), np.repeat(np.arange(n), probes)
        order = np.lexsort((rank[row], place))
        yield from np.split(row[order], np.flatnonzero(np.diff(place[order])) + 1)


def neighbourhoods(rows: NDArray[np.float32], keys: NDArray[np.uint64], clusters: int | None, probes: int) -> Neighbourhoods:
    """Around the centroids of spherical k-means, sqrt(N) of them unless a number is given; O(N C D)."""
    count = clusters or max(1, round(len(rows) ** 0.5))
    centroids = spherical_kmeans(rows, min(count, len(rows)), keys).centroids
    probes = min(probes, len(centroids))
    places, typical = np.empty((len(rows), probes), np.int64), np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _BLOCK):
        cosines = (_scaled(rows[start : start + _BLOCK]) @ centroids.T).astype(np.float32)
        held = np.arange(len(cosines))
        typical[start : start + _BLOCK] = cosines.max(axis=1)
        for probe in range(probes):
            nearest = cosines.argmax(axis=1)
            places[start : start + _BLOCK, probe] = nearest
            cosines[held, nearest] = -np.inf
    return Neighbourhoods(places, typical)


def precedence(near: Neighbourhoods, keep: Literal["hard", "easy", "random"], random: Floats) -> Integers:
    """(N,) the rank of each row: farthest from its centroid first (hard), nearest first (easy) or by chance; ties by row."""
    by = {"hard": near.typical, "easy": -near.typical, "random": random}[keep]
    rank = np.empty(len(by), np.int64)
    rank[np.argsort(by, kind="stable")] = np.arange(len(by))
    return rank


def cosine_to_earlier(rows: NDArray[np.float32], near: Neighbourhoods, rank: Integers) -> Cosines:
    """(N,) M_i = max cos(i, j) over all j of lower rank; O(sum over clusters of c^2 D)."""
    found = np.full(len(rows), _NOTHING)
    for members in near.members(rank):
        for start in range(0, len(members), _BLOCK):
            late = members[start : start + _BLOCK]
            wide, best = _scaled(rows[late]), found[late]
            for begin in range(0, start + 1, _BLOCK):
                alike = (wide @ _scaled(rows[members[begin : begin + _BLOCK]]).T).astype(np.float32)
                if begin == start:
                    alike[np.arange(len(late))[:, None] <= np.arange(len(late))] = _NOTHING
                best = np.maximum(best, alike.max(axis=1))
            found[late] = best
    return found


def cosine_to_kept(rows: NDArray[np.float32], near: Neighbourhoods, rank: Integers, threshold: float) -> Cosines:
    """(N,) max cos(i, j) over the j of lower rank that are kept, where a row is kept if that is at most the threshold; row by row."""
    found = np.full(len(rows), _NOTHING)
    margin = (rows.shape[1] + 32) * 2.0**-23  # twice the error of a float32 product of unit rows
    around = [_Growing(rows.shape[1]) for _ in range(int(near.places.max(initial=-1)) + 1)]
    for row in np.argsort(rank):
        held = [around[place] for place in near.places[row]]
        for kept in held:
            if kept.count:
                alike = kept.rows[: kept.count] @ rows[row]
                candidates = np.flatnonzero(alike >= alike.max() - margin)
                exact = (_scaled(kept.rows[candidates]) @ _scaled(rows[row : row + 1])[0]).astype(np.float32)
                found[row] = max(found[row], exact.max())
        if float(found[row]) <= threshold:
            for kept in held:
                kept.add(rows[row])
    return found


class _Growing:
    """Rows added one by one, in one array."""

    def __init__(self, width: int) -> None:
        self.rows, self.count = np.empty((4, width), np.float32), 0

    def add(self, row: NDArray[np.float32]) -> None:
        if self.count == len(self.rows):
            self.rows = np.concatenate([self.rows, np.empty_like(self.rows)])
        self.rows[self.count] = row
        self.count += 1


def cosine_that_links(rows: NDArray[np.float32], near: Neighbourhoods, rank: Integers) -> Cosines:
    """(N,) the largest threshold at which a chain of pairs above it joins the row to one of lower rank: single linkage.

    At any threshold, the rows not above it are the first of each connected component. Kruskal's algorithm over the
    maximum spanning trees of all clusters.
    """
    one, other, alike = (np.concatenate(part) for part in zip(*(_spanning_tree(rows, members) for members in near.members(rank)), strict=True))
    order = np.argsort(-alike, kind="stable")
    found = np.full(len(rows), _NOTHING)
    parent = np.arange(len(rows)).tolist()
    ranks = rank.tolist()

    def first(row: int) -> int:
        while parent[row] != row:
            parent[row] = row = parent[parent[row]]
        return row

    for i, j, cosine in zip(one[order].tolist(), other[order].tolist(), alike[order].tolist(), strict=True):
        a, b = sorted((first(i), first(j)), key=ranks.__getitem__)
        if a != b:
            parent[b] = a
            found[b] = cosine
    return found


def _spanning_tree(rows: NDArray[np.float32], members: Integers) -> tuple[Integers, Integers, Cosines]:
    """The edges of the maximum spanning tree of these rows by cosine (Prim)."""
    wide = _scaled(rows[members])
    best, parent = np.full(len(members), -np.inf), np.zeros(len(members), np.int64)
    outside = np.ones(len(members), bool)
    order, current = np.zeros(len(members), np.int64), 0
    for step in range(1, len(members)):
        outside[current] = False
        alike = wide @ wide[current]
        closer = outside & (alike > best)
        best[closer], parent[closer] = alike[closer], current
        current = int(np.argmax(np.where(outside, best, -np.inf)))
        order[step] = current
    joined = order[1:]
    return members[joined], members[parent[joined]], best[joined].astype(np.float32)


def _scaled(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = rows.astype(np.float64)
    return np.asarray(wide / np.sqrt(np.einsum("nd,nd->n", wide, wide))[:, None])
