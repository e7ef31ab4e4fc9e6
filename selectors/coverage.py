"""An even share of every level of difficulty, without the hardest end."""

import zlib
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curate.core import Budget, Certificate, Features, Floats, Integers, Selection
from curate.hard_tail import share_beyond_knee, share_beyond_target
from curate.interfaces import Context, Selector
from curate.order import best_first, by_id, counts_rows, oriented_scores
from curate.quotas import spending, water_level

_BLOCK = 1 << 20


class Coverage(Selector):
    """Coverage-centric coreset selection, CCS (Zheng et al., 2023): strata of the score share the budget evenly.

    The hardest `hardest_cut` of the rows, most likely mislabelled, are set aside; the range of the rest is cut into
    `strata` bins and the bins are filled together, row by row and at random within a bin, until the budget is spent. An
    exhausted bin leaves its share to the others (water-filling), and the rows set aside follow, least hard first,
    only when every bin is exhausted. With `balanced` every group does so by itself, its share of the budget being its share
    of the pool. The certificate's objective is the smallest share of a bin that still has rows; its bound is the water
    level, the largest that any selection can give them; the groups' are added up. O(N log N) time, and little more than a few
    passes over the scores for budgets in rows: only rows that can be taken are sorted. Some 60 bytes a row, 150 with groups.

    `hardest_cut: auto` is a lower bound, true for 19 draws of 20, on the share of rows that are not like the target's, where
    the target carries scores; without them it is the share beyond the knee of the sorted scores, a rule of thumb.
    """

    name: Literal["coverage"] = Field(default="coverage", description="The selector's name in a recipe.")
    needs: ClassVar[frozenset[str]] = frozenset({"scores"})
    version: ClassVar[int] = 2
    strata: int = Field(default=50, ge=1, le=10_000, description="How many bins the range of the score is cut into.")
    hardest_cut: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = Field(
        default=0.1, description="The fraction of rows, rounded down, set aside at the hard end; auto reads it off the scores."
    )
    hard: Literal["high", "low"] = Field(default="high", description="Which end of the score is hard: high for a loss, low for a margin.")
    bins: Literal["width", "quantile"] = Field(default="width", description="Bins of equal width in score, or of equal numbers of rows.")
    balanced: bool = Field(default=False, description="Give every group a cut, bins and, by its number of rows or tokens, a share of the budget of its own.")

    def select(self, pool: Features, budget: Budget, *, target: Features | None = None, context: Context = Context()) -> Selection:
        order, rows = by_id(pool)
        hard = self._hardness(rows)
        cut = self._cut(hard, target)
        stratum, group = self._strata(rows, hard, cut)
        costs, capacity = budget.costs(rows)
        random = np.random.Generator(np.random.Philox(np.random.SeedSequence((context.seed, zlib.crc32(b"coverage"))))).random(len(rows))
        if group is None:
            turns = self._turns(hard, stratum, costs, random, capacity if counts_rows(budget) else None)
        else:
            turns = self._turns_of_groups(group, hard, stratum, costs, random)
        kept = budget.fill(turns, rows)
        cells = _Cells(stratum, group, costs, self.strata)
        certificate = cells.certificate(kept, capacity, cut) if len(kept) else None
        return Selection.of(order[kept], certificate=certificate, prefix_consistent=counts_rows(budget), curves=cells.curves(kept))

    def certify(self, pool: Features, budget: Budget, rows: Integers, *, target: Features | None = None, context: Context = Context()) -> Certificate | None:
        if not len(rows):
            return None
        order, ordered = by_id(pool)
        hard = self._hardness(ordered)
        cut = self._cut(hard, target)
        costs, capacity = budget.costs(ordered)
        kept = np.flatnonzero(np.isin(order, rows))
        return _Cells(*self._strata(ordered, hard, cut), costs, self.strata).certificate(kept, capacity, cut)

    def _hardness(self, features: Features) -> NDArray[np.float64]:
        return np.asarray(oriented_scores(features, largest=self.hard == "high"), np.float64)

    def _cut(self, hard: Floats, target: Features | None) -> float:
        if self.hardest_cut != "auto":
            return self.hardest_cut
        if target is not None and target.scores is not None:
            return share_beyond_target(hard, self._hardness(target))
        return share_beyond_knee(hard)

    def _strata(self, rows: Features, hard: Floats, cut: float) -> tuple[NDArray[np.int32], Integers | None]:
        """(N,) the bin of each row among its group's, `strata` for a row set aside; and (N,) the number of its group if groups are balanced."""
        if not self.balanced:
            return self._bins(hard, cut), None
        group = np.unique(rows.groups, return_inverse=True)[1].astype(np.int64)
        stratum = np.empty(len(rows), np.int32)
        for members in _members(group):
            stratum[members] = self._bins(hard[members], cut)
        return stratum, group

    def _bins(self, hard: Floats, cut: float) -> NDArray[np.int32]:
        """Equal scores share a bin unless bins are quantiles."""
        n = len(hard)
        aside = best_first(hard, min(int(cut * n + 1e-9), max(n - 1, 0)))
        usable = np.ones(n, bool)
        usable[aside] = False
        stratum = np.full(n, self.strata, np.int32)
        if self.bins == "quantile":
            ranked = np.flatnonzero(usable)
            ranked = ranked[np.argsort(hard[ranked], kind="stable")]
            stratum[ranked] = np.arange(len(ranked)) * self.strata // max(len(ranked), 1)
            return stratum
        low, high = hard.min(where=usable, initial=np.inf) / 2, hard.max(where=usable, initial=-np.inf) / 2
        for start in range(0, n, _BLOCK):
            part = hard[start : start + _BLOCK] / 2 - low  # halves: the range of two huge scores must not overflow
            with np.errstate(over="ignore"):  # of a row set aside, far beyond all others
                part = part / (high - low) * self.strata if high > low else np.zeros(len(part))
            stratum[start : start + _BLOCK] = np.minimum(part, self.strata - 1)
        stratum[aside] = self.strata
        return stratum

    def _turns(self, hard: Floats, stratum: NDArray[np.int32], costs: Integers, random: Floats, limit: int | None) -> Integers:
        """The rows in the order they are taken, at least the first `limit` of them: by what their bin has spent, larger bins first."""
        sizes = np.bincount(stratum, minlength=self.strata + 1)[: self.strata]
        drawn = _drawn(stratum, sizes, random, limit)
        level = spending(stratum[drawn], costs[drawn], random[drawn])
        place = np.empty(self.strata, np.int64)
        place[np.argsort(-sizes, kind="stable")] = np.arange(self.strata)
        turns = drawn[np.lexsort((place[stratum[drawn]], level))]
        if limit is not None and limit <= len(turns):
            return turns
        aside = np.flatnonzero(stratum == self.strata)
        return np.concatenate([turns, aside[best_first(-hard[aside])]])

    def _turns_of_groups(self, group: Integers, hard: Floats, stratum: NDArray[np.int32], costs: Integers, random: Floats) -> Integers:
        """Groups interleaved so that each has spent its share of what all have, as nearly as whole rows allow (Sainte-Lague)."""
        every, keys = [np.zeros(0, np.int64)], [np.zeros(0)]
        for members in _members(group):
            turns = members[self._turns(hard[members], stratum[members], costs[members], random[members], None)]
            spent = np.cumsum(costs[turns])
            every.append(turns)
            keys.append((spent - costs[turns] / 2) / max(int(spent[-1]), 1))
        return np.concatenate(every)[np.argsort(np.concatenate(keys), kind="stable")]


def _members(group: Integers) -> list[Integers]:
    """The rows of each group, in order."""
    order = np.argsort(group, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(group[order])) + 1) if len(group) else []


def _drawn(stratum: NDArray[np.int32], sizes: Integers, random: Floats, limit: int | None) -> Integers:
    """Rows of the bins, among them the first `limit` to be taken: few more, for only the lowest random numbers of a bin can be."""
    if limit is None or limit >= sizes.sum():
        return np.flatnonzero(stratum < len(sizes))
    wanted = np.minimum(sizes, water_level(sizes, limit, whole=True) + 1)
    chance = np.append((wanted + 6 * np.sqrt(wanted) + 20) / np.maximum(sizes, 1), 0.0)
    while True:
        blocks = range(0, len(stratum), _BLOCK)
        drawn = np.concatenate([start + np.flatnonzero(random[start : start + _BLOCK] < chance[stratum[start : start + _BLOCK]]) for start in blocks])
        short = np.bincount(stratum[drawn], minlength=len(sizes)) < wanted
        if not short.any():
            return drawn
        chance[:-1][short] = 1.0


class _Cells:
    """The bins of all groups: what each holds, and how evenly any rows cover them."""

    def __init__(self, stratum: NDArray[np.int32], group: Integers | None, costs: Integers, strata: int) -> None:
        self._cell = stratum if group is None else group * (strata + 1) + stratum
        self._shape = (1 if group is None else int(group.max(initial=0)) + 1, strata + 1)
        self._costs = costs
        self._rows, self._total = self._count(slice(None))

    def _count(self, rows: Integers | slice) -> tuple[Integers, NDArray[np.float64]]:
        """(G, strata + 1) rows, and what they cost; the last column is of rows set aside."""
        number = np.bincount(self._cell[rows], minlength=int(np.prod(self._shape))).astype(np.int64)
        cost = np.bincount(self._cell[rows], weights=self._costs[rows], minlength=int(np.prod(self._shape))).astype(np.float64)
        return number.reshape(self._shape), cost.reshape(self._shape)

    def curves(self, kept: Integers) -> dict[str, Floats]:
        """Rows and kept rows of every bin, from the easiest to the hardest."""
        found = {"rows_of_stratum": self._rows, "kept_of_stratum": self._count(kept)[0]}
        return {name: count[:, :-1].sum(axis=0).astype(np.float64) for name, count in found.items()}

    def certificate(self, kept: Integers, capacity: int, cut: float) -> Certificate:
        number, cost = self._count(kept)
        unspent = capacity - cost.sum()
        whole = bool((self._costs == 1).all())
        present, hungry = (self._rows > 0)[:, :-1], (number < self._rows)[:, :-1]
        objective = bound = 0.0
        for total, share, exists, wants, spent in zip(self._total[:, :-1], cost[:, :-1], present, hungry, cost.sum(axis=1), strict=True):
            level = water_level(total[exists], float(spent + unspent), whole=whole)
            bound += level
            objective += float(share[wants].min()) if wants.any() else level
        details = {
            "strata": float(present.sum()),
            "exhausted_strata": float((present & ~hungry).sum()),
            "set_aside": float(self._rows[:, -1].sum()),
            "hardest_cut": cut,
        }
        return Certificate("coverage", "max", objective, bound, (bound - objective) / bound if bound else 0.0, details)
