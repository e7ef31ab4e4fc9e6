"""Best-fit decreasing: nothing lost, nothing too full, the definition's packs, and close to the fewest."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.training.packs import best_fit_decreasing

CAPACITY = 12
SMALL = st.lists(st.integers(1, CAPACITY + 3), max_size=9)


def by_definition(lengths: list[int], capacity: int) -> list[list[int]]:
    """Every pack is tried for every row."""
    packs: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        rests = [capacity - sum(lengths[i] for i in pack) for pack in packs]
        fitting = [(rest, pack) for pack, rest in enumerate(rests) if lengths[row] <= rest]
        if fitting:
            packs[min(fitting)[1]].append(row)
        else:
            packs.append([row])
    return packs


def fewest(lengths: list[int], capacity: int) -> int:
    """The fewest packs, by search: a longest row, and every set of rows that could share its pack."""
    if not lengths:
        return 0
    first, rest = lengths[0], lengths[1:]
    best = 1 + fewest(rest, capacity)
    for size in range(1, len(rest) + 1):
        for chosen in combinations(range(len(rest)), size):
            if first + sum(rest[i] for i in chosen) <= capacity:
                best = min(best, 1 + fewest([length for i, length in enumerate(rest) if i not in chosen], capacity))
    return best


@given(SMALL)
def test_packs_are_those_of_the_definition(lengths: list[int]) -> None:
    packs = best_fit_decreasing(np.array(lengths, np.int64), CAPACITY)
    assert [pack.tolist() for pack in packs] == by_definition(lengths, CAPACITY)


@given(st.lists(st.integers(0, 90), max_size=60), st.integers(1, 60))
def test_every_row_is_in_one_pack_and_no_pack_of_several_rows_is_too_full(lengths: list[int], capacity: int) -> None:
    packs = best_fit_decreasing(np.array(lengths, np.int64), capacity)
    assert sorted(row for pack in packs for row in pack) == list(range(len(lengths)))
    assert all(sum(lengths[row] for row in pack) <= capacity or len(pack) == 1 for pack in packs)
    assert all(pack.dtype == np.int64 for pack in packs)


@given(st.lists(st.integers(1, CAPACITY), max_size=8))
def test_there_are_at_most_eleven_ninths_of_the_fewest_packs_plus_one(lengths: list[int]) -> None:
    assert len(best_fit_decreasing(np.array(lengths, np.int64), CAPACITY)) <= 11 / 9 * fewest(sorted(lengths, reverse=True), CAPACITY) + 1


def test_a_row_longer_than_the_capacity_is_alone() -> None:
    assert [pack.tolist() for pack in best_fit_decreasing(np.array([3, 20, 9, 12, 0]), 12)] == [[1], [3, 4], [2, 0]]


@pytest.mark.parametrize("seed", [0, 1])
def test_a_large_pool_is_packed_as_the_definition_packs_it(seed: int) -> None:
    lengths = np.random.Generator(np.random.Philox(seed)).integers(1, 300, 600)
    assert [pack.tolist() for pack in best_fit_decreasing(lengths, 512)] == by_definition(lengths.tolist(), 512)
