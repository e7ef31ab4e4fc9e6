"""SemDeDup: each mode against its definition over all pairs, duplicates across clusters, exact sizes and exact copies."""

from itertools import combinations, product
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

import curate.redundancy
from curate.core import Budget, Features, Integers
from curate.interfaces import Context
from curate.randomness import row_keys, uniform
from curate.redundancy import Neighbourhoods, cosine_that_links, cosine_to_earlier, cosine_to_kept, neighbourhoods, precedence
from curate.selectors.semdedup import Semdedup
from curate.similarity import unit_rows
from curate.testing import check_selector


def unit(vectors: np.ndarray) -> np.ndarray:
    return unit_rows(Features.from_arrays(vectors=vectors))


def cosines(rows: np.ndarray) -> np.ndarray:
    wide = rows.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    return (wide @ wide.T).astype(np.float32)


def seen(near: Neighbourhoods) -> np.ndarray:
    """(N, N) whether two rows share a neighbourhood."""
    shared = np.zeros((len(near.places), len(near.places)), bool)
    for one, other in product(near.places.T, repeat=2):
        shared |= one[:, None] == other[None, :]
    return shared


def with_duplicates(rows: int, duplicates: int, width: int, noise: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(rows, width))
    vectors[:duplicates] = vectors[rng.integers(duplicates, rows, duplicates)] + noise * rng.normal(size=(duplicates, width))
    return vectors.astype(np.float32)


def prepared(vectors: np.ndarray, **fields: Any) -> tuple[np.ndarray, Neighbourhoods, Integers, np.ndarray]:
    """The unit rows, their neighbourhoods and ranks, and the cosines of pairs that are seen, -1 elsewhere."""
    rows = unit(vectors)
    near = neighbourhoods(rows, row_keys(0, "test", [str(i) for i in range(len(rows))]), fields.get("clusters"), fields.get("probes", 2))
    rank = precedence(near, fields.get("keep", "hard"), np.random.default_rng(1).random(len(rows)))
    return rows, near, rank, np.where(seen(near), cosines(rows), np.float32(-1))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("block", [5, 1024])
def test_each_mode_is_its_definition_over_all_pairs_that_are_seen(seed: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curate.redundancy, "_BLOCK", block)
    rows, near, rank, alike = prepared(with_duplicates(120, 40, 3, 0.1, seed), clusters=6)
    before = rank[:, None] > rank[None, :]
    assert np.array_equal(cosine_to_earlier(rows, near, rank), np.where(before, alike, -1).max(axis=1))
    for threshold in (0.5, 0.95):
        kept = np.zeros(120, bool)
        nearest = np.full(120, -1, np.float32)
        for row in np.argsort(rank):
            nearest[row] = alike[row, kept].max(initial=-1)
            kept[row] = nearest[row] <= threshold
        assert np.array_equal(cosine_to_kept(rows, near, rank, threshold), nearest)
        links = cosine_that_links(rows, near, rank)
        joined = alike > threshold
        np.fill_diagonal(joined, True)
        for _ in range(7):  # paths of up to 128 rows
            joined = joined @ joined
        first = np.asarray([rank[row] == rank[joined[row]].min() for row in range(120)])
        assert np.array_equal(links <= threshold, first)


def test_a_chain_loses_its_far_end_only_where_the_mode_says_so() -> None:
    angle = np.radians([0.0, 20.0, 40.0, 180.0])
    chain = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    rows, near, _, _ = prepared(chain, clusters=1, probes=1)
    rank = np.arange(4)
    threshold = float(np.cos(np.radians(30)))
    assert (cosine_to_earlier(rows, near, rank) <= threshold).tolist() == [True, False, False, True]
    assert (cosine_to_kept(rows, near, rank, threshold) <= threshold).tolist() == [True, False, True, True]
    assert (cosine_that_links(rows, near, rank) <= threshold).tolist() == [True, False, False, True]


@pytest.mark.parametrize("mode", ["semdedup", "greedy_keep_first", "connected_component"])
@pytest.mark.parametrize("keep", ["hard", "easy", "random"])
def test_no_surviving_pair_of_a_neighbourhood_is_above_the_threshold(mode: Any, keep: Any) -> None:
    vectors = with_duplicates(400, 150, 8, 0.2)
    pool = Features.from_arrays(vectors=vectors)
    selector = Semdedup(mode=mode, keep=keep, eps=0.1, clusters=1)
    for amount in (1, 50, 200):
        kept = selector.select(pool, Budget(amount=amount)).indices
        alike = cosines(unit(vectors))[np.ix_(kept, kept)] - np.eye(amount, dtype=np.float32) * 2
        assert len(kept) == amount and alike.max() <= 0.9


@pytest.mark.parametrize("mode", ["semdedup", "greedy_keep_first", "connected_component"])
def test_exact_copies_collapse_to_one_and_come_last(mode: Any) -> None:
    distinct = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)
    pool = Features.from_arrays(vectors=np.repeat(distinct, [1, 2, 3] * 10, axis=0))
    groups = np.repeat(np.arange(30), [1, 2, 3] * 10)
    for eps in ("size", 1e-5, 0.3):
        kept = Semdedup(mode=mode, eps=eps).select(pool, Budget(amount=60)).indices  # type: ignore[arg-type]
        assert len(np.unique(groups[kept[:30]])) == 30


def test_of_two_duplicates_the_one_far_from_its_centroid_stays_if_hard_are_kept_and_the_near_one_if_easy() -> None:
    rows, near, _, _ = prepared(with_duplicates(300, 100, 6, 0.05))
    hard, easy = (precedence(near, keep, np.zeros(300)) for keep in ("hard", "easy"))  # type: ignore[arg-type]
    assert near.typical[np.argmin(hard)] == near.typical.min() and near.typical[np.argmin(easy)] == near.typical.max()
    pool = Features.from_arrays(vectors=with_duplicates(300, 100, 6, 0.05))
    means = [near.typical[Semdedup(keep=keep, eps=0.1).select(pool, Budget(amount=100)).indices].mean() for keep in ("hard", "easy")]  # type: ignore[arg-type]
    assert means[0] < means[1]


def test_two_probes_find_the_duplicates_that_brute_force_finds() -> None:
    vectors = with_duplicates(2000, 600, 16, 0.2, seed=3)
    pairs = np.triu(cosines(unit(vectors)) > 0.95, 1)
    recall = {probes: (pairs & seen(prepared(vectors, probes=probes)[1])).sum() / pairs.sum() for probes in (1, 2, 3)}
    assert pairs.sum() > 400 and recall[1] < 0.98 < recall[2] <= recall[3]


def test_a_duplicate_across_a_border_is_missed_by_one_probe_and_found_by_two() -> None:
    vectors = np.asarray([[1, 0], [1, 0.05], [0.71, 0.70], [0.70, 0.71], [0.05, 1], [0, 1]], np.float32)
    rows = unit(vectors)
    centroids = np.eye(2)
    near = np.argsort(-(rows @ centroids.T), axis=1)
    assert near[2, 0] != near[3, 0]
    for probes, found in ((1, False), (2, True)):
        level = cosine_to_earlier(rows, Neighbourhoods(near[:, :probes], np.zeros(6, np.float32)), np.arange(6))
        assert (level[3] > 0.99) == found


def test_sizes_are_quantiles_of_the_cosine_and_smaller_ones_are_prefixes() -> None:
    pool = Features.from_arrays(vectors=with_duplicates(300, 100, 6, 0.1))
    for mode in ("semdedup", "connected_component"):
        whole = Semdedup(mode=mode).select(pool, Budget(amount=300))  # type: ignore[arg-type]
        assert whole.gains is not None and (np.diff(whole.gains) <= 0).all()
        assert whole.prefix_consistent
        for amount in (1, 90, 250):
            part = Semdedup(mode=mode).select(pool, Budget(amount=amount))  # type: ignore[arg-type]
            assert part.indices.tolist() == whole.indices[:amount].tolist()
        curve = whole.curves["cosine_by_share"]
        assert len(curve) == 101 and curve[50] == pytest.approx(1 - whole.gains[149], abs=1e-6)
        assert set(whole.indices[:200]) >= {row for row in range(300) if (1 - whole.gains[whole.indices.tolist().index(row)]) < curve[60]}


def test_greedy_spares_rows_that_the_published_rule_removes() -> None:
    rows, near, rank, _ = prepared(with_duplicates(300, 150, 3, 0.3))
    for threshold in (0.8, 0.95):
        published = cosine_to_earlier(rows, near, rank) <= threshold
        greedy = cosine_to_kept(rows, near, rank, threshold) <= threshold
        linked = cosine_that_links(rows, near, rank) <= threshold
        assert (published <= greedy).all() and greedy.sum() > published.sum()
        assert linked.sum() <= published.sum() and (linked <= published).all()


def test_a_greedy_size_comes_from_the_threshold_that_leaves_it_by_the_published_rule() -> None:
    pool = Features.from_arrays(vectors=with_duplicates(150, 60, 4, 0.2))
    rows = unit(np.asarray(pool.vectors))
    near = Neighbourhoods(np.zeros((150, 1), np.int64), np.zeros(150, np.float32))
    rank = np.empty(150, np.int64)
    rank[np.argsort(uniform(0, "semdedup precedence", pool.ids))] = np.arange(150)
    for amount in (20, 100):
        threshold = float(np.sort(cosine_to_earlier(rows, near, rank))[amount - 1])
        level = cosine_to_kept(rows, near, rank, threshold)
        kept = Semdedup(mode="greedy_keep_first", keep="random", clusters=1).select(pool, Budget(amount=amount))
        assert (level <= threshold).sum() >= amount and not kept.prefix_consistent
        assert kept.indices.tolist() == np.argsort(level, kind="stable")[:amount].tolist()


def test_rows_that_survive_a_given_eps_come_first_in_random_order() -> None:
    pool = Features.from_arrays(vectors=with_duplicates(200, 80, 6, 0.05))
    one, other = (Semdedup(eps=0.05, clusters=1, keep="random").select(pool, Budget(amount=200), context=Context(seed=seed)) for seed in (0, 1))
    alike = cosines(unit(np.asarray(pool.vectors)))
    for chosen in (one, other):
        first = chosen.indices[:110]
        assert all(alike[i, j] <= 0.95 for i, j in combinations(first.tolist(), 2))
        assert chosen.gains is None and chosen.prefix_consistent
    assert set(one.indices[:50]) != set(other.indices[:50])


@pytest.mark.parametrize(
    "fields",
    [
        {"mode": "greedy_keep_first"},
        {"mode": "connected_component"},
        {"eps": 0.3},
        {"eps": 0.3, "mode": "greedy_keep_first", "keep": "easy"},
        {"eps": 0.2, "mode": "connected_component", "keep": "random", "probes": 1},
        {"clusters": 3, "probes": 5},
    ],
)
def test_other_fields_keep_the_contract(fields: dict[str, Any]) -> None:
    check_selector(Semdedup(**fields))


@pytest.mark.parametrize("fields", [{"eps": 0.0}, {"eps": 3.0}, {"clusters": 0}, {"probes": 0}, {"probes": 10**6}, {"mode": "other"}])
def test_absurd_fields_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Semdedup(**fields)
