"""Good rows that differ from one another, taken one by one: the greedy answer to the objective of learnt masks."""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from curate.core import Budget, Certificate, Features, Integers, Selection
from curate.interfaces import Context, Selector
from curate.mask_diversity import Form
from curate.mask_objective import MaskObjective, typical_size
from curate.mask_search import greedy_mask
from curate.order import by_id, oriented_scores


class MaskGreedy(Selector):
    """The row that adds most to J(S) = w Q(S) / sigma_Q + (1 - w) D(S) / sigma_D, again and again.

    Q is the mean score, D one of three closed forms (curate/mask_diversity.py), the sigmas their deviations over random masks: the
    objective of `policy_mask`, and the same certificate. Means are taken as for masks of the final size K, so another budget is another
    order; for tokens, K is what the budget holds of average rows. For `pairwise` and `covariance` J is not submodular and
    greedy has no guarantee; for `facility` it is, with a constant factor where scores are not negative (Nemhauser et al., 1978). The
    certificate's bound is usually close. A gain is what a row added to J. O(K N D) time, O(N D) memory.
    """

    name: Literal["mask_greedy"] = Field(default="mask_greedy", description="The selector's name in a recipe.")
    needs: ClassVar[frozenset[str]] = frozenset({"vectors", "scores"})
    seeded: ClassVar[bool] = False
    quality_weight: float = Field(default=0.5, ge=0, le=1, description="w: the weight of quality; diversity has the rest.")
    largest: bool = Field(default=True, description="Whether large scores are good.")
    diversity: Form = Field(default="pairwise", description="D: minus the mean cosine, minus the covariance's norm, or coverage of anchors.")
    anchors: int = Field(default=64, ge=1, le=4096, description="How many rows of the pool `facility` is to cover.")

    def select(self, pool: Features, budget: Budget, *, target: Features | None = None, context: Context = Context()) -> Selection:
        order, rows = by_id(pool)
        objective = self._objective(rows, budget)
        if objective is None:
            return Selection.of(budget.fill(order, pool), prefix_consistent=False)
        costs, capacity = budget.costs(rows)
        kept, gains = greedy_mask(objective.reward(max(typical_size(costs, capacity), 1)), costs, capacity)
        return Selection.of(order[kept], gains=gains, certificate=objective.certificate(kept, budget), prefix_consistent=False)

    def certify(self, pool: Features, budget: Budget, rows: Integers, *, target: Features | None = None, context: Context = Context()) -> Certificate | None:
        order, ordered = by_id(pool)
        objective = self._objective(ordered, budget)
        return objective.certificate(np.argsort(order)[rows], budget) if objective and len(rows) else None

    def _objective(self, rows: Features, budget: Budget) -> MaskObjective | None:
        return MaskObjective.of(rows, budget, oriented_scores(rows, self.largest), self.quality_weight, self.diversity, self.anchors)
