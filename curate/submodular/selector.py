"""What every submodular selector shares: the optimisers as a field, token budgets, exchanges, and a certificate that can be computed again."""

from abc import abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curate.certificate import gap_to_bound, random_control
from curate.core import Budget, Certificate, Features, Integers, Selection
from curate.errors import ConfigError
from curate.greedy import Greedy, Lazy, Naive, climb, guarded
from curate.interfaces import Context, Selector
from curate.order import by_id, counts_rows, places
from curate.randomness import row_keys
from curate.submodular.bound import recomputed
from curate.submodular.dynamic import Dynamic
from curate.submodular.greedi import merged, partitions, rows_of
from curate.submodular.objective import Objective
from curate.submodular.sieve import sieve
from curate.submodular.stochastic import Stochastic
from curate.submodular.swaps import improved
from curate.submodular.threshold import Threshold

Optimiser = Literal["lazy", "naive", "stochastic", "threshold", "greedi", "sieve", "dynamic"]


class SubmodularSelector(Selector):
    """Maximises an `Objective` within the budget."""

    optimiser: Optimiser = Field(
        default="lazy",
        description="lazy: greedy, exactly; naive: the same rows, slowly; stochastic: a sample a step; threshold: few passes; "
        "greedi: parts of the pool at a time, over the cluster; sieve: one pass; dynamic: the last selection, repaired where rows came or went.",
    )
    epsilon: float = Field(default=0.1, ge=0.001, le=0.9, description="What stochastic, threshold, sieve and dynamic may lose of their guarantee.")
    partitions: int = Field(default=8, ge=1, le=100_000, description="How many parts greedi works on; the number of workers never changes the rows.")
    swaps: int = Field(default=0, ge=0, le=100_000, description="At most how many exchanges of a kept row for another follow, each the best there is.")

    @property
    def seeded(self) -> bool:  # type: ignore[override]
        """Only these draw random numbers."""
        return self.optimiser in ("stochastic", "greedi", "sieve", "dynamic")

    @property
    def diminishing(self) -> bool:  # type: ignore[override]
        """Only picks of the best row gain less and less."""
        return self._prefixes

    @abstractmethod
    def objective(self, pool: Features, target: Features | None, share: float, *, device: str = "cpu", stored: bool = True) -> Objective:
        """The set function over these rows, in the order of their ids.

        Args:
            share: the part of the pool's cost that the budget allows.
            device: where similarities may be computed.
            stored: whether a matrix may be held; `certify` reads it block by block instead.
        """

    def lasting(self, pool: Features) -> bool:
        """Whether what a set is worth stays the same when other rows join the pool or leave it."""
        return False

    def select(self, pool: Features, budget: Budget, *, target: Features | None = None, context: Context = Context()) -> Selection:
        order, rows = by_id(pool)
        costs, capacity = budget.costs(rows)
        objective = self.objective(rows, target, _share(costs, capacity), device=context.device)
        state: Mapping[str, NDArray[Any]] = {}
        if self.optimiser == "dynamic":
            repaired = self._repaired(objective, rows, budget, context)
            greedy, state = climb(objective, costs, capacity, self._picker(objective), first=repaired.best()), repaired.arrays() | {"ids": rows.ids}
        else:
            greedy = self._greedy(objective, rows, target, costs, capacity, context)
        if self.swaps:
            better = improved(objective, costs, capacity, greedy.order, self.swaps)
            greedy = greedy if better is greedy.order else climb(objective, costs, capacity, first=better)
        if len(greedy.order) == 0:
            return Selection.of(greedy.order, state=state)
        others = {"random": objective.value_of(random_control(rows, budget)), **self._afresh(objective, costs, capacity)}
        certificate = self._certificate(objective, (greedy.value, greedy.bound), others)
        nested = counts_rows(budget) and self._prefixes
        return Selection.of(order[greedy.order], gains=greedy.gains, certificate=certificate, prefix_consistent=nested, state=state)

    def certify(self, pool: Features, budget: Budget, rows: Integers, *, target: Features | None = None, context: Context = Context()) -> Certificate | None:
        if len(rows) == 0:
            return None
        order, sorted_pool = by_id(pool)
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        costs, capacity = budget.costs(sorted_pool)
        objective = self.objective(sorted_pool, target, _share(costs, capacity), device=context.device, stored=False)
        found = recomputed(objective, place[rows], costs, capacity)
        others = {"random": objective.value_of(random_control(sorted_pool, budget)), **self._afresh(objective, costs, capacity)}
        return self._certificate(objective, found, others)

    @property
    def _prefixes(self) -> bool:
        """Whether a smaller budget in rows takes the first of the rows of a larger one."""
        return self.optimiser in ("lazy", "naive") and not self.swaps and self._nested

    @property
    def _nested(self) -> bool:
        """Whether the function is the same for every budget."""
        return True

    def _afresh(self, objective: Objective, costs: Integers, capacity: int) -> dict[str, float]:
        """What greedy from scratch is worth, beside a selection that was repaired."""
        return {"from_scratch": guarded(objective, costs, capacity, self._picker(objective)).value} if self.optimiser == "dynamic" else {}

    def _certificate(self, objective: Objective, found: tuple[float, float], others: Mapping[str, float]) -> Certificate:
        value, bound = found
        kind = "greedy_upper_bound" if objective.submodular else "whole_pool_bound"
        return Certificate(kind, "max", value, bound, gap_to_bound(value, bound, others["random"]), {**others, **objective.details})

    def _repaired(self, objective: Objective, pool: Features, budget: Budget, context: Context) -> Dynamic:
        """The rows that were there before are known; those that came are inserted, those that went are not there."""
        if not counts_rows(budget):
            raise ConfigError(f"optimiser: dynamic keeps its guarantee for budgets in rows, and this one is in {budget.unit}; use lazy or sieve")
        if not (self.lasting(pool) and objective.submodular and objective.monotone(int(budget.amount))):
            raise ConfigError(f"optimiser: dynamic needs a function that no other row of the pool changes, and this form of {self.name} is none; use lazy")
        dynamic = Dynamic(objective, budget.costs(pool)[1], self.epsilon, context.seed)
        if len(context.previous):
            dynamic.restore(context.previous, places(context.previous["ids"], pool.ids))
        dynamic.insert_all(np.flatnonzero(~dynamic.present))
        return dynamic

    def _greedy(self, objective: Objective, pool: Features, target: Features | None, costs: Integers, capacity: int, context: Context) -> Greedy:
        if self.optimiser == "greedi":
            parts = partitions(pool, self.partitions, context.seed)
            work = partial(_kept_of_part, self, target, costs, capacity, _share(costs, capacity))
            kept = list(context.cluster.map(work, [(rows, rows_of(pool, rows)) for rows in parts], label="parts"))
            return climb(objective, costs, capacity, self._picker(objective), first=merged(objective, costs, capacity, kept))
        if self.optimiser == "sieve":
            first = sieve(objective, costs, capacity, row_keys(context.seed, "sieve", pool.ids), self.epsilon)
            return climb(objective, costs, capacity, self._picker(objective), first=first)
        if self.optimiser == "stochastic":
            keys = row_keys(context.seed, "stochastic greedy", pool.ids)
            return guarded(objective, costs, capacity, partial(Stochastic, keys=keys, epsilon=self.epsilon))
        return guarded(objective, costs, capacity, partial(Threshold, epsilon=self.epsilon) if self.optimiser == "threshold" else self._picker(objective))

    def _picker(self, objective: Objective) -> type[Lazy] | type[Naive]:
        return Naive if self.optimiser == "naive" or not objective.submodular else Lazy


def _kept_of_part(
    selector: SubmodularSelector, target: Features | None, costs: Integers, capacity: int, share: float, part: tuple[Integers, Features]
) -> Integers:
    """The rows of the whole pool that greedy keeps of one part, seeing only its rows."""
    rows, features = part
    objective = selector.objective(features, target, share)
    return rows[guarded(objective, costs[rows], capacity, selector._picker(objective)).order]


def _share(costs: Integers, capacity: int) -> float:
    return min(1.0, capacity / max(int(costs.sum()), 1))
