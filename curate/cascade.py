"""Independent cascades on a digraph, by reverse-reachable sets: how many rows a set of rows is expected to activate.

An activated row u activates v once, with the chance of the edge u -> v. The set of a root r holds the rows from which r is reached
over live edges; sigma(S), the expected number of activated rows, is sum_r P[S meets the set of r] (Borgs et al., 2014). Each row
is the root of equally many sets, so sigma is estimated by the number of sets that S meets, divided by the sets of a root.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, sqrt
from typing import Self

import numpy as np
from numpy.typing import NDArray

from curate.core import Floats, Integers
from curate.randomness import draw, row_keys
from curate.submodular.objective import Objective

_CHUNK = 8192  # sets that grow together


@dataclass(frozen=True)
class Digraph:
    """Edges by the row that they lead to: those into row v are `start[v]` to `start[v + 1]`."""

    start: Integers  # (N + 1,)
    tails: Integers  # (E,) where the edge comes from
    chances: NDArray[np.float64]  # (E,) in (0, 1]

    @classmethod
    def of(cls, rows: int, tails: Integers, heads: Integers, chances: Floats) -> Self:
        """The graph of these edges; those without a chance are left out."""
        kept = np.flatnonzero(np.asarray(chances) > 0)
        order = kept[np.lexsort((tails[kept], heads[kept]))]
        return cls(np.searchsorted(heads[order], np.arange(rows + 1)), tails[order], np.asarray(chances, np.float64)[order])

    def __len__(self) -> int:
        return len(self.start) - 1


def neighbour_digraph(near: Integers, cosines: Floats, neighbours: int) -> Digraph:
    """An edge from each row to each of its nearest other rows, with the chance max(cos, 0) / their sum.

    `near` (N, at least min(neighbours + 1, N)) lists rows by decreasing cosine; a row is told from its copies by its number.
    """
    n = len(near)
    other = near != np.arange(n)[:, None]
    other &= np.cumsum(other, axis=1) <= neighbours
    weights = np.where(other, np.maximum(cosines, 0.0), 0.0)
    totals = weights.sum(axis=1, keepdims=True)
    chances = np.divide(weights, totals, out=np.zeros_like(weights), where=totals > 0)
    tails = np.broadcast_to(np.arange(n)[:, None], near.shape)
    return Digraph.of(n, tails[other], near[other], chances[other])


@dataclass(frozen=True)
class ReachedFrom:
    """Reverse-reachable sets, `rounds` for each row as its root: set i holds `members[start[i]:start[i + 1]]`."""

    start: Integers
    members: Integers
    rounds: int

    def __len__(self) -> int:
        return len(self.start) - 1

    def owners(self) -> Integers:
        """The set that each member is listed in."""
        return np.repeat(np.arange(len(self)), np.diff(self.start))

    def met(self, rows: Integers) -> NDArray[np.bool_]:
        """(sets,) which of them hold one of these rows."""
        hits = np.concatenate([[0], np.cumsum(np.isin(self.members, rows))])
        return np.asarray(hits[self.start[1:]] > hits[self.start[:-1]])

    def spread(self, rows: Integers) -> float:
        """The estimate of sigma: unbiased for rows that were chosen without these sets."""
        return float(self.met(rows).sum()) / self.rounds

    def standard_error(self, spread: float) -> float:
        """Of such an estimate, at most: that of independent roots, N sqrt(p (1 - p) / sets) with p = spread / N."""
        rows = len(self) / self.rounds
        share = min(spread / rows, 1.0)
        return float(rows * sqrt(share * (1 - share) / len(self)))


def proven_range(met: float, most: float, sets: int, *, doubt: float) -> tuple[float, float]:
    """(lower, upper) as shares of the rows: sigma of fixed rows that meet `met` fresh sets, and of the best rows if none meet more than `most`.

    Both hold at once but for a probability of `doubt` (Tang et al., "Online Processing Algorithms for Influence Maximization", 2018).
    """
    a = log(2 / doubt)
    lower = (max(sqrt(met + 2 * a / 9) - sqrt(a / 2), 0.0)) ** 2 - a / 18
    upper = (sqrt(most + a / 2) + sqrt(a / 2)) ** 2
    return max(lower, 0.0) / sets, min(upper / sets, 1.0)


def reverse_reachable(graph: Digraph, ids: NDArray[np.str_], seed: int, rounds: range) -> ReachedFrom:
    """A set of each row as the root in each of the rounds, breadth first; the coin of an edge is a function of (seed, round, root, edge), all by id.

    O(edges into the members) time; memory for the members.
    """
    tail, head, root = (row_keys(seed, f"cascade {part}", ids) for part in ("from", "to", "root"))
    turn = row_keys(seed, "cascade round", map(str, rounds))
    n = len(graph)
    edge = tail[graph.tails] + np.repeat(head, np.diff(graph.start))
    sizes, members = [], []
    for first in range(0, n * len(rounds), _CHUNK):
        number = np.arange(first, min(first + _CHUNK, n * len(rounds)))
        found = _grown(graph, edge, number % n, root[number % n] + turn[number // n])
        sizes.append(np.bincount(found // n, minlength=len(number)))
        members.append(found % n)
    counts = np.concatenate(sizes) if sizes else np.zeros(0, np.int64)
    held = np.concatenate(members) if members else np.zeros(0, np.int64)
    return ReachedFrom(np.concatenate([[0], np.cumsum(counts)]), held, len(rounds))


def _grown(graph: Digraph, edge: NDArray[np.uint64], roots: Integers, keys: NDArray[np.uint64]) -> Integers:
    """set * N + member, ascending, of the sets of these roots."""
    n = len(graph)
    reached = new = np.arange(len(roots)) * n + roots
    while len(new):
        node = new % n
        into = ranges(graph.start[node], graph.start[node + 1])
        owner = np.repeat(new // n, graph.start[node + 1] - graph.start[node])
        live = draw(keys[owner] + edge[into]) < graph.chances[into]
        found = np.unique(owner[live] * n + graph.tails[into[live]])
        place = np.minimum(np.searchsorted(reached, found), len(reached) - 1)
        new = found[reached[place] != found]
        reached = np.sort(np.concatenate([reached, new]), kind="stable")
    return reached


def ranges(start: Integers, end: Integers) -> Integers:
    """start[0], ..., end[0] - 1, start[1], ..., end[1] - 1, and so on."""
    sizes = end - start
    places: Integers = np.arange(int(sizes.sum())) + np.repeat(start - (np.cumsum(sizes) - sizes), sizes)
    return places


class Coverage(Objective):
    """How many sets are met, per round, as an objective for greedy: gains are counts that are kept up to date."""

    def __init__(self, sets: ReachedFrom, rows: int) -> None:
        self._sets, self._rows = sets, rows
        order = np.argsort(sets.members, kind="stable")
        self._holding = sets.owners()[order]  # the sets that hold a row, row after row
        self._from = np.searchsorted(sets.members[order], np.arange(rows + 1))
        self.reset()

    def reset(self) -> None:
        self._counts = np.bincount(self._sets.members, minlength=self._rows)
        self._hits = np.zeros(len(self._sets), np.int64)  # how many rows of S each set holds
        self._met = 0

    @property
    def value(self) -> float:
        return self._met / self._sets.rounds

    def upper(self, rows: Integers | None = None) -> Floats:
        return np.asarray((self._counts if rows is None else self._counts[rows]) / self._sets.rounds)

    def gains(self, rows: Integers) -> Floats:
        return self.upper(rows)

    def add(self, row: int) -> None:
        held = self._held(row)
        self._count(held[self._hits[held] == 0], -1)
        self._hits[held] += 1

    def drop(self, row: int) -> None:
        held = self._held(row)
        self._hits[held] -= 1
        self._count(held[self._hits[held] == 0], 1)

    def after(self, sets: Sequence[Integers]) -> list[tuple[float, Floats]]:
        found: list[tuple[float, Floats]] = []
        for rows in sets:
            met = self._sets.met(rows)
            gains = np.bincount(self._sets.members[~met[self._sets.owners()]], minlength=self._rows)
            found.append((float(met.sum()) / self._sets.rounds, np.asarray(gains / self._sets.rounds)))
        return found

    def _held(self, row: int) -> Integers:
        return self._holding[self._from[row] : self._from[row + 1]]

    def _count(self, sets: Integers, sign: int) -> None:
        """These sets begin (+1) or cease (-1) to be there for the gains of their members."""
        self._met -= sign * len(sets)
        np.add.at(self._counts, self._sets.members[ranges(self._sets.start[sets], self._sets.start[sets + 1])], sign)
