"""Good rows that differ from one another, taken one by one: the greedy answer to the objective of learnt masks."""

from typing import ClassVar, Literal

from pydantic import Field

from curate.core import Budget, Features, Selection
from curate.interfaces import Context
from curate.masks.objective import typical_size
from curate.masks.search import greedy_mask
from curate.masks.selector import MaskSelector
from curate.order import by_id


class MaskGreedy(MaskSelector):
    """The row that adds most to J(S) = w Q(S) / sigma_Q + (1 - w) D(S) / sigma_D, again and again.

    Q is the mean score, D one of three closed forms (curate/masks/diversity.py), the sigmas their deviations over random masks: the
    objective of `policy_mask`, and the same certificate. Means are taken as for masks of the final size K, so another budget is another
    order; for tokens, K is what the budget holds of average rows. For `pairwise` and `covariance` J is not submodular and
    greedy has no guarantee; for `facility` it is, with a constant factor where scores are not negative (Nemhauser et al., 1978). The
    certificate's bound is usually close. A gain is what a row added to J. O(K N D) time, O(N D) memory.
    """

    name: Literal["mask_greedy"] = Field(default="mask_greedy", description="The selector's name in a recipe.")
    seeded: ClassVar[bool] = False
    heeds_target: ClassVar[bool] = False

    def select(self, pool: Features, budget: Budget, *, target: Features | None = None, context: Context = Context()) -> Selection:
        order, rows = by_id(pool)
        objective = self.objective(rows, budget)
        if objective is None:
            return Selection.of(budget.fill(order, pool), prefix_consistent=False)
        costs, capacity = budget.costs(rows)
        kept, gains = greedy_mask(objective.reward(max(typical_size(costs, capacity), 1)), costs, capacity)
        return Selection.of(order[kept], gains=gains, certificate=objective.certificate(kept, budget), prefix_consistent=False)
