"""Shards on disk read as one array, and arms see only rows that every feature has."""

from pathlib import Path

import numpy as np
import pytest

from curate.core import Artifact, Examples
from curate.errors import DataError
from curate.features import ShardedRows, map_tensors, open_features, shard_bytes
from curate.store import Store, Workspace


def artifact(store: Path, name: str, parts: list[tuple[list[int], np.ndarray]]) -> Artifact:
    def make(workspace: Workspace) -> dict[str, object]:
        names = []
        for number, (rows, values) in enumerate(parts):
            names.append(f"shard-{number}.safetensors")
            workspace.commit(names[-1], shard_bytes(np.array(rows), values), {"rows": len(rows), "quarantined": []})
        return {"shards": names}

    return Store(store).build("features", make, fields={"name": name})


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
    assert isinstance(mapped["values"], np.memmap)
    assert np.array_equal(mapped["values"], values) and mapped["rows"].tolist() == [2, 5, 7]


def test_an_arm_sees_the_rows_that_all_its_features_have(tmp_path: Path) -> None:
    vectors = artifact(tmp_path, "v", [([0, 1, 3], np.eye(3, dtype=np.float32)), ([4, 5], np.ones((2, 3), np.float32))])
    scores = artifact(tmp_path, "s", [([1, 2, 3], np.array([10, 20, 30], np.float32)), ([5], np.array([50], np.float32))])
    features, kept = open_features(examples(6), vectors, scores)
    assert kept.tolist() == [1, 3, 5]
    assert features.ids.tolist() == ["id1", "id3", "id5"] and features.lengths.tolist() == [2, 4, 6]
    assert features.scores is not None and features.scores.tolist() == [10, 30, 50]
    assert np.array_equal(features.vectors[:], [[0, 1, 0], [0, 0, 1], [1, 1, 1]])


def test_features_without_a_common_row_are_refused(tmp_path: Path) -> None:
    vectors = artifact(tmp_path, "v", [([0], np.ones((1, 3), np.float32))])
    scores = artifact(tmp_path, "s", [([1], np.ones(1, np.float32))])
    with pytest.raises(DataError, match="no row has usable features"):
        open_features(examples(2), vectors, scores)
