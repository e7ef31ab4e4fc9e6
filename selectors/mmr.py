"""Good rows that differ from one another by maximal marginal relevance: each next row is good and unlike the nearest kept one."""

from typing import ClassVar, Literal

from pydantic import Field

from curate.core import Budget, Features, Selection
from curate.interfaces import Context
from curate.masks.diversity import Form
from curate.masks.search import mmr_mask
from curate.masks.selector import MaskSelector
from curate.order import by_id, counts_rows, oriented_scores
from curate.similarity import unit_rows


class Mmr(MaskSelector):
    """Maximal marginal relevance (Carbonell and Goldstein, 1998): again and again the row of largest
    w q_i / sd(q) - (1 - w) max_{j kept} cos_ij / sd(cos).

    The deviations are those of the rows' scores and of cosines of random pairs, so that w weighs like with like. A heuristic
    without a guarantee; its certificate measures it by the objective of `policy_mask` and `mask_greedy`, for the `diversity`
    named. Unlike greedy on that objective it looks at the nearest kept row alone, so it keeps copies apart and says nothing of the mean.
    A gain is the value at which a row was taken. O(K N D) time, O(N D) memory.
    """

    name: Literal["mmr"] = Field(default="mmr", description="The selector's name in a recipe.")
    seeded: ClassVar[bool] = False
    heeds_target: ClassVar[bool] = False
    quality_weight: float = Field(default=0.5, ge=0, le=1, description="w: the weight of quality; unlikeness has the rest.")
    diversity: Form = Field(default="pairwise", description="The diversity that the certificate measures; the choice of rows does not depend on it.")

    def select(self, pool: Features, budget: Budget, *, target: Features | None = None, context: Context = Context()) -> Selection:
        order, rows = by_id(pool)
        objective = self.objective(rows, budget)
        if objective is None:
            return Selection.of(budget.fill(order, pool), prefix_consistent=counts_rows(budget))
        kept, values = mmr_mask(unit_rows(rows), oriented_scores(rows, self.largest), self.quality_weight, *budget.costs(rows))
        return Selection.of(order[kept], gains=values, certificate=objective.certificate(kept, budget), prefix_consistent=counts_rows(budget))
