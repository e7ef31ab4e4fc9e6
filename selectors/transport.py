"""Rows whose whitened features lie around the target's, found by optimal transport."""

from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curate.certificate import gap_to_bound, random_control
from curate.core import Budget, Certificate, Features, Floats, Integers, Selection
from curate.errors import DataError
from curate.interfaces import Context, Selector
from curate.optimal_transport import transport
from curate.order import by_id
from curate.similarity import Rankings, refuse_rows_without_direction
from curate.whitening import whitened_distances


class Transport(Selector):
    """TAROT (Feng et al., 2025), corrected: few kept rows that carry the target's mass cheaply in whitened distance.

    Layer r holds the r-th nearest pool row of every distinct target row; layers are taken whole while they fit. The
    first that does not loses the rows of largest dual potential in the transport of everything so far to the target, half
    of its excess at a time, since a row of large potential raises the cost. Distances are sqrt(2 - 2 cos) after damped
    whitening. The certificate compares the transport cost W of the kept rows with mean_j min_i d_ij, below which no
    subset can go; its gap is 0 at that bound and 1 at a random selection. Equal target rows count once.
    O(N D^2 + D^3 + N M D), and about log K transports of K x M.
    """

    name: Literal["transport"] = Field(default="transport", description="The selector's name in a recipe.")
    needs: ClassVar[frozenset[str]] = frozenset({"vectors"})
    seeded: ClassVar[bool] = False
    damping: float = Field(default=1e-3, ge=0, description="Least share of the mean variance added to the covariance before whitening; 0 whitens exactly.")
    weights: Literal["uniform", "potential"] = Field(default="uniform", description="Loss weights: all one, or 1/2 to 3/2 falling with the dual potential.")
    exact_limit: int = Field(default=50_000_000, ge=0, description="The most kept x target pairs that transport is solved exactly for.")

    def select(self, pool: Features, budget: Budget, *, target: Features | None = None, context: Context = Context()) -> Selection:
        order, rows = by_id(pool)
        away = self._distances(rows, target)
        chosen = self._choose(away, rows, budget)
        if len(chosen) == 0:
            return Selection.of(chosen, prefix_consistent=False)
        plan = transport(away[:, chosen].T, self.exact_limit)
        control = transport(away[:, random_control(rows, budget)].T, self.exact_limit)
        bound = float(away.min(axis=1).mean(dtype=np.float64))
        details = {"random": control.cost, "exact": float(plan.exact and control.exact)}
        certificate = Certificate("transport", "min", plan.cost, bound, gap_to_bound(plan.cost, bound, control.cost), details)
        weights = _falling(plan.potentials) if self.weights == "potential" else None
        return Selection.of(order[chosen], weights=weights, certificate=certificate, prefix_consistent=False)

    def _distances(self, pool: Features, target: Features | None) -> NDArray[np.float32]:
        """(M, N), one row per distinct target row."""
        if target is None or len(target) == 0 or target.vectors is None or pool.vectors is None:
            raise DataError("transport needs vectors of the pool and of a target; score both with the same scorer whose output is vectors")
        refuse_rows_without_direction(pool)
        refuse_rows_without_direction(target)
        distinct = np.unique(np.asarray(target.vectors, np.float64), axis=0)
        return whitened_distances(pool, distinct, self.damping)

    def _choose(self, away: Floats, pool: Features, budget: Budget) -> Integers:
        costs, left = budget.costs(pool)
        kept: list[int] = []
        free = np.ones(len(pool), np.bool_)
        whole = True
        for layer in _layers(away, depth=min(left, len(pool)) // len(away) + 2):
            if left < costs[free].min(initial=left + 1):
                break
            free[layer] = False
            if whole and costs[layer].sum() > left:
                whole = False
                layer = self._by_service(away, kept, layer, costs, left)
            for row in layer.tolist():
                if costs[row] <= left:
                    kept.append(row)
                    left -= int(costs[row])
        return np.asarray(kept, np.int64)

    def _by_service(self, away: Floats, kept: list[int], layer: Integers, costs: Integers, left: int) -> Integers:
        """The layer's rows, those first that serve the target best: rows of large potential leave, half of the excess at a time."""
        gone: list[int] = []
        while len(layer) > 1 and (excess := int(costs[layer].sum()) - left) > 0:
            together = np.concatenate([np.asarray(kept, np.int64), layer])
            potentials = transport(away[:, together].T, self.exact_limit).potentials[len(kept) :]
            layer = layer[np.argsort(potentials, kind="stable")]
            spared = np.cumsum(costs[layer][::-1])
            leaving = max(1, int(np.searchsorted(spared, excess // 2, side="right")))
            gone.extend(layer[len(layer) - leaving :][::-1].tolist())
            layer = layer[: len(layer) - leaving]
        return np.concatenate([layer, np.asarray(gone[::-1], np.int64)])


def _layers(away: Floats, depth: int) -> Iterator[Integers]:
    """For r = 0, 1, ...: the pool rows that are some target row's r-th nearest and were in no earlier layer, nearest first."""
    rankings = Rankings(-away, depth)
    seen = np.zeros(away.shape[1], np.bool_)
    for rank in range(away.shape[1]):
        rows = rankings.upto(rank + 1)[:, rank]
        nearest = np.argsort(away[np.arange(len(rows)), rows], kind="stable")
        layer = np.asarray([row for row in dict.fromkeys(rows[nearest].tolist()) if not seen[row]], np.int64)
        seen[layer] = True
        yield layer


def _falling(potentials: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights of mean one, in [1/2, 3/2], that fall linearly with the potential."""
    centred = potentials - potentials.mean()
    largest = float(np.abs(centred).max())
    return 1 - 0.5 * centred / largest if largest > 0 else np.ones(len(centred))
