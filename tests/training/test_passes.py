"""Padded passes against every partition of a few rows, and against the greedy ones."""

from collections.abc import Iterator

import numpy as np
import pytest

from curate.batches import micro_batches
from curate.training.passes import least_padding


def partitions(rows: list[int]) -> Iterator[list[list[int]]]:
    """Every way to part the rows into passes, of any rows whatever."""
    if not rows:
        yield []
        return
    first, *others = rows
    for partition in partitions(others):
        yield [[first], *partition]
        for place, part in enumerate(partition):
            yield [*partition[:place], [first, *part], *partition[place + 1 :]]


def costs(passes: list[list[int]], lengths: np.ndarray, capacity: int, start: int) -> int | None:
    """The padded tokens and starts, or None where a pass of several rows holds too much."""
    total = 0
    for rows in passes:
        padded = len(rows) * max(1, max(int(lengths[row]) for row in rows))
        if padded > capacity and len(rows) > 1:
            return None
        total += padded + start
    return total


@pytest.mark.parametrize("start", [0, 1, 7, 30])
@pytest.mark.parametrize("capacity", [1, 12, 25, 1000])
def test_no_partition_of_the_rows_costs_less(capacity: int, start: int) -> None:
    draw = np.random.default_rng(capacity * 31 + start)
    for _ in range(12):
        lengths = draw.integers(0, 14, draw.integers(1, 8))
        found = [rows.tolist() for rows in least_padding(lengths, capacity, start)]
        assert sorted(row for rows in found for row in rows) == list(range(len(lengths)))
        every = [(cost, len(passes)) for passes in partitions(list(range(len(lengths)))) if (cost := costs(passes, lengths, capacity, start)) is not None]
        assert (costs(found, lengths, capacity, start), len(found)) == min(every)


def test_a_full_batch_of_like_rows_is_one_pass_and_one_long_row_is_taken_out() -> None:
    alike = least_padding(np.full(16, 100), 4096, 32)
    assert len(alike) == 1
    odd = least_padding(np.array([60] * 15 + [400]), 1 << 20, 32)
    assert [rows.tolist() for rows in odd] == [[15], list(range(15))]


def test_never_more_than_the_greedy_passes_and_the_same_twice() -> None:
    draw = np.random.default_rng(4)
    for capacity in (256, 1024, 4096):
        lengths = np.minimum(draw.lognormal(4.4, 0.7, 200).astype(np.int64) + 1, 512)
        found = [rows.tolist() for rows in least_padding(lengths, capacity, 32)]
        greedy = [rows.tolist() for rows in micro_batches(lengths, capacity)]
        ours, before = costs(found, lengths, capacity, 32), costs(greedy, lengths, capacity, 32)
        assert ours is not None
        assert before is not None
        assert ours < before
        assert found == [rows.tolist() for rows in least_padding(lengths.copy(), capacity, 32)]


def test_no_rows_are_no_passes() -> None:
    assert least_padding(np.zeros(0, np.int64), 100, 32) == []
