"""Lists gathered from blocks are those of a stable sort of everything."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.nearest_lists import NearestLists


def gathered(alike: np.ndarray, depth: int, sizes: list[int]) -> list[tuple[list[int], list[float]]]:
    """The lists of the (N, M) matrix, shown in blocks of these sizes, the last one as long as it takes."""
    lists = NearestLists(alike.shape[1], depth)
    edges = [0, *(edge for edge in np.cumsum(sizes).tolist() if edge < len(alike)), len(alike)]
    for start, end in zip(edges[:-1], edges[1:], strict=True):
        lists.add(start, alike[start:end])
    return [(rows.tolist(), values.tolist()) for rows, values in lists.lists()]


def sorted_lists(alike: np.ndarray, depth: int) -> list[tuple[list[int], list[float]]]:
    found = []
    for column in alike.T:
        rows = [row for row in np.argsort(-column, kind="stable") if np.isfinite(column[row])][:depth]
        found.append(([int(row) for row in rows], column[rows].tolist()))
    return found


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    shape=st.tuples(st.integers(1, 60), st.integers(1, 5)),
    depth=st.integers(1, 70),
    sizes=st.lists(st.integers(1, 20), max_size=12),
    levels=st.integers(1, 40),
)
def test_blocks_of_any_sizes_give_the_lists_of_a_stable_sort(seed: int, shape: tuple[int, int], depth: int, sizes: list[int], levels: int) -> None:
    alike = np.random.default_rng(seed).integers(0, levels, size=shape).astype(np.float32)
    alike[alike == 0] = -np.inf
    assert gathered(alike, depth, sizes) == sorted_lists(alike, depth)


@pytest.mark.parametrize("turned", [1, -1])
def test_rows_that_come_ever_nearer_or_ever_farther_are_sorted_as_well(turned: int) -> None:
    alike = (turned * np.arange(500.0))[:, None] * np.array([1.0, -1.0])
    assert gathered(alike, 9, [16] * 40) == sorted_lists(alike, 9)


def test_a_buffer_holds_no_more_than_its_depth_and_a_block() -> None:
    lists = NearestLists(2, 5)
    for start in range(0, 8000, 16):
        lists.add(start, np.arange(start, start + 16)[:, None] * np.ones(2))
    assert lists._values.shape == (2, 5 + 16)
