"""Layers around the target, rows that make room, and sizes that folds of the target choose, against plain loops and exact transport."""

from itertools import combinations
from typing import Any

import numpy as np
import ot
import pytest
from numpy.typing import NDArray

import curate.transport.folds
from curate.testing.selection import OnDisk
from curate.transport.exchange import exchange
from curate.transport.folds import Fold, grow_by_fold, union_of
from curate.transport.optimal_transport import transport
from curate.transport.sinkhorn import Potentials, sinkhorn
from curate.transport.target_layers import Nearest, layers, rows_in_layers


class Given:
    """Distances in memory, read as streamed ones are."""

    def __init__(self, costs: Any) -> None:
        self.costs = np.asarray(costs, np.float32)
        self.shape = self.costs.shape
        self.passes = 0

    def blocks(self, size: int = 2048) -> Any:
        self.passes += 1
        for start in range(0, len(self.costs), min(size, 64)):
            yield start, self.costs[start : start + min(size, 64)]

    def of(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self.costs[rows]


def mixture(n: int, m: int, kinds: int = 8, of_target: int = 3, width: int = 16, seed: int = 0) -> Given:
    """A pool of several kinds, in turn, and a target of the first few."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(kinds, width))
    sides = [centres[np.arange(size) % many] + 0.7 * rng.normal(size=(size, width)) for size, many in ((n, kinds), (m, of_target))]
    rows, goal = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides)
    return Given(np.sqrt(np.maximum(2 - 2 * rows @ goal.T, 0)))


def test_lists_are_those_of_a_full_sort_and_grow_when_asked() -> None:
    away = mixture(700, 5)
    away.costs[600:650] = away.costs[100:150]
    nearest = Nearest(away)
    for depth in (3, 50, 700, 900):
        rows, distances = nearest.upto(depth)
        wanted = np.argsort(away.costs.T, axis=1, kind="stable")[:, :depth]
        assert (rows == wanted).all()
        assert (distances == np.take_along_axis(away.costs.T, wanted, axis=1)).all()
    before = away.passes
    nearest.upto(699)
    assert away.passes == before


def test_a_layer_is_what_is_next_nearest_to_a_target_row_and_new() -> None:
    away = mixture(90, 4)
    columns = np.asarray([0, 2, 3])
    order, seen = np.argsort(away.costs, axis=0, kind="stable"), set[int]()
    for rank, layer in enumerate(layers(Nearest(away), columns, 90)):
        wanted = {int(row) for row in order[rank, columns]} - seen
        assert set(layer.tolist()) == wanted and len(layer) == len(wanted)
        reach = [min(away.costs[row, column] for column in columns if order[rank, column] == row) for row in layer]
        assert reach == sorted(reach)
        seen |= wanted
    assert seen == set(range(90))


def test_whole_layers_come_first_and_the_next_loses_the_rows_that_are_dearest_to_serve() -> None:
    margins = []
    for seed in range(20):
        away = mixture(120, 10, seed=seed)
        grown = layers(Nearest(away), np.arange(10), 120)
        first, second = next(grown), next(grown)
        kept = len(first) + len(second) // 2
        order = rows_in_layers(away, np.ones(120, np.int64), kept, 10**6)
        assert sorted(order.tolist()) == list(range(120))
        assert order[: len(first)].tolist() == first.tolist()
        assert set(order[: len(first) + len(second)].tolist()) == {*first.tolist(), *second.tolist()}
        rest = away.costs[order[len(first) + len(second) :]].min(axis=1)
        assert (np.diff(rest) >= 0).all()
        rng = np.random.default_rng(seed)
        other = [np.concatenate([first, rng.permutation(second)[: kept - len(first)]]) for _ in range(20)]
        chance = np.mean([transport(away.of(rows), 10**6).cost for rows in other])
        margins.append(chance - transport(away.of(order[:kept]), 10**6).cost)
    assert np.mean(np.asarray(margins) > 0) >= 0.9


def test_exchanges_never_raise_the_cost_end_at_the_best_set_seen_and_stop_at_the_bound() -> None:
    better = []
    for seed in range(20):
        away = mixture(60, 7, seed=seed)
        start = np.random.default_rng(seed).permutation(60)[:10]
        found = exchange(away.costs, start, 0.0, 10**6)
        assert (np.diff(found.costs) <= 1e-12).all() and len(np.unique(found.rows)) == 10
        assert found.plan.cost == pytest.approx(found.costs[-1]) == pytest.approx(float(ot.emd2([], [], away.costs[found.rows].astype(np.float64))))
        better.append(found.costs[-1] < found.costs[0])
        assert len(exchange(away.costs, found.rows, found.plan.cost, 10**6).costs) == 1
    assert all(better)


def test_exchanges_from_any_start_come_close_to_the_best_subset() -> None:
    places = []
    for seed in range(30):
        away = mixture(10, 5, seed=seed)
        every = [float(ot.emd2([], [], away.costs[list(some)].astype(np.float64))) for some in combinations(range(10), 4)]
        found = exchange(away.costs, np.random.default_rng(seed).permutation(10)[:4], 0.0, 10**6)
        places.append((found.plan.cost - min(every)) / (np.mean(every) - min(every)))
    assert min(places) > -1e-6 and np.mean(places) < 0.1


def test_where_no_row_outside_has_a_smaller_potential_nothing_is_tried() -> None:
    away = Given([[0, 1], [1, 0], [1, 1], [1, 1]])
    found = exchange(away.costs, np.asarray([0, 1]), 0.0, 100)
    assert found.rows.tolist() == [0, 1] and found.plan.cost == 0 and len(found.costs) == 1


def grown_plainly(away: Given, folds: NDArray[np.int64], fold: int, patience: int) -> tuple[list[float], int]:
    """Exact costs per layer, and the best layer, by the definition."""
    order = np.argsort(away.costs[:, folds == fold], axis=0, kind="stable")
    costs: list[float] = []
    held: set[int] = set()
    for rank in range(len(order)):
        fresh = set(order[rank].tolist()) - held
        held |= fresh
        if fresh:
            costs.append(float(ot.emd2([], [], away.costs[sorted(held)][:, folds != fold].astype(np.float64))))
        if len(costs) - 1 - int(np.argmin(costs)) >= patience:
            break
    return costs, int(np.argmin(costs))


@pytest.mark.parametrize("patience", [1, 3])
def test_each_fold_keeps_the_layers_of_least_cost_that_exact_transport_finds(patience: int) -> None:
    away = mixture(400, 30)
    folds = np.arange(30) % 5
    agreed = []
    for fold, found in enumerate(grow_by_fold(away, folds, patience)):
        costs, best = grown_plainly(away, folds, fold, patience)
        shared = min(len(costs), len(found.costs))
        assert np.allclose(found.costs[:shared], costs[:shared], rtol=5e-3)
        assert (found.costs[:shared] <= np.asarray(costs[:shared]) + 1e-6).all()
        assert len(found.layers) == int(np.argmin(found.costs)) + 1
        assert len(found.costs) == len(found.layers) + patience
        agreed.append(costs[len(found.layers) - 1] <= costs[best] * 1.003 if len(found.layers) <= len(costs) else False)
    assert np.mean(agreed) >= 0.8


def test_rows_of_the_kinds_that_the_target_asks_for_are_what_folds_choose() -> None:
    away = mixture(800, 40)
    rows = union_of(grow_by_fold(away, np.arange(40) % 10, 2))
    assert len(np.unique(rows)) == len(rows) and 40 < len(rows) < 320
    assert np.mean(rows % 8 < 3) > 0.85


def test_the_union_takes_first_layers_of_all_folds_first() -> None:
    folds = [Fold([np.asarray([4, 1]), np.asarray([7])], np.zeros(3)), Fold([np.asarray([1, 9])], np.zeros(2))]
    assert union_of(folds).tolist() == [4, 1, 9, 7]


def test_duals_of_a_smaller_set_start_a_larger_one_in_two_thirds_of_the_iterations_and_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    away, folds = mixture(3000, 150), np.arange(150) % 10
    spent = {"warm": 0, "cold": 0}
    found = {}
    for name in spent:

        def counted(costs: Any, blur: float, *, start: Any = None, name: str = name, **rest: Any) -> Potentials:
            solved = sinkhorn(costs, blur, start=start if name == "warm" else None, **rest)
            spent[name] += solved.iterations
            return solved

        monkeypatch.setattr(curate.transport.folds, "sinkhorn", counted)
        found[name] = grow_by_fold(away, folds, 2)
    assert 3 * spent["warm"] < 2 * spent["cold"]
    for warm, cold in zip(found["warm"], found["cold"], strict=True):
        shared = min(len(warm.costs), len(cold.costs))
        assert np.allclose(warm.costs[:shared], cold.costs[:shared], rtol=1e-2)


def test_distances_on_disk_are_read_by_slice_and_index_only() -> None:
    away = mixture(200, 6)
    plain = grow_by_fold(away, np.arange(6) % 3, 2)
    away.costs = OnDisk(away.costs)  # type: ignore[assignment]
    assert [fold.costs.tolist() for fold in grow_by_fold(away, np.arange(6) % 3, 2)] == [fold.costs.tolist() for fold in plain]
