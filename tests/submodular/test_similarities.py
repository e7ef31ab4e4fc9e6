"""Neighbours are those of brute force or a measured share of them, and the graph reads the same by row and by column."""

import importlib.util
from typing import Any

import numpy as np
import pytest

from curate.core import Budget, Features
from curate.errors import ConfigError
from curate.selectors.facility_location import FacilityLocation
from curate.submodular import neighbours
from curate.submodular.graph import Graph
from curate.submodular.kernel import Tiles, blocks
from curate.submodular.neighbours import exact_neighbours, neighbour_graph


def unit(n: int, seed: int = 0, width: int = 8) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(6, width))[rng.integers(6, size=n)] + 0.7 * rng.normal(size=(n, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("search", [neighbours._on_cpu, lambda rows: neighbours._on_device(rows, "cpu"), None])
def test_exact_neighbours_are_those_of_brute_force_even_among_copies(search: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if search is None:
        monkeypatch.setattr(neighbours, "_faiss", lambda: None)
    monkeypatch.setattr(neighbours, "_BLOCK", 30)
    monkeypatch.setattr(neighbours, "_PART", 7)
    rows = unit(200)
    rows[50:90] = rows[50]
    near, cosines = exact_neighbours(rows, 12, (search or neighbours._on_cpu)(rows))
    wide = rows.astype(np.float64)
    exact = np.einsum("id,jd->ij", wide, wide)
    assert np.array_equal(near, np.argsort(-np.round(exact, 12), axis=1, kind="stable")[:, :12])
    assert np.allclose(cosines, np.take_along_axis(exact, near.astype(np.int64), axis=1), atol=1e-12)


def test_a_pool_smaller_than_the_number_of_neighbours_has_itself() -> None:
    graph = neighbour_graph(unit(5), 64, exact_limit=10, recall=0.9)
    assert graph.near.shape == (5, 5) and graph.details == {"neighbours": 5.0, "recall": 1.0}


def test_approximate_neighbours_reach_the_recall_that_they_report() -> None:
    pytest.importorskip("faiss")
    rows = unit(4000)
    true = neighbour_graph(rows, 16, exact_limit=4000, recall=0.9)
    for wanted in (0.5, 0.9, 1.0):
        found = neighbour_graph(rows, 16, exact_limit=0, recall=wanted)
        reached = np.mean([len(np.intersect1d(a, b)) / 16 for a, b in zip(found.near, true.near, strict=True)])
        assert found.recall >= wanted
        assert reached == pytest.approx(found.recall, abs=0.03)
    again = neighbour_graph(rows, 16, exact_limit=0, recall=1.0)
    assert np.array_equal(again.near, found.near)


def test_a_row_whose_cells_hold_too_few_rows_has_neighbours_without_weight() -> None:
    pytest.importorskip("faiss")
    found = neighbour_graph(unit(200), 150, exact_limit=0, recall=0.1)
    absent = found.alike == 0
    assert absent.any() and (found.near[absent] == 0).all() and (found.near >= 0).all()


def test_the_recall_is_in_the_certificate() -> None:
    pytest.importorskip("faiss")
    rows = Features.from_arrays(vectors=unit(1500))
    fields = {"similarity": "neighbours", "neighbours": 8, "exact_limit": 100, "recall": 0.6}
    certificate = FacilityLocation(**fields).select(rows, Budget(amount=20)).certificate  # type: ignore[arg-type]
    assert certificate is not None and 0.6 <= certificate.details["recall"] < 1.0


def test_an_approximate_search_without_faiss_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"install curate\[cpu\], or raise exact_limit"):
        neighbour_graph(unit(50), 4, exact_limit=10, recall=0.9)


def test_nothing_of_the_size_of_the_matrix_is_held_by_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    from curate.submodular import kernel

    monkeypatch.setattr(kernel, "_ENTRIES", 1000)
    read = [len(block) for _, block in blocks(Tiles(unit(100)), np.arange(100))]
    assert max(read) * 100 <= 1000 and sum(read) == 100


def test_tiles_are_the_matrix() -> None:
    alike = np.asarray(unit(60), np.float64) @ unit(60).T
    for threshold in (None, 0.5, 1.0):
        tiles = Tiles(unit(60), threshold)
        whole = tiles.whole().alike
        assert np.array_equal(np.diag(whole), np.ones(60)) and np.allclose(whole, whole.T, atol=1e-6)
        some = np.asarray([3, 50, 7])
        assert np.allclose(tiles.rows(some), whole[some], atol=1e-6)
        assert Tiles(np.float32(0.999) * unit(60), threshold).rows(some)[np.arange(3), some].tolist() == [1, 1, 1]  # rounding left them short of one
        assert np.allclose(whole, alike >= threshold - 1e-6 if threshold else (1 + alike) / 2, atol=1e-6)


def test_a_graph_reads_the_same_by_column_as_by_row() -> None:
    rng = np.random.default_rng(0)
    near = np.stack([rng.permutation(30)[:4] for _ in range(30)]).astype(np.int32)
    graph = Graph(near, rng.random((30, 4)))
    whole = np.zeros((30, 30))
    np.put_along_axis(whole, near.astype(np.int64), graph.alike, axis=1)
    for rows in ([3], [1, 2, 9], [29, 0], list(range(30)), []):
        served, alike, starts = graph.served(np.asarray(rows, np.int64))
        assert graph.sums(alike, starts) == pytest.approx(whole[:, rows].sum(axis=0))
        assert sorted(served.tolist()) == sorted(np.nonzero(whole[:, rows])[0].tolist())


@pytest.mark.gpu
def test_neighbours_searched_on_a_gpu_are_those_of_the_cpu() -> None:
    rows = unit(3000, width=32)
    rows[500:540] = rows[500]
    here, there = (neighbour_graph(rows, 16, exact_limit=3000, recall=0.9, device=device) for device in ("cpu", "cuda"))
    assert np.array_equal(here.near, there.near)
    assert np.allclose(here.alike, there.alike, atol=1e-12)
