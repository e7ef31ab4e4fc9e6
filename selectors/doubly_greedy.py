"""The rows that some target row is most like."""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from curate.core import Budget, Features, Selection
from curate.interfaces import Context, Selector
from curate.order import best_first, by_id, counts_rows
from curate.similarity import Metric, Similarities


class DoublyGreedy(Selector):
    """Rows by their similarity to the nearest target row: again and again the most alike pair of a target row and a free pool row.

    Greedy over target rows and pool rows at once, as published with "A Critical Look at Targeted Instruction Selection": the
    order of max_j s_ij, which is also `top_k` with `aggregate: max`. It has the largest sum of max_j s_ij, exactly, for
    budgets in rows, and the gains are these. Nothing gives a target row a share. O(N M D) in one pass over the pool and
    O(N log N); a number per row and one block of memory.
    """

    name: Literal["doubly_greedy"] = Field(default="doubly_greedy", description="The selector's name in a recipe.")
    needs: ClassVar[frozenset[str]] = frozenset({"similarity"})
    seeded: ClassVar[bool] = False
    metric: Metric = Field(default="auto", description="Similarity of vectors: cosine, inner product, or auto: as their scorer means it.")

    def select(self, pool: Features, budget: Budget, *, target: Features | None = None, context: Context = Context()) -> Selection:
        order, rows = by_id(pool)
        nearest = np.empty(len(rows))
        for start, block in Similarities(rows, target, metric=self.metric).blocks():
            nearest[start : start + len(block)] = block.max(axis=1)
        ranked = best_first(nearest, budget.costs(rows)[1] if counts_rows(budget) else None)
        kept = budget.fill(ranked, rows)
        return Selection.of(order[kept], gains=nearest[kept], prefix_consistent=counts_rows(budget))
