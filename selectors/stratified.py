"""Every group its quota: sources, labels or sub-tasks in proportion, in equal parts, or in shares of your own."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from curate.core import Budget, Certificate, Features, Floats, Integers, Selection
from curate.errors import DataError
from curate.interfaces import Context, Selector
from curate.order import by_id, counts_rows, oriented_scores
from curate.quotas import spending, water_level
from curate.randomness import uniform

Share = Annotated[float, Field(ge=0, le=1e9)]


class Stratified(Selector):
    """Groups share the budget by quota, and within a group the best rows, or random ones, are taken.

    Quotas are `proportional` to what the groups hold in the unit of the budget, `equal`, or a mapping from group to share, of any
    sum. Rows of the groups go in order of (spent - cost / 2) / share: Sainte-Lague's method, which gives the whole numbers
    of least sum_g (a_g - K w_g)^2 / w_g. A group that runs out leaves its share to the others, in proportion to theirs; groups without
    a share follow when all others have run out. With `proportional` and `within: random` this is the control
    "random within each source". The certificate's objective is the least a_g / w_g of a group that still has rows, and its
    bound the water level, the largest that any selection can give them, so its gap is the rounding of whole rows. O(N log N).
    """

    name: Literal["stratified"] = Field(default="stratified", description="The selector's name in a recipe.")
    heeds_target: ClassVar[bool] = False
    quotas: Literal["proportional", "equal"] | Annotated[Mapping[str, Share], Field(min_length=1)] = Field(
        default="proportional", description="The groups' shares of the budget: as the pool has them, equal, or by name, such as {code: 2, web: 1}."
    )
    within: Literal["score", "random"] = Field(default="score", description="Within a group: best score first, random where there are no scores; or random.")
    largest: bool = Field(default=True, description="The largest scores are best; false takes the smallest.")

    @model_validator(mode="after")
    def _some_share(self) -> Self:
        if isinstance(self.quotas, Mapping) and not sum(self.quotas.values()) > 0:
            raise ValueError("quotas give no group a share above 0; give at least one group a share")
        return self

    def select(self, pool: Features, budget: Budget, *, target: Features | None = None, context: Context = Context()) -> Selection:
        order, rows = by_id(pool)
        costs, capacity = budget.costs(rows)
        group, share = self._groups(rows, costs)
        spent = spending(group, costs, self._priority(rows, context)) - costs / 2
        held = np.maximum(np.bincount(group, weights=costs), 1)
        with np.errstate(divide="ignore"):
            turn = np.where(share[group] > 0, spent / share[group], np.inf)
        kept = budget.fill(np.lexsort((group, spent / held[group], turn)), rows)
        certificate = _certificate(group, share, costs, kept, capacity) if len(kept) else None
        return Selection.of(order[kept], certificate=certificate, prefix_consistent=counts_rows(budget))

    def certify(self, pool: Features, budget: Budget, rows: Integers, *, target: Features | None = None, context: Context = Context()) -> Certificate | None:
        costs, capacity = budget.costs(pool)
        return _certificate(*self._groups(pool, costs), costs, rows, capacity) if len(rows) else None

    def _groups(self, rows: Features, costs: Integers) -> tuple[Integers, NDArray[np.float64]]:
        """(N,) the number of each row's group in the order of their names, and (G,) their shares, which sum to one."""
        names, group = np.unique(rows.groups if len(rows.groups) else np.full(len(rows), "all"), return_inverse=True)
        if self.quotas == "proportional":
            share = np.bincount(group, weights=costs).astype(np.float64)
        elif self.quotas == "equal":
            share = np.ones(len(names))
        else:
            absent = sorted(set(self.quotas) - set(names.tolist()))
            if absent:
                raise DataError(f"stratified: quotas name the group {absent[0]!r}, which the pool lacks; its groups are {', '.join(names[:20].tolist())}")
            share = np.asarray([self.quotas.get(name, 0.0) for name in names.tolist()])
        return group.astype(np.int64), share / max(float(share.sum()), 1e-300)

    def _priority(self, rows: Features, context: Context) -> Floats:
        if self.within == "score" and rows.scores is not None:
            return -oriented_scores(rows, self.largest)
        return uniform(context.seed, "stratified", rows.ids)


def _certificate(group: Integers, share: NDArray[np.float64], costs: Integers, kept: Integers, capacity: int) -> Certificate:
    total, rows = np.bincount(group, weights=costs), np.bincount(group)
    spent, taken = np.bincount(group[kept], weights=costs[kept], minlength=len(rows)), np.bincount(group[kept], minlength=len(rows))
    owed = share > 0
    hungry = owed & (taken < rows)
    bound = water_level(total[owed], capacity, weights=share[owed])
    objective = float((spent[hungry] / share[hungry]).min()) if hungry.any() else bound
    details = {"groups": float(len(rows)), "exhausted_groups": float((taken == rows).sum())}
    return Certificate("quotas", "max", objective, bound, (bound - objective) / bound if bound else 0.0, details)
