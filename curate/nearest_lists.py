"""The pool rows most alike to each target row, gathered from blocks in bounded memory."""

import numpy as np
from numpy.typing import NDArray

from curate.core import Floats, Integers


class NearestLists:
    """For each of M target rows the `depth` most alike of the pool rows it was shown, ties to the lower row; exact.

    Blocks come in the order of the pool. A row enters the buffer of a target row if it beats the `depth`-th best seen when
    that buffer was last cut back, which happens whenever it is full: O(N M) comparisons, about M depth log(N / depth)
    entries moved where rows come in no order of likeness, and M (depth + max(depth, block)) entries of memory.
    """

    def __init__(self, goals: int, depth: int) -> None:
        self._depth = depth
        self._least: Floats = np.full(goals, -np.inf)  # what a row must beat to enter
        self._held = np.zeros(goals, np.int64)
        self._values: Floats = np.zeros((goals, 0))
        self._rows: NDArray[np.int32] = np.zeros((goals, 0), np.int32)

    def add(self, start: int, alike: Floats) -> None:
        """Take the (B, M) similarities of pool rows `start`, `start` + 1, ... into account; minus infinity is never listed."""
        size, goals = alike.shape
        self._widen(size, alike)
        row, goal = np.divmod(np.flatnonzero(alike > self._least), goals)
        by_goal = np.argsort(goal, kind="stable")
        row, goal = row[by_goal], goal[by_goal]
        counts = np.bincount(goal, minlength=goals)
        for full in np.flatnonzero(self._held + counts > self._values.shape[1]):
            self._cut_back(int(full))
        place = self._held[goal] + np.arange(len(goal)) - np.repeat(np.cumsum(counts) - counts, counts)
        self._values[goal, place] = alike[row, goal]
        self._rows[goal, place] = start + row
        self._held += counts

    def lists(self) -> list[tuple[Integers, Floats]]:
        """For each target row (pool rows, similarities), most alike first; shorter than `depth` where fewer rows were shown."""
        found = []
        for goal in range(len(self._held)):
            self._cut_back(goal)
            values = self._values[goal, : self._held[goal]]
            order = np.argsort(-values, kind="stable")
            found.append((self._rows[goal, order].astype(np.int64), values[order]))
        return found

    def _widen(self, size: int, like: Floats) -> None:
        """Room for `size` rows beyond those kept."""
        width, goals = self._depth + max(self._depth, size), len(self._held)
        if self._values.shape[1] >= self._depth + size:
            return
        values, rows = np.empty((goals, width), like.dtype), np.empty((goals, width), np.int32)
        held = self._values.shape[1]
        values[:, :held], rows[:, :held] = self._values, self._rows
        self._values, self._rows, self._least = values, rows, self._least.astype(like.dtype)

    def _cut_back(self, goal: int) -> None:
        """Keep the best `depth` of a buffer; what is kept stays in the order of its rows."""
        held = int(self._held[goal])
        if held <= self._depth:
            return
        values = self._values[goal, :held]
        edge = np.partition(values, held - self._depth)[held - self._depth]
        stays = values > edge
        stays[np.flatnonzero(values == edge)[: self._depth - int(stays.sum())]] = True
        kept = np.flatnonzero(stays)
        self._values[goal, : self._depth] = values[kept]
        self._rows[goal, : self._depth] = self._rows[goal, kept]
        self._held[goal], self._least[goal] = self._depth, edge
