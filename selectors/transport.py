"""Rows whose whitened features lie around the target's, found by optimal transport."""

from collections.abc import Callable
from functools import cache
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curate.certificate import gap_to_bound, random_control
from curate.core import Budget, Certificate, Features, Floats, Integers, Selection, Strings
from curate.errors import DataError
from curate.interfaces import Context, Selector
from curate.order import by_id, counts_rows
from curate.randomness import uniform
from curate.similarity import refuse_rows_without_direction
from curate.transport.exchange import exchange, worth_improving
from curate.transport.folds import grow_by_fold, union_of
from curate.transport.optimal_transport import Plan, transport
from curate.transport.semidiscrete import Capacity, choose_by_capacity
from curate.transport.target_layers import rows_in_layers
from curate.transport.whitening import WhitenedDistances

_REFITS = 4


class Transport(Selector):
    """TAROT (Feng et al., 2025), corrected: the K rows whose uniform mass is moved most cheaply to that of the target rows.

    Distances are sqrt(2 - 2 cos) after damped whitening, over all checkpoints at once where the features hold the gradients of several.
    Minimises the transport cost W(S) over subsets: candidates grow in layers around the target, and transport in which a row carries at
    most 1/K keeps those of least dual potential. Where M divides K that is the best subset; otherwise, up to `exact_limit`,
    it and the published layers are improved by exchanges while W is more than a thousandth above its bound, and the cheapest set
    seen is kept. `rule: layers` takes whole layers while they fit, and of the first that does not the rows of least potential.
    Equal target rows count once.

    Certificate: W(S), the dual bound that no K rows undercut (for tokens: no set of as many rows), and a gap that is 0 at the bound and 1 at
    a random selection; the details hold W's own dual gap and the residual of the solver's marginals. O(N D (D + M)) a pass,
    some five passes, and transports of K x M; memory O(N + M^2 + `hold_limit`), for a larger pool is streamed.

    With `size: cross_validated` layers grow around each fold of the target while transport to the other folds gets cheaper. The union
    of the folds' layers says how many rows to keep, within the budget, and is what `rule: layers` keeps; `curves` holds the costs.
    """

    version: ClassVar[int] = 2
    name: Literal["transport"] = Field(default="transport", description="The selector's name in a recipe.")
    needs: ClassVar[frozenset[str]] = frozenset({"vectors"})
    seeded: ClassVar[bool] = False
    rule: Literal["capacity", "layers"] = Field(
        default="capacity", description="Rows of least transport cost, or the published layers: the nearest of every target row, the second nearest, ..."
    )
    size: Literal["budget", "cross_validated"] = Field(
        default="budget", description="Spend the budget, or keep, within the budget, as many rows as cross-validation over the target rows finds best."
    )
    folds: int = Field(default=10, ge=2, le=1000, description="Parts of the target that cross-validation grows layers around.")
    patience: int = Field(default=2, ge=1, le=1000, description="Layers without a new least cost after which a fold stops growing.")
    damping: float = Field(default=1e-3, ge=0, le=1e6, description="Least share of the mean variance added to the covariance before whitening; 0 is exact.")
    weights: Literal["uniform", "potential"] = Field(default="uniform", description="Loss weights: all one, or 1/2 to 3/2 falling with the dual potential.")
    exact_limit: int = Field(default=50_000_000, ge=0, le=10**12, description="The most pairs of rows and target rows that transport is solved exactly for.")
    hold_limit: int = Field(default=200_000_000, ge=0, le=10**12, description="The most distances held in memory; a larger pool is streamed.")

    def select(self, pool: Features, budget: Budget, *, target: Features | None = None, context: Context = Context()) -> Selection:
        order, rows = by_id(pool)
        away, names = self._distances(rows, target)
        solve = self._solver(away)
        curves: dict[str, Floats] = {}
        union = None
        if self.size == "cross_validated":
            grown = grow_by_fold(away, _folds(names, self.folds), self.patience)
            union = union_of(grown)
            curves = {f"transport cost, fold {fold}": found.costs for fold, found in enumerate(grown)}
        if self.rule == "layers":
            ordered = rows_in_layers(away, *budget.costs(rows), self.exact_limit) if union is None else union
            chosen = budget.fill(ordered, rows)
        else:
            chosen, tried = self._of_least_cost(away, solve, rows, budget, len(rows) if union is None else len(union))
            curves["transport cost, exchanges"] = tried
        if len(chosen) == 0:
            return Selection.of(chosen, prefix_consistent=False, curves=curves)
        kept = np.sort(chosen)
        plan = transport(away.of(kept), self.exact_limit)
        potentials = plan.rows[np.searchsorted(kept, chosen)]
        if self.rule == "capacity":
            served = np.lexsort((chosen, potentials))
            chosen, potentials = chosen[served], potentials[served]
        weights = _falling(potentials) if self.weights == "potential" else None
        certificate = self._certificate(away, solve, rows, budget, plan)
        return Selection.of(order[chosen], weights=weights, certificate=certificate, prefix_consistent=False, curves=curves)

    def certify(self, pool: Features, budget: Budget, rows: Integers, *, target: Features | None = None, context: Context = Context()) -> Certificate | None:
        if len(rows) == 0:
            return None
        order, by_name = by_id(pool)
        away, _ = self._distances(by_name, target)
        plan = transport(away.of(np.sort(np.argsort(order)[rows])), self.exact_limit)
        return self._certificate(away, self._solver(away), by_name, budget, plan)

    def _distances(self, pool: Features, target: Features | None) -> tuple[WhitenedDistances, Strings]:
        """To the distinct target rows, and their ids, of copies the lowest."""
        if target is None or len(target) == 0 or target.vectors is None or pool.vectors is None:
            raise DataError("transport needs vectors of the pool and of a target; score both with the same scorer whose output is vectors")
        refuse_rows_without_direction(pool)
        refuse_rows_without_direction(target)
        goal = by_id(target)[1]
        vectors = np.concatenate([block for _, block in goal.blocks()]).astype(np.float64)
        first = np.sort(np.unique(vectors, axis=0, return_index=True)[1])
        return WhitenedDistances(pool, vectors[first], self.damping, self.hold_limit), goal.ids[first]

    def _solver(self, away: WhitenedDistances) -> Callable[[int], Capacity]:
        return cache(lambda kept: choose_by_capacity(away, kept, exact_limit=self.exact_limit, hold=self.hold_limit))

    def _of_least_cost(self, away: WhitenedDistances, solve: Callable[[int], Capacity], pool: Features, budget: Budget, most: int) -> tuple[Integers, Floats]:
        """At most `most` rows within the budget, and the least cost after each trial of an exchange."""
        if counts_rows(budget):
            kept = min(budget.costs(pool)[1], most)
            return self._exchanged(away, solve(kept), kept) if kept else (np.zeros(0, np.int64), np.zeros(0))
        costs, capacity = budget.costs(pool)
        kept = int(np.clip(capacity / max(float(costs.mean()), 1e-9), 1, most))
        for _ in range(_REFITS):
            chosen = budget.fill(solve(kept).order, pool)[:most]
            if len(chosen) in (0, kept):
                break
            kept = len(chosen)
        return chosen, np.zeros(0)

    def _exchanged(self, away: WhitenedDistances, found: Capacity, kept: int) -> tuple[Integers, Floats]:
        """The better of the rows that capacity transport keeps and of the layers, improved by exchanges."""
        n, m = away.shape
        if kept * m > self.exact_limit or kept == n:
            return found.order[:kept], np.zeros(0)
        starts = [found.order[:kept]]
        if worth_improving(transport(away.of(starts[0]), self.exact_limit).cost, found.bound):
            starts.append(rows_in_layers(away, np.ones(n, np.int64), kept, self.exact_limit)[:kept])
        rows = np.unique(np.concatenate([found.order[: 2 * kept + m], *starts]))
        costs = away.of(rows)
        better = min((exchange(costs, np.searchsorted(rows, start), found.bound, self.exact_limit) for start in starts), key=lambda tried: tried.plan.cost)
        return rows[better.rows], better.costs

    def _certificate(self, away: WhitenedDistances, solve: Callable[[int], Capacity], pool: Features, budget: Budget, plan: Plan) -> Certificate:
        kept = len(plan.rows)
        control = random_control(pool, budget if self.size == "budget" else Budget(amount=kept))
        random = transport(away.of(np.sort(control)), self.exact_limit)
        bound = min(solve(kept).bound, plan.cost)
        details = {
            "random": random.cost,
            "exact": float(plan.exact and random.exact),
            "dual_gap": plan.cost - plan.lower,
            "marginal_residual": plan.residual,
        }
        return Certificate("transport", "min", plan.cost, bound, gap_to_bound(plan.cost, bound, random.cost), details)


def _folds(names: Strings, folds: int) -> Integers:
    """(M,) the fold of each target row, drawn by its id; folds differ by one row at most."""
    return np.asarray(np.argsort(np.argsort(uniform(0, "transport fold", names), kind="stable")) % folds)


def _falling(potentials: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights of mean one, in [1/2, 3/2], that fall linearly with the potential."""
    centred = potentials - potentials.mean()
    largest = float(np.abs(centred).max())
    return 1 - 0.5 * centred / largest if largest > 0 else np.ones(len(centred))
