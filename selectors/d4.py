"""Rows that are neither redundant nor typical of their kind."""

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from curate.core import Budget, Features, Selection
from curate.interfaces import Context, Selector
from curate.order import best_first, by_id, counts_rows
from curate.randomness import row_keys, uniform
from curate.redundancy import cosine_to_earlier, neighbourhoods, precedence
from curate.similarity import unit_rows


class D4(Selector):
    """D4 (Tirumala et al., 2023): deduplicate, cluster again, and drop the prototypical rows down to the budget.

    SemDeDup leaves the `dedup_share` of the pool whose cosine to an earlier row of their neighbourhood is lowest, and no exact
    copies. Duplicates draw centroids to themselves, so the rest is clustered anew, and the rows farthest from their centroid come
    first. Of a budget share R the second step thus keeps R / `dedup_share`; a budget above the `dedup_share` goes on with the rows
    removed as redundant, least redundant first. No certificate: nothing is proven. O(N C D) for the clusters and
    O(sum over neighbourhoods of n^2 D) for the pairs, O(N D) memory.
    """

    name: Literal["d4"] = Field(default="d4", description="The selector's name in a recipe.")
    needs: ClassVar[frozenset[str]] = frozenset({"vectors"})
    diverse: ClassVar[bool] = True
    heeds_target: ClassVar[bool] = False
    dedup_share: float = Field(default=0.75, gt=0, le=1, description="The share of the pool that deduplication leaves at most.")
    keep: Literal["hard", "easy", "random"] = Field(
        default="hard", description="Which of two alike rows comes first: the farther from its centroid, the nearer, or by chance."
    )
    clusters: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(default=None, description="How many clusters; about the root of the rows by default.")
    probes: int = Field(default=2, ge=1, le=64, description="In how many nearest clusters a row is compared; one misses duplicates across borders.")

    def select(self, pool: Features, budget: Budget, *, target: Features | None = None, context: Context = Context()) -> Selection:
        order, rows = by_id(pool)
        vectors = unit_rows(rows)
        if not len(rows):
            return Selection.of([])
        near = neighbourhoods(vectors, row_keys(context.seed, "d4 clusters", rows.ids), self.clusters, self.probes)
        rank = precedence(near, self.keep, uniform(context.seed, "d4 precedence", rows.ids))
        level = cosine_to_earlier(vectors, near, rank)
        by_level = best_first(-level)
        count = max(min(int(self.dedup_share * len(rows) + 1e-9), int((level < 1).sum())), 1)
        left = np.sort(by_level[:count])
        again = neighbourhoods(vectors[left], row_keys(context.seed, "d4 prototypes", rows.ids[left]), self.clusters, 1)
        turns = np.concatenate([left[best_first(-again.typical)], by_level[count:]])
        kept = budget.fill(turns, rows)
        return Selection.of(order[kept], prefix_consistent=counts_rows(budget))
