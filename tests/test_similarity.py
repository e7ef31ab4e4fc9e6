"""Similarities, sorted lists and nearest neighbours against float64 brute force."""

from dataclasses import replace

import numpy as np
import pytest

from curate import similarity as service
from curate.core import Features
from curate.errors import DataError, NumericError
from curate.order import best_first, by_id
from curate.similarity import Rankings, Similarities, similarity, unit_rows
from curate.submodular import neighbours
from curate.submodular.neighbours import exact_neighbours
from curate.testing.selection import OnDisk


def rows(n: int, width: int = 5, seed: int = 0) -> Features:
    return Features.from_arrays(vectors=np.random.default_rng(seed).normal(size=(n, width)))


def cosines(a: Features, b: Features) -> np.ndarray:
    left, right = np.asarray(a.vectors, np.float64), np.asarray(b.vectors, np.float64)
    return (left @ right.T) / np.outer(np.linalg.norm(left, axis=1), np.linalg.norm(right, axis=1))


def test_similarity_is_the_cosine_or_the_inner_product_of_target_and_pool() -> None:
    pool, target = rows(50), rows(4, seed=1)
    assert np.allclose(similarity(pool, target), cosines(target, pool), atol=1e-6)
    assert np.allclose(similarity(pool, target, metric="inner"), np.asarray(target.vectors) @ np.asarray(pool.vectors).T, atol=1e-5)


def test_the_size_of_a_block_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, target = rows(300, 33), rows(4, 33, seed=1)
    monkeypatch.setattr(neighbours, "_faiss", lambda: None)
    whole = similarity(pool, target), exact_neighbours(unit_rows(pool), 7)
    for module in (service, neighbours):
        monkeypatch.setattr(module, "_BLOCK", 17)
    assert np.array_equal(similarity(pool, target), whole[0])
    assert np.array_equal(exact_neighbours(unit_rows(pool), 7)[0], whole[1][0])


@pytest.mark.parametrize(("block", "entries"), [(1, 1 << 21), (7, 1 << 21), (2048, 12), (2048, 1)])
def test_blocks_of_any_size_hold_what_the_whole_matrix_does(monkeypatch: pytest.MonkeyPatch, block: int, entries: int) -> None:
    pool, target = rows(53, 6), rows(4, 6, seed=1)
    whole = similarity(pool, target)
    given = Features(pool.ids, pool.lengths, similarity=OnDisk(whole.T.astype(np.float16)))
    monkeypatch.setattr(service, "_BLOCK", block)
    monkeypatch.setattr(service, "_ENTRIES", entries)
    for alike, wanted in ((Similarities(pool, target), whole), (Similarities(given, target), whole.astype(np.float16))):
        for _ in range(2):
            found = list(alike.blocks())
            assert max(len(values) for _, values in found) <= max(1, min(block, entries // 4))
            assert [start for start, _ in found] == np.cumsum([0, *(len(values) for _, values in found[:-1])]).tolist()
            assert np.array_equal(np.concatenate([values for _, values in found]), wanted.T)
        assert alike.shape == (53, 4)


def test_inner_products_that_float32_cannot_hold_are_refused_by_name() -> None:
    pool = Features.from_arrays(vectors=[[1.0, 1.0], [1e30, 1.0]], ids=["a", "huge"])
    with pytest.raises(NumericError, match="row huge"):
        similarity(pool, Features.from_arrays(vectors=[[1e30, 0.0]]), metric="inner")
    assert np.isfinite(similarity(pool, Features.from_arrays(vectors=[[1e30, 0.0]]))).all()


def test_a_given_similarity_is_used_and_follows_the_ids_of_the_target() -> None:
    given = np.asarray([[1.0, 2.0], [3.0, 4.0]])
    pool = Features.from_arrays(similarity=given)
    assert similarity(pool, None).tolist() == [[1.0, 3.0], [2.0, 4.0]]
    assert similarity(pool, Features.from_arrays(ids=["z", "a"])).tolist() == [[2.0, 4.0], [1.0, 3.0]]
    with pytest.raises(DataError, match="3 columns"):
        similarity(pool, rows(3))


def test_what_cannot_be_compared_is_refused_by_name() -> None:
    with pytest.raises(DataError, match="target"):
        similarity(rows(3), None)
    with pytest.raises(DataError, match="width 5, target vectors 6"):
        similarity(rows(3), rows(2, 6))
    vectors = np.ones((3, 2))
    vectors[1] = 0
    with pytest.raises(NumericError, match="row bad"):
        unit_rows(Features.from_arrays(vectors=vectors, ids=["a", "bad", "c"]))


def test_rankings_are_a_stable_sort_however_they_grow() -> None:
    alike = np.random.default_rng(0).integers(0, 5, size=(3, 60)).astype(np.float32)
    expected = np.stack([np.argsort(-row, kind="stable") for row in alike])
    lists = Rankings(alike, 2)
    for depth in (1, 3, 20, 60, 90):
        held = lists.upto(depth)
        assert held.shape[1] >= min(depth, 60)
        assert np.array_equal(held, expected[:, : held.shape[1]])


@pytest.mark.parametrize("backend", ["numpy", "faiss"])
def test_nearest_neighbours_are_those_of_brute_force_even_among_copies(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if backend == "faiss":
        pytest.importorskip("faiss")
    else:
        monkeypatch.setattr(neighbours, "_faiss", lambda: None)
    vectors = np.random.default_rng(3).normal(size=(80, 6))
    vectors[20:60] = vectors[20]
    unit = unit_rows(Features.from_arrays(vectors=vectors))
    near, cosine = exact_neighbours(unit, 9)
    wide = unit.astype(np.float64)
    exact = np.einsum("id,jd->ij", wide, wide)
    assert np.array_equal(near, np.stack([np.argsort(-np.round(row, 12), kind="stable")[:9] for row in exact]))
    assert np.allclose(cosine, np.take_along_axis(exact, near.astype(np.int64), axis=1))


def test_best_first_is_a_stable_descending_sort() -> None:
    values = np.random.default_rng(0).integers(0, 4, 50).astype(float)
    for count in (0, 1, 7, 50, 60, None):
        assert best_first(values, count).tolist() == np.argsort(-values, kind="stable")[:count].tolist()


def test_a_pool_in_the_order_of_its_ids_is_handed_on_without_a_copy() -> None:
    pool = Features(np.asarray(["a", "b", "c"]), np.ones(3, np.int64), vectors=OnDisk(np.eye(3)))
    order, same = by_id(pool)
    assert same is pool and order.tolist() == [0, 1, 2]


def test_sorting_by_id_moves_every_array_together() -> None:
    pool = Features.from_arrays(scores=[1.0, 2.0, 3.0], ids=["c", "a", "b"], lengths=[10, 20, 30])
    order, moved = by_id(pool)
    assert moved.ids.tolist() == ["a", "b", "c"]
    assert pool.ids[order].tolist() == moved.ids.tolist()
    assert moved.scores is not None and moved.scores.tolist() == [2.0, 3.0, 1.0]
    assert moved.lengths.tolist() == [20, 30, 10]


def test_vectors_are_compared_as_they_are_meant_unless_a_metric_is_given() -> None:
    rng = np.random.default_rng(3)
    pool = Features.from_arrays(vectors=rng.normal(size=(5, 3)))
    goal = Features.from_arrays(vectors=rng.normal(size=(2, 3)))
    dots = np.asarray(goal.vectors) @ np.asarray(pool.vectors).T
    lengths = np.linalg.norm(goal.vectors, axis=1)[:, None] * np.linalg.norm(pool.vectors, axis=1)
    meant = replace(pool, metric="inner")
    np.testing.assert_allclose(similarity(meant, goal), dots, rtol=1e-6)
    np.testing.assert_allclose(similarity(pool, goal), dots / lengths, rtol=1e-6)
    np.testing.assert_allclose(similarity(meant, goal, metric="cosine"), dots / lengths, rtol=1e-6)
