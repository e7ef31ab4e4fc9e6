"""Shards on disk read as one array, and arms see only rows that every feature has."""

import mmap
import tracemalloc
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from curate.core import Artifact, Examples
from curate.errors import DataError, IntegrityError, NumericError
from curate.features import ShardedRows, map_tensors, open_features, shard_bytes
from curate.storage import Stored, encode, stored_rows
from curate.store import Store, Workspace

FORMATS: tuple[Stored, ...] = get_args(Stored)


def artifact(store: Path, name: str, parts: list[tuple[list[int], np.ndarray]], stored: Stored = "float32") -> Artifact:
    def make(workspace: Workspace) -> dict[str, object]:
        names = []
        for number, (rows, values) in enumerate(parts):
            names.append(f"shard-{number}.safetensors")
            workspace.commit(names[-1], shard_bytes(np.array(rows), values, stored), {"rows": len(rows), "quarantined": []})
        return {"shards": names}

    return Store(store).build("features", make, fields={"name": name, "stored": stored})


def examples(count: int) -> Examples:
    ids = np.array([f"id{i}" for i in range(count)])
    return Examples(ids, np.arange(1, count + 1), np.ones(count, np.int64), np.full(count, "g"), [])


def test_any_index_gives_what_the_concatenated_array_gives() -> None:
    parts = [np.arange(12.0).reshape(4, 3), np.zeros((0, 3)), np.arange(100.0, 106.0).reshape(2, 3)]
    whole, rows = np.concatenate(parts), ShardedRows.of(parts)
    assert rows.shape == (6, 3) and len(rows) == 6
    for key in (slice(None), slice(1, 5), slice(5, 0, -2), np.array([5, 0, 3, 3]), np.array([], np.int64), 4, -1):
        assert np.array_equal(rows[key], whole[key])
    assert np.array_equal(rows.take(np.array([5, 1]))[:], whole[[5, 1]])
    assert np.array_equal(np.asarray(rows), whole)


def test_a_shard_is_read_through_a_memory_map(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    (tmp_path / "shard").write_bytes(shard_bytes(np.array([2, 5, 7]), values))
    mapped = map_tensors(tmp_path / "shard")
    held: object = mapped["values"]
    while not isinstance(held, mmap.mmap):
        held = held.obj if isinstance(held, memoryview) else getattr(held, "base", None)
        assert held is not None and not isinstance(held, bytes)
    assert np.array_equal(mapped["values"], values) and mapped["rows"].tolist() == [2, 5, 7]


def test_an_arm_sees_the_rows_that_all_its_features_have(tmp_path: Path) -> None:
    vectors = artifact(tmp_path, "v", [([0, 1, 3], np.eye(3, dtype=np.float32)), ([4, 5], np.ones((2, 3), np.float32))])
    scores = artifact(tmp_path, "s", [([1, 2, 3], np.array([10, 20, 30], np.float32)), ([5], np.array([50], np.float32))])
    features, kept = open_features(examples(6), vectors, scores)
    assert kept.tolist() == [1, 3, 5]
    assert features.ids.tolist() == ["id1", "id3", "id5"] and features.lengths.tolist() == [2, 4, 6]
    assert features.scores is not None and features.scores.tolist() == [10, 30, 50]
    assert np.array_equal(features.vectors[:], [[0, 1, 0], [0, 0, 1], [1, 1, 1]])


def test_an_arm_may_see_similarities_to_the_target_beside_the_rest(tmp_path: Path) -> None:
    alike = np.arange(15, dtype=np.float32).reshape(5, 3)
    similarity = artifact(tmp_path, "m", [([0, 1], alike[:2]), ([2, 4, 5], alike[2:])])
    scores = artifact(tmp_path, "s", [([1, 2, 3, 5], np.array([10, 20, 30, 50], np.float32))])
    alone, kept = open_features(examples(6), similarity=similarity)
    assert kept.tolist() == [0, 1, 2, 4, 5] and np.array_equal(alone.similarity[:], alike)
    assert alone.vectors is None and alone.scores is None
    both, kept = open_features(examples(6), scores=scores, similarity=similarity)
    assert kept.tolist() == [1, 2, 5] and both.scores is not None and both.scores.tolist() == [10, 20, 50]
    assert both.similarity.shape == (3, 3) and np.array_equal(both.similarity[:], alike[[1, 2, 4]])
    both.check()


@pytest.mark.parametrize("stored", FORMATS)
@pytest.mark.parametrize("width", [5, 8, 13])
def test_shards_of_any_format_read_as_one_float32_array(stored: Stored, width: int, tmp_path: Path) -> None:
    values = np.random.default_rng(width).normal(size=(9, width)).astype(np.float32)
    numbers = [0, 2, 3, 5, 6, 7, 8, 10, 11]
    parts = [(numbers[:4], values[:4]), ([], values[:0]), (numbers[4:], values[4:])]
    vectors = open_features(examples(12), artifact(tmp_path, "v", parts, stored))[0].vectors
    whole = np.asarray(stored_rows(encode(values, stored))[:])
    assert vectors.shape == (9, width) and vectors.dtype == np.float32
    for key in (slice(None), slice(2, 7), slice(8, 0, -3), np.array([5, 0, 3, 3]), np.array([], np.int64), 4, -1):
        assert np.array_equal(vectors[key], whole[key]) and vectors[key].dtype == np.float32
    assert np.array_equal(vectors.take(np.array([7, 1]))[:], whole[[7, 1]])
    assert np.array_equal(np.asarray(vectors), whole)


@pytest.mark.parametrize("stored", FORMATS)
def test_an_arm_over_coded_features_gets_aligned_rows_in_blocks(stored: Stored, tmp_path: Path) -> None:
    values = np.random.default_rng(3).normal(size=(6, 7)).astype(np.float32)
    given = artifact(tmp_path, "v", [([0, 1, 3], values[:3]), ([4, 5, 7], values[3:])], stored)
    scores = artifact(tmp_path, "s", [([1, 2, 3, 7], np.arange(4, dtype=np.float32))])
    features, kept = open_features(examples(8), given, scores, similarity=given)
    whole = np.asarray(stored_rows(encode(values, stored))[:])[[1, 2, 5]]
    assert kept.tolist() == [1, 3, 7] and np.array_equal(features.similarity[:], whole)
    blocks = list(features.blocks(2))
    assert [start for start, _ in blocks] == [0, 2] and np.array_equal(np.concatenate([block for _, block in blocks]), whole)
    features.check()


@pytest.mark.parametrize("stored", FORMATS)
def test_opening_and_reading_a_few_rows_holds_no_more_than_these(stored: Stored, tmp_path: Path) -> None:
    values = np.random.default_rng(4).normal(size=(500, 2000)).astype(np.float32)
    given = artifact(tmp_path, "v", [(list(range(500)), values), (list(range(500, 1000)), values)], stored)
    pool = examples(1000)
    tracemalloc.start()
    vectors = open_features(pool, given)[0].vectors
    vectors[3], vectors[np.array([999, 2])], vectors[498:502]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 400_000  # all rows would be 8 MB


def test_a_shard_of_float32_holds_the_same_bytes_as_before_there_were_formats() -> None:
    from safetensors.numpy import save

    rows, values = np.array([2, 5, 7]), np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    assert shard_bytes(rows, values) == save({"rows": rows, "values": values})


def test_a_row_that_its_format_cannot_hold_is_named_by_its_place_among_the_examples() -> None:
    with pytest.raises(NumericError, match="^row 257 reaches 100000, beyond float16"):
        shard_bytes(np.array([256, 257]), np.array([[1, 2], [1e5, 0]], np.float32), "float16")


def test_features_without_a_common_row_are_refused(tmp_path: Path) -> None:
    vectors = artifact(tmp_path, "v", [([0], np.ones((1, 3), np.float32))])
    scores = artifact(tmp_path, "s", [([1], np.ones(1, np.float32))])
    with pytest.raises(DataError, match="no row has usable features"):
        open_features(examples(2), vectors, scores)


def test_a_row_that_is_there_twice_or_out_of_its_place_is_refused_before_anything_is_selected(tmp_path: Path) -> None:
    for name, second in (("twice", [1, 2]), ("back", [0])):
        scores = artifact(tmp_path, name, [([0, 1], np.ones(2, np.float32)), (second, np.ones(len(second), np.float32))])
        with pytest.raises(IntegrityError, match=f"rows do not reconcile: row {second[0]} comes after row 1"):
            open_features(examples(4), None, scores)
