"""Leaders: of rows that are alike by vectors the first stays, and every row that goes is alike to one that stays.

A row stays unless a row before it that stays has a cosine of at least the threshold to it. This is the independent set that is first in
the order of rows (Blelloch et al., 2012, "Greedy sequential maximal independent set and matching are parallel on average"), not the rule
of SemDeDup as published (Abbas et al., 2023, arXiv:2303.09540), by which a row goes for any earlier one, so that of a chain A ~ B ~ C the
far end goes for a row that went itself. As there, rows are compared around the centroids of spherical k-means; a pair is seen if its rows
share one of their two nearest centroids. Up to `EXACT` rows are compared with all others.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from curate.beat import beat
from curate.core import Integers
from curate.hygiene.vectors import Rows, alike, cosines, first_of, unit_rows
from curate.redundancy import neighbourhoods

EXACT = 32768  # rows that are compared with all others
PROBES = 2
_BLOCK, _CHUNK = 1024, 4096  # rows that are compared at a time, and rows that they are compared with
_ROUNDS = 8  # after which what is open is settled row by row


class Vectors(Protocol):
    """(N, D) rows that are read when they are asked for, such as `ShardedRows`."""

    def __len__(self) -> int: ...
    def __getitem__(self, rows: Integers | slice) -> Rows: ...


@dataclass(frozen=True)
class Leaders:
    """For each row (N,) the row that stays for it, itself where it stays; and the cosine of the two."""

    row: Integers
    likeness: NDArray[np.float64]


def leaders(vectors: Vectors, threshold: float, keys: NDArray[np.uint64]) -> Leaders:
    """Who stays for each row; rows come in the order that decides.

    O(N^2 D) up to `EXACT` rows, then O(N sqrt(N) D) in the mean; O(N) memory beside blocks of rows.

    Args:
        vectors: none of length zero.
        threshold: the cosine from which rows are alike.
        keys: (N,) from `curate.randomness.row_keys`, by which k-means draws.
    """
    unit = _Unit(vectors)
    places = _places(unit, keys)
    found, fresh = np.full(len(vectors), -1), np.zeros(0, np.int64)
    for _ in range(_ROUNDS):
        if (found < 0).sum() <= EXACT:
            break
        fresh = _round(unit, threshold, places, found)
    _settle(unit, threshold, places, found, fresh)
    likeness = np.ones(len(found))
    for went in _blocks(np.flatnonzero(found != np.arange(len(found)))):
        likeness[went] = cosines(unit[went], unit[found[went]])
    return Leaders(found, likeness)


@dataclass(frozen=True)
class _Unit:
    """The same rows, of length one."""

    vectors: Vectors

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, rows: Integers | slice) -> Rows:
        return unit_rows(self.vectors[rows])


def _places(vectors: Vectors, keys: NDArray[np.uint64]) -> Integers:
    """(N, P) the neighbourhoods of each row."""
    if len(vectors) <= EXACT:
        return np.zeros((len(vectors), 1), np.int64)
    return neighbourhoods(cast(Rows, vectors), keys, None, PROBES).places  # which reads slices and rows of it only


def _blocks(rows: Integers, size: int | None = None) -> Iterator[Integers]:
    size = size or _BLOCK
    for start in range(0, len(rows), size):
        beat()
        yield rows[start : start + size]


def _round(vectors: Vectors, threshold: float, places: Integers, found: Integers) -> Integers:
    """Decide the open rows that no open row before them is like, or that one which stays is like; returns those that stay from now on."""
    best = np.full(len(found), len(found))
    waits = np.zeros(len(found), np.bool_)
    open_rows, stays = found < 0, found == np.arange(len(found))
    flat = np.argsort(places.ravel(), kind="stable")
    for members in np.split(flat // places.shape[1], np.flatnonzero(np.diff(places.ravel()[flat])) + 1):
        rows = members[open_rows[members] | stays[members]]  # in order, for the sort is stable
        for late in _blocks(rows[open_rows[rows]]):
            unit = vectors[late]
            for early in _blocks(rows[rows < late[-1]], _CHUNK):
                close = alike(unit, vectors[early], threshold) & (early < late[:, None])
                waits[late] |= (close & open_rows[early]).any(axis=1)
                first = first_of(close & stays[early])
                best[late[first >= 0]] = np.minimum(best[late[first >= 0]], early[first[first >= 0]])
    gone = open_rows & (best < len(found))
    found[gone] = best[gone]
    kept = np.flatnonzero(open_rows & ~gone & ~waits)
    found[kept] = kept
    return kept


def _settle(vectors: Vectors, threshold: float, places: Integers, found: Integers, kept: Integers) -> None:
    """Decide all open rows in their order; of the rows that stay already, they may be like those of the last round, `kept`, only."""
    for late in _blocks(np.flatnonzero(found < 0)):
        unit = vectors[late]
        leader = np.full(len(late), -1)
        for early in _blocks(kept, _CHUNK):
            first = first_of(_seen(alike(unit, vectors[early], threshold), places, late, early))
            new = (leader < 0) & (first >= 0)
            leader[new] = early[first[new]]
        close = _seen(alike(unit, unit, threshold), places, late, late)
        stays = np.zeros(len(late), np.bool_)
        for i in np.flatnonzero(leader < 0):
            before = np.flatnonzero(close[i, :i] & stays[:i])
            stays[i], leader[i] = not len(before), late[before[0] if len(before) else i]
        found[late] = leader
        kept = np.concatenate([kept, late[stays]])


def _seen(close: NDArray[np.bool_], places: Integers, one: Integers, other: Integers) -> NDArray[np.bool_]:
    """Of the pairs that are alike, those that share a neighbourhood."""
    if places.shape[1] == 1:
        return close
    row, column = np.nonzero(close)
    shared = (places[one[row]][:, :, None] == places[other[column]][:, None, :]).any(axis=(1, 2))
    close[row, column] = shared
    return close
