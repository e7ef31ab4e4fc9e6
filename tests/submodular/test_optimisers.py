"""Every optimiser keeps its guarantee on every objective, against every subset, and says a bound that holds."""

from functools import lru_cache, partial
from itertools import combinations

import numpy as np
import pytest

from curate.greedy import Lazy, Naive, climb, guarded, lazy_greedy
from curate.randomness import row_keys
from curate.submodular.bound import recomputed
from curate.submodular.greedi import merged
from curate.submodular.mutual_information import Modular
from curate.submodular.objective import Objective
from curate.submodular.sieve import sieve
from curate.submodular.stochastic import Stochastic
from curate.submodular.swaps import improved
from curate.submodular.threshold import Threshold
from tests.submodular.oracles import MONOTONE, NAMES, SUBMODULAR, Case, cases

N = 10
GOOD = sorted(set(MONOTONE) & set(SUBMODULAR))
E1 = 1 - 1 / np.e
CLOSE = 2e-5
KEYS = row_keys(3, "test", [str(row) for row in range(N)])


@lru_cache(maxsize=4)
def made(seed: int) -> dict[str, Case]:
    return cases(N, seed)


@lru_cache(maxsize=64)
def values(name: str, seed: int) -> dict[tuple[int, ...], float]:
    """f of every set of up to four rows."""
    case = made(seed)[name]
    return {rows: case.value(list(rows)) for size in range(5) for rows in combinations(range(N), size)}


def optimum(name: str, seed: int, costs: np.ndarray, capacity: int) -> float:
    return max(value for rows, value in values(name, seed).items() if costs[list(rows)].sum() <= capacity)


def tokens(seed: int) -> tuple[np.ndarray, int]:
    """Costs of which at most four fit."""
    return np.random.default_rng(seed).integers(4, 12, N), 18


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(2))
def test_lazy_takes_the_rows_of_naive_pick_for_pick(name: str, seed: int) -> None:
    objective = made(seed)[name].objective
    for costs, capacity in ((np.ones(N, np.int64), 6), tokens(seed)):
        lazy, naive = (guarded(objective, costs, capacity, picker) for picker in (Lazy if objective.submodular else Naive, Naive))
        assert lazy.order.tolist() == naive.order.tolist()
        assert lazy_greedy(objective, costs, capacity).order.tolist() == naive.order.tolist()


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("seed", range(2))
def test_greedy_is_within_its_guarantee_of_the_optimum_and_below_its_bound(name: str, seed: int) -> None:
    objective = made(seed)[name].objective
    for costs, capacity, share in ((np.ones(N, np.int64), 3, E1), (np.ones(N, np.int64), 4, E1), (*tokens(seed), E1 / 2)):
        greedy, best = lazy_greedy(objective, costs, capacity), optimum(name, seed, costs, capacity)
        assert greedy.value == pytest.approx(made(seed)[name].value(greedy.order.tolist()), abs=CLOSE)
        assert share * best - CLOSE <= greedy.value <= best + CLOSE
        assert best <= greedy.bound + CLOSE


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(2))
def test_the_bound_holds_for_any_rows_and_is_recomputed_from_the_definition(name: str, seed: int) -> None:
    objective = made(seed)[name].objective
    rng = np.random.default_rng(seed)
    for costs, capacity in ((np.ones(N, np.int64), 4), tokens(seed)):
        best = optimum(name, seed, costs, capacity)
        for first in ([], rng.permutation(N)[:1].tolist(), rng.permutation(N)[:2].tolist()):
            first = first if costs[first].sum() <= capacity else []
            run = climb(objective, costs, capacity, Naive, first=first)
            assert best <= run.bound + CLOSE
            assert recomputed(objective, run.order, costs, capacity) == pytest.approx((run.value, run.bound), abs=CLOSE)


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("seed", range(2))
def test_threshold_greedy_is_within_its_guarantee(name: str, seed: int) -> None:
    objective = made(seed)[name].objective
    for costs, capacity, share in ((np.ones(N, np.int64), 4, E1 - 0.1), (*tokens(seed), (E1 - 0.1) / 2)):
        found = guarded(objective, costs, capacity, partial(Threshold, epsilon=0.1))
        assert share * optimum(name, seed, costs, capacity) - CLOSE <= found.value
        assert_steps_are_near_the_best(objective, found.order, costs, capacity, 0.1)


def assert_steps_are_near_the_best(objective: Objective, order: np.ndarray, costs: np.ndarray, capacity: int, epsilon: float) -> None:
    """Every row taken gains at least 1 - e of what the best one that fits would have."""
    objective.reset()
    first, largest = True, 0.0
    for row in order.tolist():
        fits = np.setdiff1d(np.flatnonzero(costs <= capacity), order[: order.tolist().index(row)])
        rates = objective.gains(fits) / costs[fits]
        largest = float(rates.max()) if first else largest
        if rates.max() > epsilon / len(costs) * largest:
            assert rates[fits == row][0] >= (1 - epsilon) * rates.max() - CLOSE
        objective.add(row)
        capacity, first = capacity - int(costs[row]), False


@pytest.mark.parametrize("name", ["features, root", "set cover, columns", "facility, tiled"])
def test_threshold_greedy_passes_no_row_by_that_gains_enough(name: str) -> None:
    objective, costs = cases(120, 3)[name].objective, np.ones(120, np.int64)
    assert_steps_are_near_the_best(objective, guarded(objective, costs, 25, partial(Threshold, epsilon=0.1)).order, costs, 25, 0.1)


@pytest.mark.parametrize("name", GOOD)
def test_stochastic_greedy_keeps_its_guarantee_on_average(name: str) -> None:
    objective, costs = made(0)[name].objective, np.ones(N, np.int64)
    seeds = [row_keys(seed, "test", [str(row) for row in range(N)]) for seed in range(20)]
    found = [guarded(objective, costs, 4, partial(Stochastic, keys=keys, epsilon=0.3)) for keys in seeds]
    assert len({tuple(run.order.tolist()) for run in found}) > 1
    assert np.mean([run.value for run in found]) >= (E1 - 0.3) * optimum(name, 0, costs, 4) - CLOSE


@pytest.mark.parametrize("name", GOOD)
def test_stochastic_greedy_with_a_sample_of_everything_is_greedy(name: str) -> None:
    objective, costs = made(0)[name].objective, np.ones(N, np.int64)
    everything = guarded(objective, costs, 6, partial(Stochastic, keys=KEYS, epsilon=0.001))
    assert everything.order.tolist() == lazy_greedy(objective, costs, 6).order.tolist()


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("seed", range(2))
def test_the_sieve_keeps_half_of_the_optimum_in_rows_and_a_third_in_tokens(name: str, seed: int) -> None:
    objective = made(seed)[name].objective
    for costs, capacity, share in ((np.ones(N, np.int64), 4, 1 / 2), (np.full(N, 3), 10, 1 / 2), (*tokens(seed), 1 / 3)):
        rows = sieve(objective, costs, capacity, KEYS, 0.1)
        assert len(set(rows)) == len(rows) and costs[rows].sum() <= capacity
        assert made(seed)[name].value(rows) >= (share - 0.1) * optimum(name, seed, costs, capacity) - CLOSE


def test_the_sieve_gives_a_dear_row_that_beats_all_that_the_sieves_kept() -> None:
    worth, costs = Modular(np.asarray([1.0, 9.0])), np.asarray([1, 10])
    found = {tuple(sieve(worth, costs, 10, row_keys(seed, "test", ["a", "b"]), 0.1)) for seed in range(8)}
    assert found == {(1,)}


def test_the_sieve_sees_each_row_once() -> None:
    objective, costs = made(0)["features, root"].objective, np.ones(N, np.int64)
    first = row_keys(1, "test", [str(row) for row in range(N)])
    orders = {tuple(sieve(objective, costs, 2, keys, 0.1)) for keys in (first, KEYS)}
    assert len(orders) == 2


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("seed", range(2))
def test_merging_what_parts_kept_is_within_the_worst_case_of_greedi(name: str, seed: int) -> None:
    objective = made(seed)[name].objective
    parts = [np.arange(0, N, 2), np.arange(1, N, 2)]
    for costs, capacity in ((np.ones(N, np.int64), 4), tokens(seed)):
        dear = [np.where(np.isin(np.arange(N), part), costs, capacity + 1) for part in parts]
        kept = [lazy_greedy(objective, alone, capacity).order for alone in dear]
        found = merged(objective, costs, capacity, kept)
        assert costs[found].sum() <= capacity
        assert made(seed)[name].value(found.tolist()) >= max(made(seed)[name].value(rows.tolist()) for rows in kept) - CLOSE
        assert made(seed)[name].value(found.tolist()) >= E1 / 2 / np.sqrt(2) * optimum(name, seed, costs, capacity) - CLOSE


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(2))
def test_exchanges_are_the_best_there_are_never_hurt_and_end_where_none_helps(name: str, seed: int) -> None:
    case, objective = made(seed)[name], made(seed)[name].objective
    rng = np.random.default_rng(seed)
    for costs, capacity in ((np.ones(N, np.int64), 3), tokens(seed)):
        start = climb(objective, costs, capacity, Naive, first=[int(rng.integers(N))]).order
        found = {most: improved(objective, costs, capacity, start, most) for most in (0, 1, 50)}
        assert found[0] is start
        worth = {most: case.value(rows.tolist()) for most, rows in found.items()}
        assert worth[0] - CLOSE <= worth[1] <= worth[50] + CLOSE
        once, still = (max_after_exchange(case, rows.tolist(), costs, capacity) for rows in (start, found[50]))
        if np.ptp(costs) == 0:
            assert worth[1] == pytest.approx(max(once, worth[0]), abs=CLOSE)
            assert still <= worth[50] + CLOSE
        assert all(costs[rows].sum() <= capacity and len(np.unique(rows)) == len(rows) for rows in found.values())


@pytest.mark.parametrize("name", ["facility, dense", "facility, neighbours", "features, log", "flqmi", "log-determinant"])
def test_ruling_out_pairs_never_misses_the_best_exchange(name: str) -> None:
    costs = np.ones(24, np.int64)
    for seed in range(3):
        case = cases(24, seed)[name]
        start = np.random.default_rng(seed).permutation(24)[:5]
        found = improved(case.objective, costs, 5, start, 1)
        best = max(max_over(case, start.tolist(), 24), case.value(start.tolist()))
        assert case.value(found.tolist()) == pytest.approx(best, abs=CLOSE)


def max_over(case: Case, rows: list[int], n: int) -> float:
    return max(case.value([row for row in rows if row != out] + [new]) for out in rows for new in range(n) if new not in rows)


def max_after_exchange(case: Case, rows: list[int], costs: np.ndarray, capacity: int) -> float:
    sets = [[row for row in rows if row != out] + [new] for out in rows for new in range(N) if new not in rows]
    return max((case.value(some) for some in sets if costs[some].sum() <= capacity), default=-np.inf)
