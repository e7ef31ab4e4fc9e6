"""Each row's nearest neighbours and how alike they are, read by row and by column: N m numbers instead of N^2."""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from curate.core import Floats, Integers
from curate.submodular.kernel import shaped

_PART = 1 << 16  # rows at a time, so that what is computed on the way stays small beside the graph


class Graph:
    """s_ij for the m rows j nearest to each row i, and 0 for all others; not symmetric."""

    def __init__(self, near: NDArray[np.int32], alike: NDArray[np.float64], recall: float = 1.0) -> None:
        """
        Args:
            near: (N, m) distinct rows.
            alike: (N, m) their similarities, not negative.
            recall: the share of the true nearest rows that are in `near`.
        """
        from scipy.sparse import csr_array

        n, m = near.shape
        self.near, self.alike, self.recall = near, alike, recall
        self.total = float(alike.sum())
        by_row = csr_array((alike.ravel(), near.ravel(), np.arange(0, n * m + 1, m, dtype=np.int64)), shape=(n, n))
        by_column = by_row.tocsc()
        self._start, self._served, self._values = by_column.indptr.astype(np.int64), by_column.indices, by_column.data

    def __len__(self) -> int:
        return len(self.near)

    def reshaped(self, threshold: float | None, cap: NDArray[np.float32] | None) -> "Graph":
        """With s_ij replaced by 1[cos_ij >= threshold], and by at most cap_i; itself if neither is given."""
        if threshold is None and cap is None:
            return self
        alike = self.alike if threshold is None else shaped(2 * self.alike - 1, threshold)
        return Graph(self.near, np.asarray(alike if cap is None else np.minimum(alike, cap[:, None]), np.float64), self.recall)

    @property
    def details(self) -> Mapping[str, float]:
        """What a certificate says of it."""
        return {"neighbours": float(self.near.shape[1]), "recall": self.recall}

    def served(self, rows: Integers) -> tuple[Integers, Floats, Integers]:
        """(all rows i that have one of these among their nearest, s_ij, where each one's begin); one after the other."""
        if len(rows) == 1:
            part = slice(self._start[rows[0]], self._start[rows[0] + 1])
            return self._served[part], self._values[part], np.zeros(1, np.int64)
        sizes = self._start[rows + 1] - self._start[rows]
        starts = np.cumsum(sizes) - sizes
        places = np.arange(sizes.sum()) + np.repeat(self._start[rows] - starts, sizes)
        return self._served[places], self._values[places], starts

    @staticmethod
    def sums(values: Floats, starts: Integers) -> Floats:
        """The sums of the stretches that begin at `starts`; a stretch may be empty."""
        whole = np.concatenate([values, [0.0]])
        ends = np.append(starts[1:], len(values))
        return np.where(ends > starts, np.add.reduceat(whole, starts), 0.0) if len(starts) else np.zeros(0)

    def best(self, held: NDArray[np.bool_], rows: Integers | None = None) -> Floats:
        """The largest similarity of each of these rows, or of all, to a held row; 0 where none is among its nearest."""
        if rows is not None:
            return np.asarray(np.where(held[self.near[rows]], self.alike[rows], 0.0).max(axis=1, initial=0.0))
        return np.concatenate([np.where(held[self.near[part]], self.alike[part], 0.0).max(axis=1, initial=0.0) for part in self._parts()])

    def covered(self, held: NDArray[np.bool_]) -> Floats:
        """(N,) the summed similarity of each row to the held rows among its nearest."""
        return np.concatenate([np.where(held[self.near[part]], self.alike[part], 0.0).sum(axis=1) for part in self._parts()])

    def column_sums(self, room: Floats) -> Floats:
        """(N,) sum over i of min(s_ij, room_i)."""
        total = np.zeros(len(self))
        for part in self._parts():
            total += np.bincount(self.near[part].ravel(), np.minimum(self.alike[part], room[part, None]).ravel(), minlength=len(self))
        return total

    def rises(self, best: Floats) -> Floats:
        """(N,) sum over i of max(s_ij - best_i, 0)."""
        total = np.zeros(len(self))
        for part in self._parts():
            total += np.bincount(self.near[part].ravel(), np.maximum(self.alike[part] - best[part, None], 0.0).ravel(), minlength=len(self))
        return total

    def _parts(self) -> Iterator[slice]:
        return (slice(start, start + _PART) for start in range(0, len(self), _PART))
