"""Facility location f(S) = sum_i min(cap_i, max_{j in S} s_ij), s >= 0: over a matrix, over tiles of it, or over nearest neighbours.

Dense and sparse keep every row's gain up to date instead of taking it again: when the best similarity of row i rises from a
to b, the gain of row j falls by clip(s_ij, a, b) - a. Only rows whose best rose cost anything, about N / t of them at
step t, so K steps read about N log K rows of the matrix in order rather than the many more that lazy refreshes read.
Without `cap` the caps are infinite.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from curate.core import Floats, Integers
from curate.submodular.graph import Graph
from curate.submodular.kernel import Kernel, Matrix, blocks
from curate.submodular.objective import Objective

_STRIP = 16  # rows summed in float32 at a time: they fit the cache, and their rounding error stays small and bounded
_EPSILON = 2.0**-24
_READ = 64  # rows of a kernel at a time

Best = NDArray[np.float32]


class TiledFacility(Objective):
    """Over any kernel. A gain reads one row of it: with tiles nothing of size N^2 is ever held."""

    def __init__(self, kernel: Kernel, cap: Best | None = None) -> None:
        self._kernel, self._cap = kernel, cap
        self.reset()

    @cached_property
    def _whole(self) -> Floats:
        """(N,) f of every single row."""
        return self.after([np.zeros(0, np.int64)])[0][1]

    def reset(self) -> None:
        self._best = np.zeros(len(self._kernel), np.float32)
        self._taken: list[int] = []

    @property
    def value(self) -> float:
        return float(self._best.sum(dtype=np.float64))

    def upper(self, rows: Integers | None = None) -> Floats:
        return self._whole if rows is None else self._whole[rows]

    def gains(self, rows: Integers) -> Floats:
        best = self._best.astype(np.float64)
        found = np.empty(len(rows))
        for start in range(0, len(rows), _READ):
            block = self._capped(self._kernel.rows(rows[start : start + _READ]))
            found[start : start + _READ] = [(np.maximum(row, self._best) - best).sum() for row in block]
        return found

    def add(self, row: int) -> None:
        np.maximum(self._best, self._column(row), out=self._best)
        self._taken.append(row)

    def drop(self, row: int) -> None:
        self._taken.remove(row)
        self._best = self._best_of(np.asarray(self._taken, np.int64))

    def value_of(self, rows: Integers) -> float:
        return float(self._best_of(rows).sum(dtype=np.float64))

    def after(self, sets: Sequence[Integers]) -> Sequence[tuple[float, Floats]]:
        best = [self._best_of(rows) for rows in sets]
        gains = [np.zeros(len(self._kernel)) for _ in sets]
        for rows, block in blocks(self._kernel, np.arange(len(self._kernel))):
            block = self._capped(block)
            for held, gain in zip(best, gains, strict=True):
                gain[rows] = np.maximum(block - held, 0).sum(axis=1, dtype=np.float64)
        return [(float(held.sum(dtype=np.float64)), gain) for held, gain in zip(best, gains, strict=True)]

    @property
    def details(self) -> Mapping[str, float]:
        return {"neighbours": float(len(self._kernel))}

    def _column(self, row: int) -> Best:
        column: Best = self._capped(self._kernel.rows(np.asarray([row])))[0]
        return column

    def _capped(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        return block if self._cap is None else np.minimum(block, self._cap)

    def _best_of(self, rows: Integers) -> Best:
        best = np.zeros(len(self._kernel), np.float32)
        for _, block in blocks(self._kernel, rows):
            np.maximum(best, self._capped(block).max(axis=0), out=best)
        return best


class DenseFacility(TiledFacility):
    """Over a symmetric matrix (N, N) float32 in [0, 1]. Kept gains are float32 strips with a proven margin; `gains` decides in float64."""

    def __init__(self, alike: NDArray[np.float32], cap: Best | None = None) -> None:
        self._kernel, self._cap, self._alike = Matrix(alike), cap, alike
        self._strip, self._ones = np.empty((_STRIP, len(alike)), np.float32), np.ones(_STRIP, np.float32)
        self._margin = 0.0
        self._whole = np.zeros(len(alike))
        for start in range(0, len(alike), _STRIP):
            strip = alike[start : start + _STRIP]
            self._whole += self._sum(strip if cap is None else np.minimum(strip, cap[start : start + _STRIP, None]))
        self.reset()

    def reset(self) -> None:
        super().reset()
        self._kept = self._whole.copy()

    def upper(self, rows: Integers | None = None) -> Floats:
        return (self._kept if rows is None else self._kept[rows]) + self._margin

    def gains(self, rows: Integers) -> Floats:
        best = self._best.astype(np.float64)
        return np.asarray([(np.maximum(self._column(row), self._best) - best).sum() for row in rows])

    def add(self, row: int) -> None:
        column = self._column(row)
        rose = np.flatnonzero(column > self._best)
        low, high = self._best[rose], column[rose]
        for start in range(0, len(rose), _STRIP):
            part = slice(start, start + _STRIP)
            self._kept -= self._between(rose[part], low[part], high[part])
            self._kept += float(low[part].sum(dtype=np.float64))
        self._best[rose] = high
        self._taken.append(row)

    def drop(self, row: int) -> None:
        self._taken.remove(row)
        fell = np.flatnonzero(self._column(row) >= self._best)
        high, low = self._best[fell], self._alike[np.ix_(np.asarray(self._taken, np.int64), fell)].max(axis=0, initial=0)
        low = np.minimum(low, high)
        for start in range(0, len(fell), _STRIP):
            part = slice(start, start + _STRIP)
            self._kept += self._between(fell[part], low[part], high[part])
            self._kept -= float(low[part].sum(dtype=np.float64))
        self._best[fell] = low

    def _column(self, row: int) -> Best:
        column: Best = self._alike[row]
        return column if self._cap is None else np.minimum(column, self._cap)

    def _between(self, rows: Integers, low: Best, high: Best) -> NDArray[np.float32]:
        """(N,) the sum over these rows i, at most a strip of them, of clip(s_ij, low_i, high_i)."""
        return self._sum(np.clip(self._alike[rows], low[:, None], high[:, None], out=self._strip[: len(rows)]))

    def _sum(self, strip: NDArray[np.float32]) -> NDArray[np.float32]:
        """Over the rows; m additions of numbers up to 1 err by at most m^2 epsilon, which the margin collects."""
        total: NDArray[np.float32] = self._ones[: len(strip)] @ strip
        self._margin += len(strip) ** 2 * _EPSILON
        return total


class SparseFacility(Objective):
    """Over a graph of nearest neighbours: each row counts only its own m nearest, all others as 0."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._margin = 1e-12 * graph.total
        self._whole = graph.column_sums(np.full(len(graph), np.inf))
        self.reset()

    def reset(self) -> None:
        self._best = np.zeros(len(self._graph))
        self._kept = self._whole.copy()
        self._held = np.zeros(len(self._graph), np.bool_)

    @property
    def value(self) -> float:
        return float(self._best.sum())

    def upper(self, rows: Integers | None = None) -> Floats:
        return (self._kept if rows is None else self._kept[rows]) + self._margin

    def gains(self, rows: Integers) -> Floats:
        served, alike, starts = self._graph.served(rows)
        return self._graph.sums(np.maximum(alike - self._best[served], 0.0), starts)

    def add(self, row: int) -> None:
        served, alike, _ = self._graph.served(np.asarray([row]))
        rose = alike > self._best[served]
        self._shift(served[rose], self._best[served[rose]], alike[rose], -1.0)
        self._best[served[rose]] = alike[rose]
        self._held[row] = True

    def drop(self, row: int) -> None:
        self._held[row] = False
        served, alike, _ = self._graph.served(np.asarray([row]))
        fell = served[alike >= self._best[served]]
        low = self._graph.best(self._held, fell)
        self._shift(fell, low, self._best[fell], 1.0)
        self._best[fell] = low

    def after(self, sets: Sequence[Integers]) -> Sequence[tuple[float, Floats]]:
        found = []
        for rows in sets:
            held = np.zeros(len(self._graph), np.bool_)
            held[rows] = True
            best = self._graph.best(held)
            found.append((float(best.sum()), self._graph.rises(best)))
        return found

    def value_of(self, rows: Integers) -> float:
        held = np.zeros(len(self._graph), np.bool_)
        held[rows] = True
        return float(self._graph.best(held).sum())

    @property
    def details(self) -> Mapping[str, float]:
        return self._graph.details

    def _shift(self, rows: Integers, low: Floats, high: Floats, sign: float) -> None:
        near, alike = self._graph.near[rows], self._graph.alike[rows]
        change = np.clip(alike, low[:, None], high[:, None]) - low[:, None]
        np.add.at(self._kept, near.ravel(), sign * change.ravel())
