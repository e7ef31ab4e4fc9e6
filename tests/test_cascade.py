"""Reverse-reachable sets agree with the enumeration of all live-edge graphs, and their bounds hold."""

from functools import cache
from itertools import combinations, product

import numpy as np
import pytest
from numpy.typing import NDArray

from curate.cascade import Coverage, Digraph, ReachedFrom, neighbour_digraph, proven_range, reverse_reachable
from curate.greedy import lazy_greedy
from curate.submodular.bound import recomputed
from curate.submodular.neighbours import exact_neighbours

NODES = 6
IDS = np.array([f"row-{i}" for i in range(NODES)])
Edges = list[tuple[int, int, float]]


def random_edges(seed: int) -> Edges:
    generator = np.random.default_rng(seed)
    pairs = [(u, v) for u in range(NODES) for v in range(NODES) if u != v]
    chosen = generator.choice(len(pairs), 11, replace=False)
    return [(*pairs[i], float(generator.uniform(0.05, 1.0))) for i in chosen]


def digraph(edges: Edges) -> Digraph:
    tails, heads, chances = (np.array(column) for column in zip(*edges, strict=True))
    return Digraph.of(NODES, tails, heads, chances)


@cache
def exact_spreads(seed: int) -> dict[frozenset[int], float]:
    """sigma of every set of rows, over all live-edge graphs of these random edges."""
    edges = random_edges(seed)
    spreads = {frozenset(rows): 0.0 for size in range(NODES + 1) for rows in combinations(range(NODES), size)}
    for live in product((False, True), repeat=len(edges)):
        weight = float(np.prod([p if on else 1 - p for on, (_, _, p) in zip(live, edges, strict=True)]))
        reach = np.eye(NODES, dtype=bool)
        for on, (u, v, _) in zip(live, edges, strict=True):
            reach[u, v] |= on
        for middle in range(NODES):
            reach |= reach[:, middle : middle + 1] & reach[middle]
        for rows in spreads:
            spreads[rows] += weight * float(reach[sorted(rows)].any(axis=0).sum())
    return spreads


def as_python_sets(sets: ReachedFrom) -> list[set[int]]:
    return [set(sets.members[a:b].tolist()) for a, b in zip(sets.start[:-1], sets.start[1:], strict=True)]


@pytest.mark.parametrize("seed", range(5))
def test_estimates_agree_with_the_enumeration_of_live_edge_graphs(seed: int) -> None:
    edges = random_edges(seed)
    sets = reverse_reachable(digraph(edges), IDS, seed, range(4000))
    for rows, exact in exact_spreads(seed).items():
        found = sets.spread(np.array(sorted(rows), np.int64))
        assert abs(found - exact) <= 4.5 * sets.standard_error(exact) + 1e-9


@pytest.mark.parametrize("seed", range(5))
def test_greedy_reaches_its_share_of_the_enumerated_optimum(seed: int) -> None:
    edges = random_edges(seed)
    sets = reverse_reachable(digraph(edges), IDS, seed, range(4000))
    exact = exact_spreads(seed)
    for kept in (1, 2, 3):
        rows = lazy_greedy(Coverage(sets, NODES), np.ones(NODES, np.int64), kept).order
        best = max(value for chosen, value in exact.items() if len(chosen) == kept)
        assert exact[frozenset(rows.tolist())] >= (1 - 1 / np.e) * best - 0.05
        if kept == 1:
            assert exact[frozenset(rows.tolist())] >= best - 0.1


@pytest.mark.parametrize("seed", range(4))
def test_the_spread_of_each_root_is_that_of_its_own_sets(seed: int) -> None:
    edges = random_edges(seed)
    rounds = 3000
    sets = as_python_sets(reverse_reachable(digraph(edges), IDS, seed, range(rounds)))
    for root in range(NODES):
        mine = sets[root::NODES]
        assert len(mine) == rounds and all(root in members for members in mine)
        for source in range(NODES):
            share = np.mean([source in members for members in mine])
            direct = [p for u, v, p in edges if (u, v) == (source, root)]
            assert share >= (direct[0] if direct else 0) - 0.05


def test_certain_edges_are_always_crossed_and_absent_ones_never() -> None:
    chain = Digraph.of(4, np.array([0, 1, 3]), np.array([1, 2, 2]), np.array([1.0, 1.0, 0.0]))
    sets = as_python_sets(reverse_reachable(chain, IDS[:4], 0, range(50)))
    assert sets == [{0}, {0, 1}, {0, 1, 2}, {3}] * 50


def test_sets_belong_to_ids_and_rounds_and_not_to_places() -> None:
    edges = random_edges(1)
    plain = as_python_sets(reverse_reachable(digraph(edges), IDS, 0, range(30)))
    moved = np.random.default_rng(0).permutation(NODES)  # row i of the other graph is row moved[i] of this one
    back = np.argsort(moved)
    other = [(int(back[u]), int(back[v]), p) for u, v, p in edges]
    found = as_python_sets(reverse_reachable(digraph(other), IDS[moved], 0, range(30)))
    for number, members in enumerate(found):
        turn, root = divmod(number, NODES)
        assert {int(moved[row]) for row in members} == plain[turn * NODES + moved[root]]
    later = as_python_sets(reverse_reachable(digraph(edges), IDS, 0, range(10, 30)))
    assert later == plain[10 * NODES :]
    assert plain != as_python_sets(reverse_reachable(digraph(edges), IDS, 1, range(30)))


@pytest.mark.parametrize("seed", range(4))
def test_kept_counts_are_those_of_the_definition(seed: int) -> None:
    sets = reverse_reachable(digraph(random_edges(seed)), IDS, seed, range(200))
    plain = as_python_sets(sets)
    coverage = Coverage(sets, NODES)
    held: list[int] = []
    for change, row in ((held.append, 3), (held.append, 0), (held.remove, 3), (held.append, 5), (held.append, 3), (held.remove, 0), (held.remove, 5)):
        change(row)
        (coverage.add if row in held else coverage.drop)(row)
        met = [not members.isdisjoint(held) for members in plain]
        rows = np.array(held, np.int64)
        expected = [sum(row in members for members, hit in zip(plain, met, strict=True) if not hit) / 200 for row in range(NODES)]
        assert coverage.value == sets.spread(rows) == coverage.value_of(rows) == sum(met) / 200
        assert coverage.upper().tolist() == coverage.gains(np.arange(NODES)).tolist() == coverage.after([rows])[0][1].tolist() == expected


@pytest.mark.parametrize("seed", range(6))
def test_no_rows_within_the_budget_pass_the_bound(seed: int) -> None:
    generator = np.random.default_rng(seed)
    sets = reverse_reachable(digraph(random_edges(seed)), IDS, seed, range(300))
    for costs, capacity in ((np.ones(NODES, np.int64), 2), (generator.integers(0, 9, NODES), 8), (generator.integers(3, 9, NODES), 13)):
        within = [rows for size in range(NODES + 1) for rows in combinations(range(NODES), size) if costs[list(rows)].sum() <= capacity]
        best = max(sets.spread(np.array(rows, np.int64)) for rows in within)
        greedy = lazy_greedy(Coverage(sets, NODES), costs, capacity).order
        for rows in (greedy, generator.permutation(NODES)[:2]):
            value, bound = recomputed(Coverage(sets, NODES), rows, costs, capacity)
            assert value == sets.spread(rows) and best - 1e-9 <= bound
        if np.ptp(costs) == 0:
            assert sets.spread(greedy) >= (1 - 1 / np.e) * best


def test_proven_ranges_hold_as_often_as_they_say() -> None:
    generator = np.random.default_rng(0)
    sets, share = 2000, 0.3
    drawn = generator.binomial(sets, share, 20_000)
    ranges = [proven_range(float(met), float(met), sets, doubt=0.2) for met in drawn]
    above = np.mean([lower > share for lower, _ in ranges])
    below = np.mean([upper < share for _, upper in ranges])
    assert 0.002 < above <= 0.1 and 0.002 < below <= 0.1
    assert proven_range(0.0, 2000.0, 2000, doubt=0.01) == (0.0, 1.0)


def test_the_standard_error_is_that_of_repeated_estimates() -> None:
    edges = random_edges(3)
    rows = np.array([0, 4])
    found = [reverse_reachable(digraph(edges), IDS, seed, range(50)) for seed in range(200)]
    spreads = [sets.spread(rows) for sets in found]
    claimed = found[0].standard_error(float(np.mean(spreads)))
    assert 0.4 * claimed < np.std(spreads) < 1.1 * claimed


def unit(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def edges_of(graph: Digraph) -> dict[tuple[int, int], float]:
    heads = np.repeat(np.arange(len(graph)), np.diff(graph.start))
    return {(int(u), int(v)): float(p) for u, v, p in zip(graph.tails, heads, graph.chances, strict=True)}


def test_a_row_points_to_its_nearest_others_in_proportion_to_their_cosines() -> None:
    rows = unit(np.random.default_rng(0).normal(size=(12, 2)))
    found = edges_of(neighbour_digraph(*exact_neighbours(rows, 4), 3))
    cosines = rows.astype(np.float64) @ rows.T.astype(np.float64)
    np.fill_diagonal(cosines, -2)
    expected = {}
    for u in range(12):
        near = np.argsort(-cosines[u])[:3]
        total = np.maximum(cosines[u, near], 0).sum()
        expected |= {(u, int(v)): cosines[u, v] / total for v in near if cosines[u, v] > 0}
    assert found == pytest.approx(expected)


def test_copies_do_not_make_a_row_its_own_neighbour() -> None:
    rows = unit(np.array([[1.0, 0.0]] * 6 + [[0.0, 1.0], [-1.0, 0.1]]))
    found = edges_of(neighbour_digraph(*exact_neighbours(rows, 3), 2))
    assert all(u != v for u, v in found)
    assert [sum(u == row for u, _ in found) for row in range(6)] == [2] * 6
    for row in range(8):
        total = sum(p for (u, _), p in found.items() if u == row)
        assert total == pytest.approx(1.0)
    assert {v for u, v in found if u == 7} == {6}  # a negative cosine carries nothing
    assert edges_of(neighbour_digraph(*exact_neighbours(unit(np.eye(3)), 3), 2)) == {}  # orthogonal rows carry nothing
    assert edges_of(neighbour_digraph(*exact_neighbours(unit(np.ones((1, 2))), 11), 10)) == {}
