"""An even share of every level of difficulty, without the hardest end."""

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curate.core import Budget, Certificate, Features, Floats, Integers, Selection
from curate.interfaces import Context, Selector
from curate.order import best_first, by_id, counts_rows, oriented_scores
from curate.randomness import uniform


class Coverage(Selector):
    """Coverage-centric coreset selection, CCS (Zheng et al., 2023): strata of the score share the budget evenly.

    The hardest `hardest_cut` of the rows, most likely mislabelled, are set aside; the range of the rest is cut into
    `strata` bins and the bins are filled together, row by row and at random within a bin, until the budget is spent. An
    exhausted bin leaves its share to the others (water-filling), and the rows set aside follow, least hard first,
    only when every bin is exhausted. The certificate's objective is the smallest share of a bin that still has
    rows; its bound is the water level, the largest that any selection can give them. O(N log N).
    """

    name: Literal["coverage"] = Field(default="coverage", description="The selector's name in a recipe.")
    needs: ClassVar[frozenset[str]] = frozenset({"scores"})
    strata: int = Field(default=50, ge=1, description="How many bins the range of the score is cut into.")
    hardest_cut: float = Field(default=0.1, ge=0, lt=1, description="The fraction of rows, rounded down, set aside at the hard end.")
    hard: Literal["high", "low"] = Field(default="high", description="Which end of the score is hard: high for a loss, low for a margin.")
    bins: Literal["width", "quantile"] = Field(default="width", description="Bins of equal width in score, or of equal numbers of rows.")

    def select(self, pool: Features, budget: Budget, *, target: Features | None = None, context: Context = Context()) -> Selection:
        order, rows = by_id(pool)
        hardest = best_first(oriented_scores(rows, largest=self.hard == "high"))
        aside, rest = np.split(hardest, [min(int(self.hardest_cut * len(rows) + 1e-9), max(len(rows) - 1, 0))])
        stratum = self._strata(oriented_scores(rows, largest=True)[rest])
        costs, capacity = budget.costs(rows)
        level = self._levels(stratum, costs[rest], uniform(context.seed, "coverage", rows.ids)[rest])
        sizes = np.bincount(stratum, minlength=self.strata)
        turns = rest[np.lexsort((rest, stratum, -sizes[stratum], level))]
        kept = budget.fill(np.concatenate([turns, aside[::-1]]), rows)
        certificate = _certificate(stratum, costs[rest], np.isin(rest, kept), capacity) if len(kept) else None
        return Selection.of(order[kept], certificate=certificate, prefix_consistent=counts_rows(budget))

    def _strata(self, scores: Floats) -> Integers:
        """(R,) the bin of each row; equal scores share a bin unless bins are quantiles."""
        if self.bins == "quantile":
            rank = np.empty(len(scores), np.int64)
            rank[np.argsort(scores, kind="stable")] = np.arange(len(scores))
            return np.asarray(rank * self.strata // max(len(scores), 1))
        low, width = scores.min(initial=np.inf), np.ptp(scores) if len(scores) else 0.0
        if width == 0:
            return np.zeros(len(scores), np.int64)
        return np.asarray(np.minimum(((scores - low) / width * self.strata).astype(np.int64), self.strata - 1))

    def _levels(self, stratum: Integers, costs: Integers, random: Floats) -> Integers:
        """(R,) what a row's bin has spent once the row is taken, its bin's rows being taken in random order."""
        order = np.lexsort((random, stratum))
        spent = np.cumsum(costs[order])
        first = np.searchsorted(stratum[order], np.arange(self.strata))
        before = np.concatenate([[0], spent])[first]
        level = np.empty(len(order), np.int64)
        level[order] = spent - before[stratum[order]]
        return level


def _certificate(stratum: Integers, costs: Integers, kept: NDArray[np.bool_], capacity: int) -> Certificate:
    total = np.bincount(stratum, weights=costs)
    share = np.bincount(stratum, weights=costs * kept, minlength=len(total))
    rows, taken = np.bincount(stratum), np.bincount(stratum, weights=kept, minlength=len(total))
    hungry = taken < rows
    bound = _water_level(total[rows > 0], capacity, whole=bool((costs == 1).all()))
    objective = float(share[hungry].min()) if hungry.any() else bound
    gap = (bound - objective) / bound if bound else 0.0
    return Certificate("coverage", "max", objective, bound, gap, {"exhausted_strata": float((rows > 0).sum() - hungry.sum())})


def _water_level(total: NDArray[Any], capacity: int, *, whole: bool) -> float:
    """The largest level L with sum_b min(total_b, L) <= capacity, a whole number where costs are ones."""
    ordered = np.sort(total)
    held = np.concatenate([[0.0], np.cumsum(ordered)[:-1]])
    levels = (capacity - held) / np.arange(len(ordered), 0, -1)
    short = np.flatnonzero(levels < ordered)
    level = float(levels[short[0]]) if len(short) else float(ordered[-1])
    return float(np.floor(level)) if whole else level
