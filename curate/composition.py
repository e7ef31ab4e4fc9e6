"""Any selector within rules: filters before it, forced and forbidden rows, quotas, and a budget that ends at the elbow of its gains."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from curate.allotment import Limit, allot
from curate.core import Budget, Certificate, Features, Integers, Selection
from curate.errors import ConfigError, DataError
from curate.interfaces import Context, Selector
from curate.order import by_id, counts_rows, subset
from curate.rules import NO_RULES, REST, Quota, Rules, allowed, kinds


class Step(Protocol):
    """A selector that runs before, and what it leaves of the pool."""

    @property
    def selector(self) -> Selector: ...

    @property
    def keep(self) -> Budget: ...


def compose(
    selector: Selector,
    pool: Features,
    budget: Budget,
    *,
    rules: Rules = NO_RULES,
    filters: Sequence[Step] = (),
    target: Features | None = None,
    context: Context = Context(),
) -> Selection:
    """The selector's choice among the rows that rules and filters leave, with the quotas kept exactly for budgets in rows.

    Forced rows come first. Quotas are kept by changing the selector's own choice as little as can be: the budget of every combination of kinds is
    settled by a small integer programme (see `curate.allotment`); where it is less than the selector spent there its first rows stay, where it is
    more the selector runs again on the rest of that combination. In tokens a most is never exceeded, and a least may miss by part of a row. The
    certificate is the selector's, of these rows among those that may be kept: its bound holds without quotas, so it holds with them.
    """
    order, rows = by_id(pool)
    eligible = _eligible(rows, rules, filters, target, context)
    held, whole = subset(rows, eligible), _of_the_pool(budget, rows)
    if rules.force or rules.quotas:
        chosen = _Ruled(selector, held, whole, rules, target, context).selection()
    else:
        chosen = selector.select(held, whole, target=target, context=context)
    if budget.elbow:
        chosen = _ending_at_the_elbow(chosen, selector, held, rules, target, context)
    return replace(chosen, indices=order[eligible[chosen.indices]])


def elbow(gains: NDArray[np.floating[Any]]) -> int:
    """How many rows to keep of falling gains: where the sum of gains is farthest above the chord from its start to its end.

    That is the number of gains above their mean. Satopaa et al., "Finding a Kneedle in a Haystack", 2011.
    """
    return max(1, int((gains > gains.mean()).sum())) if len(gains) else 0


def _ending_at_the_elbow(chosen: Selection, selector: Selector, rows: Features, rules: Rules, target: Features | None, context: Context) -> Selection:
    falls = selector.diminishing and chosen.prefix_consistent and chosen.gains is not None
    if chosen.gains is None or not falls:
        reason = "quotas and forced rows leave no single order" if rules.force or rules.quotas else f"the gains of {selector.name} do not fall from row to row"
        raise ConfigError(f"a budget of elbow needs gains that fall, in rows, and {reason}; give a number of rows, or use a selector such as facility_location")
    count = elbow(chosen.gains)
    kept = chosen.indices[:count]
    certificate = selector.certify(rows, Budget(amount=float(count)), kept, target=target, context=context)
    return replace(chosen, indices=kept, weights=chosen.weights[:count], gains=chosen.gains[:count], certificate=certificate)


def _of_the_pool(budget: Budget, pool: Features) -> Budget:
    """A share of the pool as a number of rows: the rules leave fewer rows, but the share is of all of them."""
    return Budget(amount=float(budget.costs(pool)[1])) if budget.unit == "fraction" else budget.model_copy(update={"elbow": False})


def certify(
    selector: Selector,
    pool: Features,
    budget: Budget,
    kept: Integers,
    *,
    rules: Rules = NO_RULES,
    filters: Sequence[Step] = (),
    target: Features | None = None,
    context: Context = Context(),
) -> Certificate | None:
    """The certificate of rows that `compose` kept, in their order, computed again from the features; None where the method proves nothing."""
    order, rows = by_id(pool)
    eligible = _eligible(rows, rules, filters, target, context)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    whole = Budget(amount=float(len(kept))) if budget.elbow else _of_the_pool(budget, rows)
    return selector.certify(subset(rows, eligible), whole, np.searchsorted(eligible, place[kept]), target=target, context=context)


def _eligible(rows: Features, rules: Rules, filters: Sequence[Step], target: Features | None, context: Context) -> Integers:
    """The rows that rules and filters leave, in order; forced rows pass every filter."""
    left = np.flatnonzero(allowed(rows, rules))
    for step in filters:
        passed = left[step.selector.select(subset(rows, left), step.keep, target=target, context=context).indices]
        left = np.union1d(passed, _forced(rows, rules))
    return left


def _forced(rows: Features, rules: Rules) -> Integers:
    return np.flatnonzero(np.isin(rows.ids, rules.force)) if rules.force else np.zeros(0, np.int64)


@dataclass(frozen=True)
class _Kind:
    """One kind of one quota: its rows (N,), and the least and most that it may spend."""

    name: str
    rows: NDArray[np.bool_]
    low: float
    high: float


def _kinds(rows: Features, quotas: Sequence[Quota], capacity: int) -> tuple[list[_Kind], Integers]:
    """Every kind that some quota limits, and the cell of each row (N,): the combination of its kinds."""
    found: list[_Kind] = []
    cell = np.zeros(len(rows), np.int64)
    for quota in quotas:
        label = kinds(rows, quota.by, quota.bands)
        code = np.unique(label, return_inverse=True)[1]
        cell = np.unique(cell * (int(code.max(initial=0)) + 1) + code, return_inverse=True)[1]
        for kind in sorted({*label.tolist(), *quota.min, *quota.max} - {REST}):
            least, most = quota.min.get(kind), quota.max.get(kind, quota.max.get(REST))
            low, high = np.ceil(least.of(capacity)) if least else 0.0, np.floor(most.of(capacity)) if most else np.inf
            if least or most:
                found.append(_Kind(f"{quota.by}={kind}", label == kind, low, high))
    return found, cell


class _Ruled:
    """One selection that must keep forced rows and quotas, over rows sorted by id."""

    def __init__(self, selector: Selector, rows: Features, budget: Budget, rules: Rules, target: Features | None, context: Context) -> None:
        self.selector, self.rows, self.budget, self.target, self.context = selector, rows, budget, target, context
        self.costs, self.capacity = budget.costs(rows)
        self.counted = counts_rows(budget)
        self.kinds, self.cell = _kinds(rows, rules.quotas, self.capacity)
        self.cells = int(self.cell.max(initial=-1)) + 1
        self.kept: list[int] = np.searchsorted(rows.ids, np.asarray(rules.force, np.str_)).tolist()  # `allowed` found them all
        self.weights: list[float] = [1.0] * len(self.kept)
        if self.spent() > self.capacity:
            raise DataError(f"rules.force: the forced rows take {self.spent()} of a budget of {budget}; raise the budget, or force fewer rows")

    def spent(self, rows: Any = None) -> int:
        return int(self.costs[self.kept if rows is None else rows].sum())

    def selection(self) -> Selection:
        forced = list(self.kept)
        free = np.setdiff1d(np.arange(len(self.rows)), forced)
        own = self._ask(free, self.capacity - self.spent())
        if self.kinds:
            shares = self._shares(forced, own)
            self._keep_within(own, shares)
            self._top_up(shares)
        else:
            self._take(own, np.ones(len(own[0]), np.bool_))
        self._fill()
        rows = np.asarray(self.kept, np.int64)
        certificate = self.selector.certify(self.rows, self.budget, rows, target=self.target, context=self.context)
        return Selection.of(rows, weights=self.weights, certificate=certificate, prefix_consistent=False)

    def _ask(self, rows: Integers, amount: int) -> tuple[Integers, NDArray[np.float32]]:
        """The selector's choice among these rows, with its weights."""
        if not len(rows) or amount <= 0:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        unit = "rows" if self.counted else self.budget.unit
        found = self.selector.select(subset(self.rows, rows), Budget(amount=float(amount), unit=unit), target=self.target, context=self.context)
        return rows[found.indices], found.weights

    def _shares(self, forced: list[int], own: tuple[Integers, NDArray[np.float32]]) -> NDArray[np.float64]:
        """(cells,) what may be spent in each cell, forced rows and all."""
        held = np.bincount(self.cell, self.costs, self.cells).astype(np.float64)
        taken = np.bincount(self.cell[forced], self.costs[forced], self.cells).astype(np.float64)
        wanted = taken + np.bincount(self.cell[own[0]], self.costs[own[0]], self.cells)
        limits = []
        for kind in self.kinds:
            cells = np.zeros(self.cells, np.bool_)
            cells[self.cell[kind.rows]] = True
            over = float(taken[cells].sum())
            if over > kind.high:
                raise DataError(f"rules: the forced rows hold {over:g} of {kind.name}, more than its max of {kind.high:g}; raise it, or force fewer rows")
            limits.append(Limit(kind.name, cells, kind.low - over, kind.high - over))
        unit = "rows" if self.counted else self.budget.unit
        capacity = float(self.capacity - taken.sum())
        return taken + allot(held - taken, wanted - taken, limits, capacity, unit=unit, whole=self.counted)

    def _take(self, own: tuple[Integers, NDArray[np.float32]], kept: NDArray[np.bool_]) -> None:
        self.kept += own[0][kept].tolist()
        self.weights += own[1][kept].tolist()

    def _keep_within(self, own: tuple[Integers, NDArray[np.float32]], shares: NDArray[np.float64]) -> None:
        """The first rows of the selector's own choice that fit into the shares of their cells."""
        left = shares - np.bincount(self.cell[self.kept], self.costs[self.kept], self.cells)
        fits = np.zeros(len(own[0]), np.bool_)
        for i, row in enumerate(own[0]):
            fits[i] = self.costs[row] <= left[self.cell[row]] + 1e-6
            left[self.cell[row]] -= self.costs[row] if fits[i] else 0
        self._take(own, fits)

    def _top_up(self, shares: NDArray[np.float64]) -> None:
        """What a cell may spend beyond the selector's own choice, chosen by it among the rest of the cell."""
        for cell in range(self.cells):
            mine = np.flatnonzero(self.cell == cell)
            taken = np.intersect1d(mine, self.kept)
            more = self._ask(np.setdiff1d(mine, taken), int(shares[cell] + 1e-6) - self.spent(taken))
            self._take(more, np.ones(len(more[0]), np.bool_))

    def _fill(self) -> None:
        """Spend what is left of the budget on rows that every most still allows, as the selector orders them."""
        while len(rows := self._fitting()):
            best, weights = self._ask(rows, self.capacity - self.spent())
            before = len(self.kept)
            for row, weight in zip(best, weights, strict=True):
                if self._room(np.array([row]))[0]:
                    self.kept.append(int(row))
                    self.weights.append(float(weight))
            if len(self.kept) == before:
                return

    def _fitting(self) -> Integers:
        free = np.setdiff1d(np.arange(len(self.rows)), self.kept)
        return free[self._room(free)]

    def _room(self, rows: Integers) -> NDArray[np.bool_]:
        """Which of the rows fit into the budget and into every quota's most."""
        fits: NDArray[np.bool_] = self.costs[rows] <= self.capacity - self.spent()
        for kind in self.kinds:
            used = self.costs[self.kept][kind.rows[self.kept]].sum()
            fits &= ~kind.rows[rows] | (used + self.costs[rows] <= kind.high)
        return fits
