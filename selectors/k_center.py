"""A subset from which no row of the pool is far."""

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curate.certificate import gap_to_bound, random_control
from curate.core import Budget, Certificate, Features, Integers, Selection
from curate.covering import SAME, covering_bound, covering_radius, nearest_two
from curate.farthest import Farthest, gaps, product_error
from curate.interfaces import Context, Selector
from curate.order import by_id, counts_rows
from curate.similarity import unit_rows


class KCenter(Selector):
    """Farthest-first traversal: minimise the covering radius r(S) = max_i min_{j in S} d_ij, d = sqrt(2 - 2 cos).

    Starts at the row nearest to the pool's mean direction and takes, again and again, the row farthest from all taken.
    r(S) <= 2 OPT for budgets in rows (Gonzalez, 1985). The certificate's bound holds for this very pool: any K centres leave
    two of the K kept rows and the farthest one left to the same centre c, so OPT >= min_c (distance from c to the second
    nearest of those K + 1), which is never below r(S) / 2. For tokens the farthest row that still fits is taken, without
    a bound. O(N K D) time, O(N D) memory. A gain is the distance at which a row was taken, for the
    first the largest there is, 2. Outliers are taken first: clean the pool before.
    """

    name: Literal["k_center"] = Field(default="k_center", description="The selector's name in a recipe.")
    needs: ClassVar[frozenset[str]] = frozenset({"vectors"})
    seeded: ClassVar[bool] = False
    diminishing: ClassVar[bool] = True
    diverse: ClassVar[bool] = True
    heeds_target: ClassVar[bool] = False
    version: ClassVar[int] = 2

    def select(self, pool: Features, budget: Budget, *, target: Features | None = None, context: Context = Context()) -> Selection:
        order, rows = by_id(pool)
        vectors = unit_rows(rows)
        costs, left = budget.costs(rows)
        fits = costs <= left
        if not fits.any():
            return Selection.of([])
        kept, far = [_most_central(vectors, np.flatnonzero(fits))], Farthest(vectors)
        while True:
            far.add(kept[-1])
            left -= int(costs[kept[-1]])
            fits[kept[-1]] = False
            fits &= costs <= left
            if not fits.any():
                break
            kept.append(far.row(fits))
        chosen = np.asarray(kept, np.int64)
        certificate = None
        if counts_rows(budget):
            certificate = _certificate(vectors, rows, budget, chosen, *far.radius(SAME))
        gains = np.concatenate([[2.0], gaps(vectors, chosen)])
        return Selection.of(order[chosen], gains=gains, certificate=certificate, prefix_consistent=counts_rows(budget))

    def certify(self, pool: Features, budget: Budget, rows: Integers, *, target: Features | None = None, context: Context = Context()) -> Certificate | None:
        if not counts_rows(budget) or not len(rows):
            return None
        vectors = unit_rows(pool)
        nearest, _ = nearest_two(vectors, rows)
        radius = float(nearest.max())
        last = min(np.flatnonzero(nearest >= radius - SAME), key=lambda row: str(pool.ids[row]))
        return _certificate(vectors, pool, budget, rows, int(last), radius)


def _most_central(vectors: NDArray[np.float32], among: Integers) -> int:
    """The row nearest to the mean of all, the lowest of equals."""
    centre = vectors.mean(0, dtype=np.float64)
    alike = vectors[among] @ centre.astype(np.float32)
    near = among[alike >= alike.max() - product_error(vectors.shape[1])]
    apart = vectors[near].astype(np.float64) - centre
    return int(near[np.argmin(np.sqrt(np.einsum("nd,nd->n", apart, apart)))])


def _certificate(vectors: NDArray[np.float32], rows: Features, budget: Budget, chosen: Integers, last: int, radius: float) -> Certificate:
    """Of these rows, from whom row `last` is the farthest, at distance `radius`."""
    radius = radius if radius >= SAME else 0.0
    bound = min(radius, covering_bound(vectors, np.append(chosen, last)))
    random = covering_radius(vectors, random_control(rows, budget))
    return Certificate("covering_radius", "min", radius, bound, gap_to_bound(radius, bound, random), {"random": random})
