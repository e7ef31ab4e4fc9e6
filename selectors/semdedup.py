"""Rows that say something else than the rows kept before them."""

from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curate.core import Budget, Features, Integers, Selection
from curate.interfaces import Context, Selector
from curate.order import best_first, by_id, counts_rows
from curate.randomness import row_keys, uniform
from curate.redundancy import Cosines, Neighbourhoods, cosine_that_links, cosine_to_earlier, cosine_to_kept, neighbourhoods, precedence
from curate.similarity import unit_rows


class Semdedup(Selector):
    """SemDeDup (Abbas et al., 2023): a row goes if an earlier row of its neighbourhood is closer than cos > 1 - eps.

    Rows are compared around the centroids of spherical k-means, where `keep` says which come first. `semdedup`, as published,
    removes a row for any earlier one, removed or not, so the far end of a chain A ~ B ~ C goes too; `greedy_keep_first` removes it
    for a kept one only; `connected_component` keeps the first row of every set of rows that pairs above the threshold join.
    No two surviving rows of a neighbourhood are closer than the threshold, and of exact copies one survives.

    The budget is met exactly. `eps: size` lets it choose the threshold: rows come by increasing cosine to an earlier row (to a
    kept one; that joins them to one), which is a quantile of those cosines. With a number, the rows that survive it come first in
    random order and the others follow, least redundant first. A gain is 1 minus the cosine, without `eps`. Nothing is proven of the rows as
    a whole, so there is no certificate. O(N C D) for the clusters and O(sum over neighbourhoods of n^2 D) for the pairs, O(N D) memory.
    """

    name: Literal["semdedup"] = Field(default="semdedup", description="The selector's name in a recipe.")
    needs: ClassVar[frozenset[str]] = frozenset({"vectors"})
    diverse: ClassVar[bool] = True
    heeds_target: ClassVar[bool] = False
    mode: Literal["semdedup", "greedy_keep_first", "connected_component"] = Field(
        default="semdedup", description="A row goes for any earlier row, for a kept earlier row, or for a chain of rows that leads to an earlier one."
    )
    keep: Literal["hard", "easy", "random"] = Field(
        default="hard", description="Which of two alike rows comes first: the farther from its centroid, the nearer, or by chance."
    )
    eps: Annotated[float, Field(ge=1e-6, le=2)] | Literal["size"] = Field(
        default="size", description="Rows of cosine above 1 - eps are duplicates; size lets the budget choose."
    )
    clusters: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(default=None, description="How many clusters; about the root of the rows by default.")
    probes: int = Field(default=2, ge=1, le=64, description="In how many nearest clusters a row is compared; one misses duplicates across borders.")

    def select(self, pool: Features, budget: Budget, *, target: Features | None = None, context: Context = Context()) -> Selection:
        order, rows = by_id(pool)
        vectors = unit_rows(rows)
        costs, capacity = budget.costs(rows)
        if not (costs <= capacity).any():
            return Selection.of([])
        near = neighbourhoods(vectors, row_keys(context.seed, "semdedup clusters", rows.ids), self.clusters, self.probes)
        rank = precedence(near, self.keep, uniform(context.seed, "semdedup precedence", rows.ids))
        level = self._levels(vectors, near, rank, costs, capacity)
        turns = best_first(-level)
        if self.eps != "size":
            survives = level.astype(np.float64) <= 1 - self.eps
            random = np.where(survives, uniform(context.seed, "semdedup survivors", rows.ids), -1.0)
            turns = np.lexsort((level, -random))
        kept = budget.fill(turns, rows)
        nested = counts_rows(budget) and not (self.mode == "greedy_keep_first" and self.eps == "size")
        gains = 1.0 - level[kept].astype(np.float64) if self.eps == "size" else None
        return Selection.of(order[kept], gains=gains, prefix_consistent=nested, curves={"cosine_by_share": _curve(level)})

    def _levels(self, vectors: NDArray[np.float32], near: Neighbourhoods, rank: Integers, costs: Integers, capacity: int) -> Cosines:
        """(N,) the cosine above which the row is a duplicate."""
        if self.mode == "connected_component":
            return cosine_that_links(vectors, near, rank)
        earlier = cosine_to_earlier(vectors, near, rank)
        if self.mode == "semdedup":
            return earlier
        threshold = _threshold(earlier, costs, capacity) if self.eps == "size" else 1 - self.eps
        kept = cosine_to_kept(vectors, near, rank, threshold)
        return np.where(earlier >= 1, earlier, kept)  # the copy of a row that went comes after rows that differ


def _threshold(level: Cosines, costs: Integers, capacity: int) -> float:
    """The cosine that leaves as many rows as the budget holds, where rows go for any earlier row."""
    turns = best_first(-level)
    fitting = int(np.searchsorted(np.cumsum(costs[turns]), capacity, side="right"))
    return float(level[turns[max(fitting - 1, 0)]])


def _curve(level: Cosines) -> NDArray[np.float64]:
    """The cosine at every hundredth of the pool: which threshold leaves which size."""
    return np.sort(level)[np.linspace(0, len(level) - 1, 101).astype(np.int64)].astype(np.float64)
