"""Target rows in turn take the pool row most like them."""

from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curate.core import Budget, Features, Floats, Integers, Selection
from curate.interfaces import Context, Selector
from curate.nearest_lists import NearestLists
from curate.order import by_id, counts_rows
from curate.similarity import Metric, Similarities

_ENTRIES = 1 << 24  # of all lists together; where that is less than the budget needs, the pool is read again for the next ones
_WORTH = 64  # lists of N / 64 rows cost less to keep than to read the pool for


class RoundRobin(Selector):
    """Cycle through the target rows, in the order of their ids; each takes its most similar pool row that is not yet taken.

    Every target row gets its share, where a mean over them would serve the commonest kind alone. Similarities to the
    taking row are the gains. `lose_turn` is the variant of RDS+ (Ivison et al., 2025): a target row whose next row is
    already taken passes. A row too dear for what is left of the budget is passed over. No list of a target row need be
    longer than the budget, and most are read much less far: they are cut short, at 16 million entries together in any case, and
    a further pass over the pool is made when one runs out. O(N M D) time for a pass, nearly always one.
    """

    name: Literal["round_robin"] = Field(default="round_robin", description="The selector's name in a recipe.")
    needs: ClassVar[frozenset[str]] = frozenset({"similarity"})
    seeded: ClassVar[bool] = False
    on_taken: Literal["skip", "lose_turn"] = Field(default="skip", description="When a target row's best is taken: its next best, or no row this turn.")
    metric: Metric = Field(default="auto", description="Similarity of vectors: cosine, inner product, or auto: as their scorer means it.")

    def select(self, pool: Features, budget: Budget, *, target: Features | None = None, context: Context = Context()) -> Selection:
        order, rows = by_id(pool)
        alike = Similarities(rows, target, metric=self.metric)
        costs, left = budget.costs(rows)
        by_cost, seen, cheapest = np.argsort(costs, kind="stable"), np.zeros(len(rows), np.bool_), 0
        kept: list[int] = []
        gains: list[float] = []
        for row, gain in self._turns(alike, depth=int(np.searchsorted(np.cumsum(costs[by_cost]), left, side="right"))):
            while seen[by_cost[cheapest]]:
                cheapest += 1
            if left < costs[by_cost[cheapest]]:
                break
            seen[row] = True
            if costs[row] <= left:
                kept.append(row)
                gains.append(gain)
                left -= int(costs[row])
        chosen = np.asarray(kept, np.int64)
        return Selection.of(order[chosen], gains=np.asarray(gains), prefix_consistent=counts_rows(budget))

    def _turns(self, alike: Similarities, depth: int) -> Iterator[tuple[int, float]]:
        """(pool row, its similarity) of every turn that takes one, until the pool is empty."""
        n, m = alike.shape
        most = max(1, min(depth, _ENTRIES // m))
        depth = min(most, max(n // _WORTH, 4 * depth // m + 32))
        taken = np.zeros(n, np.bool_)
        last: list[tuple[float, int]] = [(np.inf, -1)] * m  # that each target row took or passed over
        turn, open_rows = 0, n
        while open_rows:
            lists = self._lists(alike, depth, taken, last)
            place = [0] * m
            while open_rows:
                goal = turn % m
                rows, values = lists[goal]
                if self.on_taken == "skip":
                    while place[goal] < len(rows) and taken[rows[place[goal]]]:
                        place[goal] += 1
                if place[goal] == len(rows):
                    break
                row, value = int(rows[place[goal]]), float(values[place[goal]])
                place[goal], last[goal] = place[goal] + 1, (value, row)
                turn += 1
                if not taken[row]:
                    taken[row] = True
                    open_rows -= 1
                    yield row, value
            depth = min(most, 2 * depth)

    def _lists(self, alike: Similarities, depth: int, taken: NDArray[np.bool_], last: list[tuple[float, int]]) -> list[tuple[Integers, Floats]]:
        """The best `depth` rows of each target row that are still open to it: free ones, or those after its last one."""
        nearest = NearestLists(alike.shape[1], depth)
        value, place = np.asarray([at[0] for at in last]), np.asarray([at[1] for at in last])
        for start, block in alike.blocks():
            if self.on_taken == "skip":
                block[taken[start : start + len(block)]] = -np.inf
            else:
                rows = np.arange(start, start + len(block))[:, None]
                passed = value.astype(block.dtype)
                block[(block > passed) | ((block == passed) & (rows <= place))] = -np.inf
            nearest.add(start, block)
        return nearest.lists()
