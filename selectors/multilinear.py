"""The rows that the target's nearest neighbours are better for having."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curate.certificate import gap_to_bound, random_control
from curate.core import Budget, Certificate, Features, Floats, Integers, Selection, Strings
from curate.errors import DataError
from curate.interfaces import Context, Selector
from curate.multilinear import Extension, mean_over_lists, multilinear
from curate.order import by_id, oriented_scores
from curate.similarity import Metric, Rankings, similarity

_SHORT = 1e-12  # the chance of reading a list to its end below which the rest of it is left unread
_LEAST = 0.01


@dataclass(frozen=True)
class _Lists:
    """What each target row ranks the pool by (M, N), and what each pool row is worth to it: (N,) alike to all, or (M, N)."""

    alike: Floats
    utilities: Floats

    def worth(self, ranked: Integers) -> NDArray[np.float64]:
        """(M, L) the utility of the rows at these places of the lists."""
        found = self.utilities[ranked] if self.utilities.ndim == 1 else np.take_along_axis(self.utilities, ranked, 1)
        return np.asarray(found, np.float64)

    def of(self, target: int) -> NDArray[np.float64]:
        """(N,) the utility of every pool row to one target row."""
        return np.asarray(self.utilities if self.utilities.ndim == 1 else self.utilities[target], np.float64)


class Multilinear(Selector):
    """Data importance by the multilinear extension (Lyu et al., 2023): the chance w_i, in [0, 1], with which row i is best kept.

        maximise U(w) = mean over target rows of E[(1 / K) sum of u over its K most similar rows that are kept],

    each row being kept independently. Projected gradient ascent from w = 1/2, halving the rate when U falls; the gradient is exact, and
    a list is read until K rows are kept with probability 1 - 1e-12. Rows come by w, then by dU/dw, then by their
    similarity to the nearest target row. Rows of w < 1/2, which the method would prune, are taken only when nothing else fits.
    Utilities lie in [0, 1]: scores or similarities scaled to it, or whether the groups agree. The certificate holds
    (1 / K) sum of u over the K nearest kept rows against the K largest u of all. U is not concave, so the ascent proves
    nothing itself. O(N M D + M N log N + steps M L K) for lists read to L places, and 4 N M bytes.
    """

    name: Literal["multilinear"] = Field(default="multilinear", description="The selector's name in a recipe.")
    needs: ClassVar[frozenset[str]] = frozenset({"similarity"})
    seeded: ClassVar[bool] = False
    neighbours: int = Field(default=10, ge=1, le=10_000, description="K, how many of the most similar kept rows count for a target row.")
    utility: Literal["auto", "score", "group", "similarity"] = Field(
        default="auto",
        description="What a row is worth: its score, 1 if its group is the target row's, else 0, or its similarity; auto: the score, or else the last.",
    )
    largest: bool = Field(default=True, description="Whether large scores are good; false for a score, like a loss, whose small values are.")
    share: Literal["row", "group"] = Field(default="row", description="A weight for each row, or one that the rows of a group share by averaging.")
    weights: Literal["uniform", "importance"] = Field(default="uniform", description="Loss weights: all one, or w, a hundredth at least.")
    steps: int = Field(default=50, ge=0, le=100_000, description="Steps of the ascent.")
    rate: float = Field(default=0.1, gt=0, le=1, description="How far the weight of steepest gradient moves in the first step; the others in proportion.")
    metric: Metric = Field(default="auto", description="Similarity of vectors: cosine, inner product, or auto: as their scorer means it.")

    def select(self, pool: Features, budget: Budget, *, target: Features | None = None, context: Context = Context()) -> Selection:
        order, rows = by_id(pool)
        lists = self._lists(rows, target)
        weights, gradient, curve = self._ascend(lists, rows.groups)
        best = np.lexsort((-lists.alike.max(axis=0, initial=-np.inf), -gradient, -weights))
        kept = budget.fill(best, rows)
        return Selection.of(
            order[kept],
            weights=np.maximum(weights[kept], _LEAST) if self.weights == "importance" else None,
            gains=gradient[kept],
            certificate=self._certificate(lists, rows, budget, kept),
            prefix_consistent=budget.unit in ("rows", "fraction"),
            curves={"utility": curve},
        )

    def certify(self, pool: Features, budget: Budget, rows: Integers, *, target: Features | None = None, context: Context = Context()) -> Certificate | None:
        order, held = by_id(pool)
        return self._certificate(self._lists(held, target), held, budget, np.flatnonzero(np.isin(order, rows)))

    def _lists(self, pool: Features, target: Features | None) -> _Lists:
        alike = similarity(pool, target, metric=self.metric)
        kind = self.utility
        if kind == "auto":
            kind = "similarity" if pool.scores is None else "score"
        if kind == "score":
            return _Lists(alike, _unit(oriented_scores(pool, self.largest)))
        if kind == "similarity":
            return _Lists(alike, _unit(alike))
        return _Lists(alike, _agreement(pool.groups, target))

    def _ascend(self, lists: _Lists, groups: Strings) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """(N,) the weights, dU/dw there, and the largest U so far at every step."""
        n = lists.alike.shape[1]
        members = np.unique(groups, return_inverse=True)[1] if self.share == "group" and len(groups) else np.arange(n)
        sizes = np.bincount(members)
        rankings, depth, rate = Rankings(lists.alike, min(n, 4 * self.neighbours)), 4 * self.neighbours, self.rate
        weights, tried = np.full(n, 0.5), np.full(n, 0.5)
        gradient, scale = np.zeros(n), 0.0
        curve: list[float] = []
        for _ in range(self.steps + 1):
            found, ranked = self._read(lists, rankings, tried, depth)
            depth, value = ranked.shape[1], float(found.value.mean())
            if curve and value < curve[-1]:
                rate /= 2
            else:
                weights, gradient = tried, mean_over_lists(ranked, found.gradient, n)
            curve.append(max([value, *curve[-1:]]))
            shared = (np.bincount(members, gradient) / sizes)[members]
            scale = scale or float(np.abs(shared).max(initial=0.0))
            if scale == 0:
                break
            tried = np.clip(weights + rate * shared / scale, 0.0, 1.0)
        return weights, gradient, np.asarray(curve)

    def _read(self, lists: _Lists, rankings: Rankings, weights: Floats, depth: int) -> tuple[Extension, Integers]:
        """The extension of the lists, and their rows (M, L), read far enough that no row beyond can count."""
        n = lists.alike.shape[1]
        while True:
            ranked = rankings.upto(depth)[:, :depth]
            found = multilinear(weights[ranked], lists.worth(ranked), self.neighbours)
            if depth >= n or float(found.short.max(initial=0.0)) <= _SHORT:
                return found, ranked
            depth *= 2

    def _certificate(self, lists: _Lists, pool: Features, budget: Budget, kept: Integers) -> Certificate | None:
        if len(kept) == 0:
            return None
        costs, capacity = budget.costs(pool)
        counted = min(self.neighbours, int(np.searchsorted(np.cumsum(np.sort(costs)), capacity, side="right")))
        first = lists.alike.shape[1] - counted
        bound = float(np.mean([np.partition(lists.of(row), first)[first:].sum() for row in range(len(lists.alike))])) / self.neighbours
        objective, random = (self._utility(lists, rows) for rows in (kept, random_control(pool, budget)))
        return Certificate("neighbour_utility", "max", objective, bound, gap_to_bound(objective, bound, random), {"random": random})

    def _utility(self, lists: _Lists, rows: Integers) -> float:
        """Mean over target rows of (1 / K) sum of u over the K most similar of these rows, ties to the lower one."""
        held = np.sort(rows)
        each = [lists.of(row)[held[np.argsort(-alike[held], kind="stable")[: self.neighbours]]].sum() for row, alike in enumerate(lists.alike)]
        return float(np.mean(each)) / self.neighbours


def _unit(values: Floats) -> Floats:
    """The values scaled to [0, 1] by their own range; ones if they are all equal."""
    largest = float(np.abs(values).max(initial=0.0))
    scaled = values / largest if largest > 0 else values
    low, high = float(scaled.min(initial=np.inf)), float(scaled.max(initial=-np.inf))
    unit: Floats = (scaled - low) / (high - low) if high > low else np.ones_like(scaled)
    return unit


def _agreement(groups: Strings, target: Features | None) -> NDArray[np.float32]:
    """(M, N) 1 where the pool row's group is the target row's, else 0."""
    if target is None or len(target.groups) == 0 or len(groups) == 0:
        raise DataError("multilinear: utility: group needs groups of the pool and of a target; give both, or take utility: score or similarity")
    wanted = by_id(target)[1].groups
    if not np.isin(wanted, groups).any():
        raise DataError(f"multilinear: no group of the target, such as {str(wanted[0])!r}, is a group of the pool; name them alike, or take another utility")
    return np.asarray(wanted[:, None] == groups[None, :], np.float32)
