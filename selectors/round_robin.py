"""Target rows in turn take the pool row most like them."""

from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from curate.core import Budget, Features, Floats, Selection
from curate.interfaces import Context, Selector
from curate.order import by_id, counts_rows
from curate.similarity import Metric, Rankings, similarity


class RoundRobin(Selector):
    """Cycle through the target rows, in the order of their ids; each takes its most similar pool row that is not yet taken.

    Every target row gets its share, where a mean over them would serve the commonest kind alone. Similarities to the
    taking row are the gains. `lose_turn` is the variant of RDS+ (Ivison et al., 2025): a target row whose next row is
    already taken passes. A row too dear for what is left of the budget is passed over. O(M (N + K log K)) after the
    O(N M D) similarities; only the first rows of every target's list are ever sorted.
    """

    name: Literal["round_robin"] = Field(default="round_robin", description="The selector's name in a recipe.")
    needs: ClassVar[frozenset[str]] = frozenset({"similarity"})
    seeded: ClassVar[bool] = False
    on_taken: Literal["skip", "lose_turn"] = Field(default="skip", description="When a target row's best is taken: its next best, or no row this turn.")
    metric: Metric = Field(default="cosine", description="Similarity of vectors: cosine, or inner product.")

    def select(self, pool: Features, budget: Budget, *, target: Features | None = None, context: Context = Context()) -> Selection:
        order, rows = by_id(pool)
        alike = similarity(rows, target, metric=self.metric)
        costs, left = budget.costs(rows)
        by_cost, seen, cheapest = np.argsort(costs, kind="stable"), np.zeros(len(rows), np.bool_), 0
        kept: list[int] = []
        gains: list[float] = []
        for goal, row in self._turns(alike, capacity=left):
            while seen[by_cost[cheapest]]:
                cheapest += 1
            if left < costs[by_cost[cheapest]]:
                break
            seen[row] = True
            if costs[row] <= left:
                kept.append(row)
                gains.append(float(alike[goal, row]))
                left -= int(costs[row])
        chosen = np.asarray(kept, np.int64)
        return Selection.of(order[chosen], gains=np.asarray(gains), prefix_consistent=counts_rows(budget))

    def _turns(self, alike: Floats, capacity: int) -> Iterator[tuple[int, int]]:
        """(target row, pool row) of every turn that takes one, until the pool is empty."""
        m, n = alike.shape
        rankings = Rankings(alike, depth=min(capacity, n) * 2 // m + 8)
        taken = np.zeros(n, np.bool_)
        place = [0] * m
        open_rows = n
        for turn in range(m * n):
            goal = turn % m
            lists = rankings.upto(place[goal] + 1)
            if self.on_taken == "skip":
                while taken[lists[goal, place[goal]]]:
                    place[goal] += 1
                    lists = rankings.upto(place[goal] + 1)
            row = int(lists[goal, place[goal]])
            place[goal] += 1
            if not taken[row]:
                taken[row] = True
                open_rows -= 1
                yield goal, row
            if open_rows == 0:
                return
