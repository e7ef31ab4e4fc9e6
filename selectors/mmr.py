"""Good rows that differ from one another by maximal marginal relevance: each next row is good and unlike the nearest kept one."""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from curate.core import Budget, Certificate, Features, Integers, Selection
from curate.interfaces import Context, Selector
from curate.mask_diversity import Form
from curate.mask_objective import MaskObjective
from curate.mask_search import mmr_mask
from curate.order import by_id, counts_rows, oriented_scores
from curate.similarity import unit_rows


class Mmr(Selector):
    """Maximal marginal relevance (Carbonell and Goldstein, 1998): again and again the row of largest
    w q_i / sd(q) - (1 - w) max_{j kept} cos_ij / sd(cos).

    The deviations are those of the rows' scores and of cosines of random pairs, so that w weighs like with like. A heuristic
    without a guarantee; its certificate measures it by the objective of `policy_mask` and `mask_greedy`, for the `diversity`
    named. Unlike greedy on that objective it looks at the nearest kept row alone, so it keeps copies apart and says nothing of the mean.
    A gain is the value at which a row was taken. O(K N D) time, O(N D) memory.
    """

    name: Literal["mmr"] = Field(default="mmr", description="The selector's name in a recipe.")
    needs: ClassVar[frozenset[str]] = frozenset({"vectors", "scores"})
    seeded: ClassVar[bool] = False
    quality_weight: float = Field(default=0.5, ge=0, le=1, description="w: the weight of quality; unlikeness has the rest.")
    largest: bool = Field(default=True, description="Whether large scores are good.")
    diversity: Form = Field(default="pairwise", description="The diversity that the certificate measures; the choice of rows does not depend on it.")
    anchors: int = Field(default=64, ge=1, le=4096, description="How many rows of the pool `facility` is to cover.")

    def select(self, pool: Features, budget: Budget, *, target: Features | None = None, context: Context = Context()) -> Selection:
        order, rows = by_id(pool)
        objective = self._objective(rows, budget)
        if objective is None:
            return Selection.of(budget.fill(order, pool), prefix_consistent=counts_rows(budget))
        kept, values = mmr_mask(unit_rows(rows), oriented_scores(rows, self.largest), self.quality_weight, *budget.costs(rows))
        return Selection.of(order[kept], gains=values, certificate=objective.certificate(kept, budget), prefix_consistent=counts_rows(budget))

    def certify(self, pool: Features, budget: Budget, rows: Integers, *, target: Features | None = None, context: Context = Context()) -> Certificate | None:
        order, ordered = by_id(pool)
        objective = self._objective(ordered, budget)
        return objective.certificate(np.argsort(order)[rows], budget) if objective and len(rows) else None

    def _objective(self, rows: Features, budget: Budget) -> MaskObjective | None:
        return MaskObjective.of(rows, budget, oriented_scores(rows, self.largest), self.quality_weight, self.diversity, self.anchors)
