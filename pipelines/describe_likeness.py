"""Likeness: how alike pool rows are to target rows, and to each other, in the numbers that arms compare by."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.core import Artifact, Features, Floats, Integers
from curate.data.examples import opened
from curate.features import open_features
from curate.pipelines.select import Given

_BLOCK = 2048
_ENTRIES = 1 << 24  # the most similarities that are held at once

Narrow = NDArray[np.float32]


@dataclass(frozen=True)
class Likeness:
    """One comparison of pool and target: by the vectors of both, or by stored similarities. Rows are positions in the pool's examples."""

    pool: Features  # the rows that have the numbers
    rows: Integers  # (N,) their positions, rising
    target: Features  # (M,)
    size: int  # of the pool
    word: str  # cosine, inner product or similarity

    @classmethod
    def of(cls, given: Given) -> "Likeness | None":
        """The comparison that these artifacts allow; None where there is nothing to compare by."""
        pool, rows, target = given.features()
        if target is None:
            return None
        word = "similarity" if given.similarity else "cosine" if given.metric == "cosine" else "inner product"
        return cls(pool, rows, target, len(opened(given.pool.path)), word)

    @property
    def has_vectors(self) -> bool:
        """Whether pool rows can be compared with each other."""
        return self.pool.vectors is not None

    def having(self, rows: Integers) -> Integers:
        """Those of the rows that have numbers, in their order."""
        held: Integers = rows[self.rows[self._places(rows)] == rows]
        return held

    def vectors(self, rows: Integers) -> Narrow:
        """(K, D) of pool rows that have numbers, of length one where they are compared by cosine."""
        return self._scaled(self.pool.vectors[self._places(rows)])

    @cached_property
    def goals(self) -> Narrow:
        """(M, D) of the target rows, likewise."""
        return self._scaled(self.target.vectors[np.arange(len(self.target))])

    def to_target(self, rows: Integers) -> Narrow:
        """(K, M) of pool rows that have numbers."""
        if self.has_vectors:
            return self.vectors(rows) @ self.goals.T
        return np.asarray(self.pool.similarity[self._places(rows)], np.float32)

    def blocks(self, rows: Integers, width: int = 0) -> Iterator[Integers]:
        """The rows in parts, so that (part, width) numbers, by default one for each target row, fit into memory."""
        size = max(1, min(_BLOCK, _ENTRIES // max(1, width or len(self.target))))
        for start in range(0, len(rows), size):
            yield rows[start : start + size]

    @cached_property
    def reach(self) -> tuple[Narrow, Integers]:
        """For every row of the pool its similarity to the nearest target row, minus infinity where it has no numbers, and which that is: one pass."""
        best, which = np.full(self.size, -np.inf, np.float32), np.zeros(self.size, np.int64)
        for part in self.blocks(self.rows):
            alike = self.to_target(part)
            which[part] = alike.argmax(axis=1)
            best[part] = alike[np.arange(len(part)), which[part]]
        return best, which

    def served(self, rows: Integers) -> tuple[Narrow, Integers]:
        """For every target row (M,) its similarity to the nearest of these rows, and which that is, the first of equal ones."""
        best, who = np.full(len(self.target), -np.inf, np.float32), np.full(len(self.target), -1, np.int64)
        for part in self.blocks(self.having(rows)):
            alike = self.to_target(part)
            first = alike.argmax(axis=0)
            value = alike[first, np.arange(len(first))]
            who, best = np.where(value > best, part[first], who), np.maximum(best, value)
        return best, who

    def nearest_of(self, row: int, rows: Integers) -> tuple[int, float] | None:
        """Which of the rows is most like this one, and their cosine, however target rows are compared; None where rows cannot be compared with each other."""
        others = self.having(rows[rows != row])
        if not self.has_vectors or not len(others) or not len(self.having(np.array([row]))):
            return None
        own = unit(self.vectors(np.array([row])))[0]
        alike = np.concatenate([unit(self.vectors(part)) @ own for part in self.blocks(others, len(own))])
        return int(others[alike.argmax()]), float(alike.max())

    def _places(self, rows: Integers) -> Integers:
        return np.asarray(np.searchsorted(self.rows, rows)).clip(max=len(self.rows) - 1)

    def _scaled(self, vectors: Any) -> Narrow:
        found = np.asarray(vectors, np.float32)
        return unit(found) if self.word == "cosine" else found


def unit(rows: Narrow) -> Narrow:
    """Rows of length one; a row of zeros stays as it is."""
    norms = np.sqrt(np.einsum("nd,nd->n", rows, rows))[:, None]
    scaled: Narrow = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    return scaled


def pool_scores(pool: Artifact, scores: Artifact) -> Floats:
    """(N,) the score of every row of the pool, NaN where it has none."""
    examples = opened(pool.path)
    features, rows = open_features(examples, scores=scores)
    found = np.full(len(examples), np.nan)
    found[rows] = features.scores
    return found
