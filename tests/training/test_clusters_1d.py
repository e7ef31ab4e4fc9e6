"""1-D k-means is exact: no partition of the values costs less."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from curate.core import Integers
from curate.errors import DataError, NumericError
from curate.training.clusters_1d import groups_1d

VALUES = st.lists(st.integers(-12, 12).map(lambda eighths: eighths / 8), min_size=1, max_size=10)


def cost(values: NDArray[np.float64], labels: Integers) -> float:
    """The sum of squared distances from the group means, from its definition."""
    return sum(float(((values[labels == label] - values[labels == label].mean()) ** 2).sum()) for label in np.unique(labels))


def intervals(n: int, groups: int) -> Iterator[Integers]:
    """The labels of all ways to cut n ordered values into at most so many intervals."""
    for cuts in itertools.combinations_with_replacement(range(n + 1), groups - 1):
        yield np.searchsorted(np.array(cuts, np.int64), np.arange(n), side="right")


def quadratic(values: NDArray[np.float64], groups: int) -> float:
    """The least cost by the textbook recursion over all starts of the last group."""
    ordered, n = np.sort(values), len(values)
    spread = np.array([[((ordered[i:j] - ordered[i:j].mean()) ** 2).sum() if i < j else 0.0 for j in range(n + 1)] for i in range(n + 1)])
    best = spread[0]
    for _ in range(groups - 1):
        best = np.array([min(best[i] + spread[i, j] for i in range(j + 1)) for j in range(n + 1)])
    return float(best[-1])


@given(VALUES, st.integers(1, 5))
def test_no_cut_into_intervals_costs_less(values: list[float], groups: int) -> None:
    ordered = np.sort(np.array(values))
    least = min(cost(ordered, labels) for labels in intervals(len(ordered), groups))
    assert cost(ordered, groups_1d(ordered, groups)) == pytest.approx(least, abs=1e-12)


@given(st.lists(st.floats(0, 20, width=32), min_size=1, max_size=6), st.integers(1, 3))
def test_no_labelling_at_all_costs_less(values: list[float], groups: int) -> None:
    array = np.array(values)
    least = min(cost(array, np.array(labels)) for labels in itertools.product(range(groups), repeat=len(values)))
    assert cost(array, groups_1d(array, groups)) <= least + 1e-12 * float((array**2).sum())


@pytest.mark.parametrize(("n", "groups"), [(61, 2), (64, 3), (65, 7), (97, 10), (97, 40)])
def test_divide_and_conquer_finds_what_the_quadratic_recursion_finds(n: int, groups: int) -> None:
    values = np.random.Generator(np.random.Philox(n * groups)).lognormal(size=n)
    assert cost(values, groups_1d(values, groups)) == pytest.approx(quadratic(values, groups), rel=1e-10)


def test_kmeans_of_scikit_learn_never_costs_less() -> None:
    from sklearn.cluster import KMeans

    for seed in range(3):
        values = np.random.Generator(np.random.Philox(seed)).gamma(2.0, size=800)
        theirs = KMeans(8, n_init=2, random_state=seed).fit(values[:, None]).inertia_
        assert cost(values, groups_1d(values, 8)) <= theirs * (1 + 1e-12)


@given(VALUES, st.integers(1, 12))
def test_groups_ascend_hold_equal_values_together_and_do_not_hang_on_the_order(values: list[float], groups: int) -> None:
    array = np.array(values)
    labels = groups_1d(array, groups)
    assert np.unique(labels).tolist() == list(range(min(groups, len(set(values)))))
    order = np.argsort(array, kind="stable")
    assert (np.diff(labels[order]) >= 0).all()
    assert all(len(set(labels[array == value])) == 1 for value in array)
    mixed = np.random.Generator(np.random.Philox(len(values))).permutation(len(values))
    assert np.array_equal(groups_1d(array[mixed], groups), labels[mixed])


def test_as_many_groups_as_values_are_alone_and_one_group_holds_all() -> None:
    assert groups_1d(np.array([3.0, 1.0, 2.0]), 3).tolist() == [2, 0, 1]
    assert groups_1d(np.array([3.0, 1.0, 2.0]), 9).tolist() == [2, 0, 1]
    assert groups_1d(np.array([3.0, 1.0, 2.0]), 1).tolist() == [0, 0, 0]
    assert groups_1d(np.zeros(0), 3).tolist() == []


def test_many_copies_of_a_value_weigh_as_many() -> None:
    assert groups_1d(np.array([0.0, 1.0, 2.5]), 2).tolist() == [0, 0, 1]
    assert groups_1d(np.array([0.0] * 100 + [1.0] * 10 + [2.5]), 2).tolist() == [0] * 100 + [1] * 11


def test_of_equal_partitions_the_upper_group_reaches_lowest() -> None:
    assert groups_1d(np.array([0.0, 1.0, 2.0]), 2).tolist() == [0, 1, 1]
    assert groups_1d(np.array([0.0, 1.0, 2.0, 3.0, 4.0]), 4).tolist() == [0, 1, 2, 3, 3]
    assert groups_1d(np.array([0.0, 1.0, 2.0, 3.0, 4.0]), 3).tolist() == [0, 1, 1, 2, 2]


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
@pytest.mark.parametrize("shift", [0.0, 1e6])
def test_unit_and_origin_change_nothing(scale: float, shift: float) -> None:
    values = np.random.Generator(np.random.Philox(5)).normal(size=200)
    assert np.array_equal(groups_1d((values + shift) * scale, 6), groups_1d(values, 6))


def test_an_outlier_is_a_group_of_its_own() -> None:
    values = np.append(np.linspace(0, 1, 3000), 1e4).astype(np.float32)
    labels = groups_1d(values, 3)
    assert np.bincount(labels).tolist() == [1500, 1500, 1]


def test_what_cannot_be_grouped_is_refused_in_one_line() -> None:
    with pytest.raises(DataError, match="0 groups; ask for at least one"):
        groups_1d(np.ones(3), 0)
    with pytest.raises(NumericError, match="value 1 is not finite"):
        groups_1d(np.array([1.0, np.nan, np.inf]), 2)
