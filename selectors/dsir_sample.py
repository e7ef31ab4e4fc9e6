"""Rows drawn in proportion to their importance weight."""

from typing import ClassVar, Literal

from pydantic import Field

from curate.core import Budget, Features, Selection
from curate.gumbel import gumbel
from curate.interfaces import Context, Selector
from curate.order import best_first, by_id, counts_rows, oriented_scores


class DsirSample(Selector):
    """Importance resampling, DSIR (Xie et al., 2023): a draw without replacement in proportion to w_i = exp(score_i / temperature).

    Rows are taken one after the other, each with a probability in proportion to w among those left: the largest
    score_i + temperature g_i with a Gumbel number g_i of the row's own, so the order of the pool does not matter and subsets
    of two budgets in rows are nested. Scores are log weights, as the scorer `dsir` gives them. Temperatures above 1 flatten the
    weights, towards uniform sampling; below 1 they sharpen them, towards `top_k`. O(N log N).
    """

    name: Literal["dsir_sample"] = Field(default="dsir_sample", description="The selector's name in a recipe.")
    needs: ClassVar[frozenset[str]] = frozenset({"scores"})
    heeds_target: ClassVar[bool] = False
    temperature: float = Field(default=1.0, ge=1e-6, le=1e6, description="Divides the scores: larger is closer to uniform, smaller closer to the top.")

    def select(self, pool: Features, budget: Budget, *, target: Features | None = None, context: Context = Context()) -> Selection:
        order, rows = by_id(pool)
        scores = oriented_scores(rows, largest=True)
        keys = scores + self.temperature * gumbel(context.seed, "dsir_sample", rows.ids)
        ranked = best_first(keys, budget.costs(rows)[1] if counts_rows(budget) else None)
        kept = budget.fill(ranked, rows)
        return Selection.of(order[kept], gains=scores[kept], prefix_consistent=counts_rows(budget))
