"""Saturated coverage f(S) = sum_i min(sum_{j in S} s_ij, cap_i): every row is to be covered, and none more than enough."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from curate.core import Floats, Integers
from curate.submodular.graph import Graph
from curate.submodular.kernel import Kernel, blocks
from curate.submodular.objective import Objective


class _Saturated(Objective):
    """What does not depend on how similarities are read."""

    _cap: Floats  # (N,) enough for each row
    _covered: Floats  # (N,) by the rows added so far

    @property
    def value(self) -> float:
        return float(np.minimum(self._covered, self._cap).sum())

    @property
    @abstractmethod
    def _single(self) -> Floats:
        """(N,) the gain of each row alone."""

    @abstractmethod
    def _covered_by(self, rows: Integers) -> Floats:
        """(N,) how much these rows cover of each row, capped or not."""

    def upper(self, rows: Integers | None = None) -> Floats:
        return self._single if rows is None else self._single[rows]

    def value_of(self, rows: Integers) -> float:
        return float(np.minimum(self._covered_by(rows), self._cap).sum())


class SaturatedCoverage(_Saturated):
    """Over a kernel, cap_i = a sum_j s_ij. A gain reads one row of it."""

    def __init__(self, kernel: Kernel, share: float) -> None:
        self._kernel = kernel
        self._cap = share * np.concatenate([block.sum(axis=1, dtype=np.float64) for _, block in blocks(kernel, np.arange(len(kernel)))])
        self.reset()

    @cached_property
    def _single(self) -> Floats:
        return self.after([np.zeros(0, np.int64)])[0][1]

    def reset(self) -> None:
        self._covered = np.zeros(len(self._kernel))

    def gains(self, rows: Integers) -> Floats:
        return self._room_taken(rows, [np.maximum(self._cap - self._covered, 0.0)])[0]

    def add(self, row: int) -> None:
        self._covered = self._covered + self._kernel.rows(np.asarray([row]))[0]

    def drop(self, row: int) -> None:
        self._covered = np.maximum(self._covered - self._kernel.rows(np.asarray([row]))[0], 0.0)

    def after(self, sets: Sequence[Integers]) -> Sequence[tuple[float, Floats]]:
        covered = [self._covered_by(rows) for rows in sets]
        gains = self._room_taken(np.arange(len(self._kernel)), [np.maximum(self._cap - total, 0.0) for total in covered])
        return [_without(rows, float(np.minimum(total, self._cap).sum()), gain) for rows, total, gain in zip(sets, covered, gains, strict=True)]

    def _covered_by(self, rows: Integers) -> Floats:
        covered = np.zeros(len(self._kernel))
        for _, block in blocks(self._kernel, rows):
            covered += block.sum(axis=0, dtype=np.float64)
        return covered

    @property
    def details(self) -> Mapping[str, float]:
        return {"neighbours": float(len(self._kernel))}

    def _room_taken(self, rows: Integers, rooms: Sequence[Floats]) -> list[Floats]:
        """For each room (N,): (B,) sum_i min(s_ij, room_i) of these rows j."""
        found: list[Floats] = [np.empty(len(rows)) for _ in rooms]
        start = 0
        for part, block in blocks(self._kernel, rows):
            for room, gain in zip(rooms, found, strict=True):
                gain[start : start + len(part)] = np.minimum(block, room).sum(axis=1)
            start += len(part)
        return found


class SparseSaturatedCoverage(_Saturated):
    """Over a graph of nearest neighbours: each row is covered by those of its own m nearest that are kept."""

    def __init__(self, graph: Graph, share: float) -> None:
        self._graph, self._cap = graph, share * graph.alike.sum(axis=1)
        self.reset()

    @cached_property
    def _single(self) -> Floats:
        return self._graph.column_sums(self._cap)

    def reset(self) -> None:
        self._covered = np.zeros(len(self._graph))

    def gains(self, rows: Integers) -> Floats:
        served, alike, starts = self._graph.served(rows)
        return self._graph.sums(np.minimum(alike, np.maximum(self._cap[served] - self._covered[served], 0.0)), starts)

    def add(self, row: int) -> None:
        served, alike, _ = self._graph.served(np.asarray([row]))
        self._covered[served] += alike

    def drop(self, row: int) -> None:
        served, alike, _ = self._graph.served(np.asarray([row]))
        self._covered[served] = np.maximum(self._covered[served] - alike, 0.0)

    def after(self, sets: Sequence[Integers]) -> Sequence[tuple[float, Floats]]:
        found = []
        for rows in sets:
            covered = self._covered_by(rows)
            gains = self._graph.column_sums(np.maximum(self._cap - covered, 0.0))
            found.append(_without(rows, float(np.minimum(covered, self._cap).sum()), gains))
        return found

    @property
    def details(self) -> Mapping[str, float]:
        return self._graph.details

    def _covered_by(self, rows: Integers) -> Floats:
        held = np.zeros(len(self._graph), np.bool_)
        held[rows] = True
        return self._graph.covered(held)


def _without(rows: Integers, value: float, gains: Floats) -> tuple[float, Floats]:
    gains[rows] = 0
    return value, gains
