"""A subset from which no row of the pool is far."""

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curate.certificate import gap_to_bound, random_control
from curate.core import Budget, Certificate, Features, Integers, Selection
from curate.interfaces import Context, Selector
from curate.order import by_id, counts_rows
from curate.similarity import unit_rows

Distances = NDArray[np.float64]


class KCenter(Selector):
    """Farthest-first traversal: minimise the covering radius r(S) = max_i min_{j in S} d_ij, d = sqrt(2 - 2 cos).

    Starts at the row nearest to the pool's mean direction and takes, again and again, the row farthest from all taken.
    r(S) <= 2 OPT for budgets in rows (Gonzalez, 1985): the K kept rows and the farthest one left lie at least r(S) from
    each other, and any K centres leave two of those K + 1 rows at one centre, so OPT >= r(S) / 2, which is the
    certificate's bound. For tokens the farthest row that still fits is taken, without a bound. O(N K D) time, O(N D)
    memory. A gain is the distance at which a row was taken. Outliers are taken first: clean the pool before.
    """

    name: Literal["k_center"] = Field(default="k_center", description="The selector's name in a recipe.")
    needs: ClassVar[frozenset[str]] = frozenset({"vectors"})
    seeded: ClassVar[bool] = False

    def select(self, pool: Features, budget: Budget, *, target: Features | None = None, context: Context = Context()) -> Selection:
        order, rows = by_id(pool)
        vectors = unit_rows(rows)
        costs, left = budget.costs(rows)
        kept: list[int] = []
        gains: list[float] = []
        away = _distances(vectors, vectors.mean(0, dtype=np.float64))
        nearest = np.full(len(rows), np.inf)
        free = np.ones(len(rows), bool)
        while (fitting := free & (costs <= left)).any():
            row = int(np.argmax(np.where(fitting, nearest if kept else -away, -np.inf)))
            gains.append(float(nearest[row]) if kept else float(away[row]))
            kept.append(row)
            free[row] = False
            left -= int(costs[row])
            nearest = np.minimum(nearest, _distances(vectors, vectors[row]))
        chosen = np.asarray(kept, np.int64)
        certificate = self._certificate(vectors, rows, budget, nearest) if kept and counts_rows(budget) else None
        return Selection.of(order[chosen], gains=np.asarray(gains), certificate=certificate, prefix_consistent=counts_rows(budget))

    def _certificate(self, vectors: NDArray[np.float32], rows: Features, budget: Budget, nearest: Distances) -> Certificate:
        radius = float(nearest.max())
        random = covering_radius(vectors, random_control(rows, budget))
        return Certificate("covering_radius", "min", radius, radius / 2, gap_to_bound(radius, radius / 2, random), {"random": random})


def covering_radius(vectors: NDArray[np.float32], centres: Integers) -> float:
    """The largest distance of any of the unit rows (N, D) from its nearest centre."""
    nearest = np.full(len(vectors), np.inf)
    for centre in centres:
        nearest = np.minimum(nearest, _distances(vectors, vectors[centre]))
    return float(nearest.max())


def _distances(vectors: NDArray[np.float32], point: NDArray[np.floating]) -> Distances:
    """(N,) Euclidean distances, exact for copies: differences first, so that nothing cancels."""
    out = np.empty(len(vectors))
    for start in range(0, len(vectors), 4096):
        apart = vectors[start : start + 4096].astype(np.float64) - point
        out[start : start + 4096] = np.sqrt(np.einsum("nd,nd->n", apart, apart))
    return out
