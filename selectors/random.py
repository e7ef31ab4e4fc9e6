"""Rows in a random order: the control that every other selector must beat."""

from typing import ClassVar, Literal

from pydantic import Field

from curate.core import Budget, Features, Selection
from curate.interfaces import Context, Selector
from curate.order import best_first, by_id, counts_rows
from curate.randomness import uniform


class Random(Selector):
    """Uniform without replacement: rows by decreasing u(seed, id), each u an independent uniform number.

    A row's number depends on the seed and its id alone, so the order of the pool does not matter, and the subsets
    of two budgets in rows are nested. O(N log N).
    """

    name: Literal["random"] = Field(default="random", description="The selector's name in a recipe.")
    heeds_target: ClassVar[bool] = False

    def select(self, pool: Features, budget: Budget, *, target: Features | None = None, context: Context = Context()) -> Selection:
        order, rows = by_id(pool)
        drawn = best_first(uniform(context.seed, "random", rows.ids))
        return Selection.of(order[budget.fill(drawn, rows)], prefix_consistent=counts_rows(budget))
