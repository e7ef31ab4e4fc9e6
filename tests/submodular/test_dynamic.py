"""After every insertion and deletion the kept rows are worth half of the optimum, found by looking at all sets; also when the kept rows are deleted."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from curate.core import Budget, Features
from curate.errors import ConfigError
from curate.interfaces import Context, Selector
from curate.order import subset
from curate.selectors.facility_location import FacilityLocation
from curate.selectors.log_determinant import LogDeterminant
from curate.submodular.dynamic import Dynamic
from curate.submodular.objective import Objective

EPSILON = 0.1
Sets = list[set[int]]


class Coverage(Objective):
    """f(S) = the weight of what the rows of S cover together; an objective that the package does not have, so that nothing is taken for granted."""

    def __init__(self, sets: Sets, weights: np.ndarray) -> None:
        self.sets, self.weights, self.held = sets, weights, list[int]()

    def _worth(self, rows: list[int]) -> float:
        return float(sum(self.weights[item] for item in set().union(*(self.sets[row] for row in rows))))

    def reset(self) -> None:
        self.held = []

    @property
    def value(self) -> float:
        return self._worth(self.held)

    def upper(self, rows: np.ndarray | None = None) -> np.ndarray:
        return np.array([self._worth([int(row)]) for row in (np.arange(len(self.sets)) if rows is None else rows)])

    def gains(self, rows: np.ndarray) -> np.ndarray:
        return np.array([self._worth([*self.held, int(row)]) - self.value for row in rows])

    def add(self, row: int) -> None:
        self.held.append(row)

    def drop(self, row: int) -> None:
        self.held.remove(row)

    def after(self, sets: object) -> list[tuple[float, np.ndarray]]:
        raise NotImplementedError


def world(seed: int, rows: int = 11, items: int = 9) -> Coverage:
    rng = np.random.default_rng(seed)
    sets = [set(rng.choice(items, size=rng.integers(0, 5), replace=False).tolist()) for _ in range(rows)]
    return Coverage(sets, rng.integers(1, 8, size=items).astype(float))


def optimum(objective: Coverage, there: list[int], size: int) -> float:
    return max((objective._worth(list(rows)) for count in range(1, size + 1) for rows in itertools.combinations(there, count)), default=0.0)


def moves(rng: np.random.Generator, rows: int, length: int, cruel: bool) -> Callable[[Dynamic, list[int]], tuple[bool, int]]:
    def move(dynamic: Dynamic, there: list[int]) -> tuple[bool, int]:
        kept = dynamic.best()
        if there and (len(there) == rows or rng.random() < 0.4):
            return False, int(rng.choice(kept if cruel and kept else there))
        return True, int(rng.choice(sorted(set(range(rows)) - set(there))))

    return move


@pytest.mark.parametrize("cruel", [False, True], ids=["any row", "a kept row"])
@pytest.mark.parametrize("seed", range(50))
def test_after_every_change_the_kept_rows_are_worth_half_of_the_optimum(seed: int, cruel: bool) -> None:
    objective, size, rng = world(seed), 1 + seed % 4, np.random.default_rng([seed, cruel])
    dynamic, there, move = Dynamic(world(seed), size, EPSILON, seed), list[int](), moves(rng, 11, 30, cruel)
    for _ in range(30):
        inserts, row = move(dynamic, there)
        (dynamic.insert if inserts else dynamic.delete)(row)
        there = sorted({*there, row}) if inserts else [other for other in there if other != row]
        best = dynamic.best()
        assert len(best) == len(set(best)) <= size and set(best) <= set(there)
        assert objective._worth(best) >= optimum(objective, there, size) / (2 * (1 + EPSILON)) - 1e-9
        _check_levels(dynamic, objective, there)


def _check_levels(dynamic: Dynamic, objective: Coverage, there: list[int]) -> None:
    """Every set is what its definition says, from the gains of the rows kept before."""
    for levels in dynamic.guesses.values():
        for row in there:
            if levels.last[row] == -2:
                continue  # it cannot matter for this guess
            wanted = -1
            for level, before in enumerate(levels.kept[:place] for place in range(levels.size)):
                if level > len(levels.kept) or row in before or objective._worth([*before, row]) - objective._worth(before) < levels.threshold:
                    break
                wanted = level
            assert levels.last[row] == wanted < len(levels.kept)
        assert all(levels.last[row] == -2 for row in range(len(objective.sets)) if row not in there)


def test_what_is_kept_is_drawn_uniformly_whatever_the_order_of_arrival() -> None:
    counts = np.zeros(6)
    for seed in range(3000):
        dynamic = Dynamic(Coverage([{0}] * 6, np.array([1.0])), 1, EPSILON, seed)
        for row in range(6):
            dynamic.insert(row)
        dynamic.delete(2)
        counts[dynamic.best()[0]] += 1
    assert counts[2] == 0 and np.all(np.abs(counts[[0, 1, 3, 4, 5]] / 3000 - 0.2) < 0.03)


def test_deleting_rows_that_are_not_kept_costs_no_gain() -> None:
    dynamic = Dynamic(world(3, rows=60, items=12), 3, EPSILON, 0)
    for row in range(60):
        dynamic.insert(row)
    kept = {row for levels in dynamic.guesses.values() for row in levels.kept}
    before = dynamic.queries
    for row in sorted(set(range(60)) - kept):
        dynamic.delete(row)
    assert dynamic.queries == before


def test_it_goes_on_from_stored_arrays_as_if_it_had_never_stopped() -> None:
    one, other = (Dynamic(world(5, rows=30), 4, EPSILON, 1) for _ in range(2))
    for row in range(20):
        one.insert(row)
    other.restore(one.arrays(), np.arange(30))
    for dynamic in (one, other):
        for row in (20, 21, 22):
            dynamic.insert(row)
        for row in (3, 21, 7):
            dynamic.delete(row)
    assert one.best() == other.best() and all(np.array_equal(one.arrays()[name], other.arrays()[name]) for name in one.arrays())


@pytest.mark.parametrize("seed", range(40))
def test_all_at_once_and_after_a_change_of_universe_the_guarantee_holds(seed: int) -> None:
    rng, objective, size = np.random.default_rng(seed), world(seed, rows=14), 1 + seed % 4
    first = Dynamic(world(seed, rows=14), size, EPSILON, seed)
    first.insert_all(np.arange(10))
    _check_levels(first, objective, list(range(10)))
    assert objective._worth(first.best()) >= optimum(objective, list(range(10)), size) / (2 * (1 + EPSILON)) - 1e-9
    gone = [first.best()[0], *rng.choice(10, size=2).tolist()] if first.best() else [0]
    stays = [row for row in range(14) if row not in gone]
    where = np.array([stays.index(row) if row in stays else -1 for row in range(14)])
    smaller = Coverage([objective.sets[row] for row in stays], objective.weights)
    second = Dynamic(Coverage(smaller.sets, smaller.weights), size, EPSILON, seed)
    second.restore(first.arrays(), where)
    second.insert_all(np.flatnonzero(~second.present))
    there = list(range(len(stays)))
    _check_levels(second, smaller, there)
    assert smaller._worth(second.best()) >= optimum(smaller, there, size) / (2 * (1 + EPSILON)) - 1e-9


def test_a_row_is_inserted_once_and_deleted_once() -> None:
    dynamic = Dynamic(world(0), 2)
    dynamic.insert(1)
    with pytest.raises(ValueError, match="row 1 is there already"):
        dynamic.insert(1)
    with pytest.raises(ValueError, match="row 2 is not there"):
        dynamic.delete(2)
    assert Dynamic(world(0), 2).best() == []


def _pool(rows: int) -> Features:
    return Features.from_arrays(vectors=np.random.default_rng(0).normal(size=(rows, 3)).astype(np.float32), lengths=[5] * rows)


@pytest.mark.parametrize(
    ("selector", "budget", "said"),
    [
        (LogDeterminant(optimiser="dynamic"), "50 tokens", "budgets in rows, and this one is in tokens"),
        (FacilityLocation(optimiser="dynamic"), "4", "no other row of the pool changes, and this form of facility_location is none"),
    ],
)
def test_what_cannot_be_repaired_is_refused(selector: Selector, budget: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        selector.select(_pool(20), Budget.parse(budget))


def test_a_selector_repairs_what_it_selected_and_never_worse_than_half_of_greedy() -> None:
    selector, whole = LogDeterminant(optimiser="dynamic"), _pool(60)
    first = subset(whole, np.arange(45))
    before = selector.select(first, Budget.parse("6"))
    after = selector.select(whole, Budget.parse("6"), context=Context(previous=before.state))
    greedy = LogDeterminant().select(whole, Budget.parse("6"))
    assert after.certificate and greedy.certificate and after.certificate.objective >= greedy.certificate.objective / (2 * 1.1)
    assert after.certificate.details["from_scratch"] == pytest.approx(greedy.certificate.objective)
    assert set(after.state["ids"]) == set(whole.ids) and after.state["present"].all()
