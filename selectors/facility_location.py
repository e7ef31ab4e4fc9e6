"""A subset in which every row of the pool finds something close to itself."""

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curate.certificate import gap_to_bound, random_control
from curate.core import Budget, Certificate, Features, Integers, Selection
from curate.facility import DenseFacility, SparseFacility
from curate.greedy import lazy_greedy
from curate.interfaces import Context, Selector
from curate.order import by_id, counts_rows
from curate.similarity import nearest, unit_rows


class FacilityLocation(Selector):
    """Greedy facility location: maximise f(S) = sum_i max_{j in S} s_ij over the pool, s = (1 + cos) / 2.

    f(S) >= (1 - 1/e) OPT for budgets in rows, (1 - 1/e) / 2 for tokens (Nemhauser et al., 1978; Leskovec et al., 2007).
    The certificate's bound holds for this very pool and is usually far tighter; its gap is 0 at the bound and 1 at
    random. A target is not used: the pool represents itself. Up to `dense_limit` rows the full matrix is held,
    4 N^2 bytes, and about N log K of its rows are read; beyond, each row counts only its `neighbours` most
    similar rows (others as 0, in objective and certificate alike), O(N^2 D) time and O(N `neighbours`) memory.
    """

    name: Literal["facility_location"] = Field(default="facility_location", description="The selector's name in a recipe.")
    needs: ClassVar[frozenset[str]] = frozenset({"vectors"})
    seeded: ClassVar[bool] = False
    kernel: Literal["cosine"] = Field(default="cosine", description="The similarity s: (1 + cosine) / 2.")
    dense_limit: int = Field(default=20_000, ge=0, description="The largest pool whose full similarity matrix is held in memory.")
    neighbours: int = Field(default=64, ge=1, description="How many most similar rows count for each row of a larger pool.")

    def select(self, pool: Features, budget: Budget, *, target: Features | None = None, context: Context = Context()) -> Selection:
        order, rows = by_id(pool)
        vectors = unit_rows(rows)
        objective = DenseFacility(_kernel(vectors)) if len(rows) <= self.dense_limit else SparseFacility(*_neighbour_kernel(vectors, self.neighbours))
        greedy = lazy_greedy(objective, *budget.costs(rows))
        if len(greedy.order) == 0:
            return Selection.of(greedy.order)
        random = objective.value_of(random_control(rows, budget))
        gap = gap_to_bound(greedy.value, greedy.bound, random)
        details = {"random": random, "neighbours": float(min(self.neighbours, len(rows)) if len(rows) > self.dense_limit else len(rows))}
        certificate = Certificate("greedy_upper_bound", "max", greedy.value, greedy.bound, gap, details)
        return Selection.of(order[greedy.order], gains=greedy.gains, certificate=certificate, prefix_consistent=counts_rows(budget))


def _kernel(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    alike: NDArray[np.float32] = vectors @ vectors.T
    alike += 1
    alike *= 0.5
    np.fill_diagonal(alike, 1)
    return np.clip(alike, 0, 1, out=alike)


def _neighbour_kernel(vectors: NDArray[np.float32], neighbours: int) -> tuple[Integers, NDArray[np.float64]]:
    near, cosines = nearest(vectors, neighbours)
    return near, np.clip((1 + cosines) / 2, 0, 1)
