"""A pool cut into parts: nothing lost, nothing held, the same cut for any order."""

import pickle
from typing import Any

import numpy as np
import pytest

from curate.core import Features
from curate.errors import DataError, NumericError
from curate.features import ShardedRows
from curate.masks.partitions import part, shares, shuffled_parts, unit_blocks


class Counted:
    """Rows on disk that count how many were read."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.shape, self.dtype, self.read = values, values.shape, values.dtype, 0

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, key: Any) -> np.ndarray:
        found = self.values[key]
        self.read += len(found)
        return np.asarray(found)


def pool(n: int) -> Features:
    return Features.from_arrays(vectors=np.random.default_rng(0).normal(size=(n, 3)), lengths=np.arange(n) + 1)


def test_parts_are_equal_disjoint_and_everything() -> None:
    parts = shuffled_parts(pool(103), 20, 0, "test")
    assert sorted(len(rows) for rows in parts) == [17, 17, 17, 17, 17, 18]
    assert sorted(np.concatenate(parts).tolist()) == list(range(103))
    assert len(shuffled_parts(pool(20), 20, 0, "test")) == 1


def test_a_row_s_part_hangs_on_its_id_and_the_seed() -> None:
    rows = pool(50)
    first, other = shuffled_parts(rows, 10, 0, "test"), shuffled_parts(rows, 10, 1, "test")
    assert all(np.array_equal(a, b) for a, b in zip(first, shuffled_parts(rows, 10, 0, "test"), strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    assert max(abs(float(part_rows.mean()) - 24.5) for part_rows in first) > 1  # not stripes


@pytest.mark.parametrize("capacity", [0, 1, 7, 500, 5356, 10**9])
def test_shares_sum_to_the_capacity_and_no_part_gets_more_than_it_can_spend(capacity: int) -> None:
    costs = np.arange(103) + 1
    parts = shuffled_parts(pool(103), 20, 0, "test")
    given = shares(capacity, costs, parts)
    assert sum(given) == min(capacity, int(costs.sum()))
    for share, rows in zip(given, parts, strict=True):
        assert 0 <= share <= costs[rows].sum() and abs(share - min(capacity, 5356) * costs[rows].sum() / 5356) < 1


def test_a_part_reads_its_rows_when_they_are_asked_for() -> None:
    vectors = Counted(np.random.default_rng(1).normal(size=(1000, 4)).astype(np.float32))
    own = part(Features(np.arange(1000).astype("U4"), np.ones(1000, np.int64), vectors), np.asarray([5, 900, 7]))
    assert vectors.read == 0 and len(own) == 3 and np.shape(own.vectors) == (3, 4)
    assert np.array_equal(np.asarray(own.vectors), vectors.values[[5, 900, 7]])
    assert vectors.read == 3


def test_a_part_takes_its_own_rows_along_to_another_process_and_no_others() -> None:
    values = np.random.default_rng(2).normal(size=(5000, 8)).astype(np.float32)
    rows = np.asarray([3, 4999, 12])
    for vectors in (values, ShardedRows.of([values[:3000], values[3000:]])):
        own = part(Features(np.arange(5000).astype("U4"), np.ones(5000, np.int64), vectors), rows)
        assert np.array_equal(np.asarray(own.vectors[:]), values[rows])
    sent = pickle.dumps(part(Features(np.arange(5000).astype("U4"), np.ones(5000, np.int64), values), rows))
    assert len(sent) < 2000 and np.array_equal(pickle.loads(sent).vectors, values[rows])


def test_blocks_are_unit_rows_in_the_order_asked_for() -> None:
    rows = pool(10_000)
    unit = np.asarray(rows.vectors) / np.linalg.norm(np.asarray(rows.vectors), axis=1, keepdims=True)
    assert np.allclose(np.concatenate(list(unit_blocks(rows))), unit, atol=1e-6)
    assert np.allclose(np.concatenate(list(unit_blocks(rows, np.asarray([9, 3, 9999])))), unit[[9, 3, 9999]], atol=1e-6)


def test_a_row_without_a_direction_is_named() -> None:
    vectors = np.ones((6, 2))
    vectors[4] = 0
    with pytest.raises(NumericError, match="row 4"):
        list(unit_blocks(Features.from_arrays(vectors=vectors), np.asarray([1, 4])))


def test_rows_without_vectors_are_refused() -> None:
    with pytest.raises(DataError, match="needs vectors"):
        list(unit_blocks(Features.from_arrays(scores=[1.0, 2.0])))
