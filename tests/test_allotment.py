"""Budgets of cells, against every way to spend them."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.allotment import Limit, allot
from curate.errors import DataError

CELLS, CAPACITY = 4, 7


def quotas(bounds: list[tuple[int, int]]) -> list[Limit]:
    """Over the rows and the columns of a 2 x 2 table of cells."""
    sets = [[0, 1], [2, 3], [0, 2], [1, 3]]
    made = []
    for number, (members, (low, high)) in enumerate(zip(sets, bounds, strict=True)):
        cells = np.zeros(CELLS, np.bool_)
        cells[members] = True
        made.append(Limit(f"kind={number}", cells, low, high))
    return made


def feasible(spent: tuple[int, ...], limits: list[Limit]) -> bool:
    return sum(spent) <= CAPACITY and all(limit.low <= np.array(spent)[limit.cells].sum() <= limit.high for limit in limits)


@settings(max_examples=60, deadline=None)
@given(
    held=st.lists(st.integers(0, 5), min_size=CELLS, max_size=CELLS),
    own=st.lists(st.integers(0, 5), min_size=CELLS, max_size=CELLS),
    bounds=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 7)), min_size=CELLS, max_size=CELLS),
)
def test_an_allotment_spends_the_most_and_changes_the_least_of_all_that_keep_the_quotas(
    held: list[int], own: list[int], bounds: list[tuple[int, int]]
) -> None:
    own = [min(a, b) for a, b in zip(own, held, strict=True)]
    limits = quotas([(low, max(low, high)) for low, high in bounds])
    ways = [spent for spent in itertools.product(*(range(most + 1) for most in held)) if feasible(spent, limits)]
    arguments = (np.array(held, float), np.array(own, float), limits, float(CAPACITY))
    if not ways:
        with pytest.raises(DataError, match="rules.quotas: "):
            allot(*arguments, unit="rows", whole=True)
        return
    found = allot(*arguments, unit="rows", whole=True)
    assert feasible(tuple(found.astype(int)), limits)
    total = max(map(sum, ways))
    assert found.sum() == total
    moved = min(sum(abs(a - b) for a, b in zip(spent, own, strict=True)) for spent in ways if sum(spent) == total)
    assert np.abs(found - own).sum() == moved


def test_what_cannot_hold_is_named_with_how_much_is_missing() -> None:
    held, own = np.array([3.0, 1.0]), np.array([2.0, 1.0])
    first, second = np.array([True, False]), np.array([False, True])
    with pytest.raises(DataError, match="at least 2 rows of language=de are asked for, but the pool has 1"):
        allot(held, own, [Limit("language=de", second, 2, np.inf)], 4, unit="rows", whole=True)
    both = [Limit("language=de", second, 1, np.inf), Limit("language=en", first, 3, np.inf)]
    with pytest.raises(DataError, match="cannot all hold within 3 rows .language=de 1, language=en 3.; .* falls short by 1"):
        allot(held, own, both, 3, unit="rows", whole=True)
