"""Every objective is its formula, whatever is added and taken away, and has the properties that its guarantees rest on."""

from copy import copy
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.submodular.log_determinant import LogDeterminant
from tests.submodular.oracles import MONOTONE, NAMES, SUBMODULAR, Case, cases, unit, volume

N = 14
CLOSE = 2e-5  # float32 similarities, summed over the pool


@lru_cache(maxsize=4)
def made(seed: int) -> dict[str, Case]:
    return cases(N, seed)


def gains(case: Case, kept: list[int]) -> np.ndarray:
    """(N,) by the formula; 0 for kept rows."""
    return np.asarray([0.0 if row in kept else case.value([*kept, row]) - case.value(kept) for row in range(N)])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(3))
def test_values_gains_and_upper_bounds_are_those_of_the_formula_after_every_step(name: str, seed: int) -> None:
    case, objective = made(seed)[name], made(seed)[name].objective
    rng = np.random.default_rng(seed)
    objective.reset()
    kept: list[int] = []
    for step in range(24):
        if kept and (step % 4 == 3 or len(kept) > N - 3):
            kept.remove(out := int(rng.choice(kept)))
            objective.drop(out)
        else:
            kept.append(new := int(rng.choice(np.setdiff1d(np.arange(N), kept))))
            objective.add(new)
        others = np.setdiff1d(np.arange(N), kept)
        expected = gains(case, kept)
        assert objective.value == pytest.approx(case.value(kept), abs=CLOSE)
        assert objective.gains(others) == pytest.approx(expected[others], abs=CLOSE)
        assert objective.gains(others[2:3]) == pytest.approx(expected[others[2:3]], abs=CLOSE)
        assert (objective.upper(others) >= objective.gains(others) - 1e-9).all()
        assert (objective.upper()[others] == objective.upper(others)).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_definition_agrees_with_the_formula_and_ignores_what_was_added(name: str) -> None:
    case, objective = made(1)[name], made(1)[name].objective
    objective.reset()
    objective.add(3)
    sets = [[], [5], [2, 9, 3], list(range(N))]
    for kept, (value, found) in zip(sets, objective.after([np.asarray(rows, np.int64) for rows in sets]), strict=True):
        assert value == pytest.approx(case.value(kept), abs=CLOSE)
        assert found == pytest.approx(gains(case, kept), abs=CLOSE)
        assert objective.value_of(np.asarray(kept, np.int64)) == pytest.approx(case.value(kept), abs=CLOSE)
    assert objective.value == pytest.approx(case.value([3]), abs=CLOSE)


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_that_is_reset_has_a_set_of_its_own(name: str) -> None:
    case, objective = made(2)[name], made(2)[name].objective
    objective.reset()
    objective.add(1)
    other = copy(objective)
    other.reset()
    other.add(4)
    other.add(5)
    assert objective.value == pytest.approx(case.value([1]), abs=CLOSE)
    assert other.value == pytest.approx(case.value([4, 5]), abs=CLOSE)
    objective.add(7)
    assert objective.gains(np.asarray([9])) == pytest.approx(gains(case, [1, 7])[[9]], abs=CLOSE)
    assert other.gains(np.asarray([9])) == pytest.approx(gains(case, [4, 5])[[9]], abs=CLOSE)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(NAMES), st.integers(0, 3), st.lists(st.integers(0, N - 1), unique=True, max_size=9), st.integers(0, 9), st.integers(0, N - 1))
def test_gains_shrink_as_the_set_grows_and_are_not_negative(name: str, seed: int, larger: list[int], cut: int, row: int) -> None:
    case, objective = made(seed)[name], made(seed)[name].objective
    smaller = larger[: min(cut, len(larger))]
    found = []
    for kept in (smaller, larger):
        objective.reset()
        for member in kept:
            objective.add(member)
        found.append(0.0 if row in kept else float(objective.gains(np.asarray([row]))[0]))
        assert found[-1] == pytest.approx(gains(case, kept)[row], abs=CLOSE)
    if name in SUBMODULAR and row not in larger:
        assert found[0] >= found[1] - CLOSE
    if name in MONOTONE:
        assert objective.monotone(N) and min(found) >= -CLOSE
    assert objective.submodular == (name in SUBMODULAR)


def test_graph_cut_says_up_to_which_size_no_row_lowers_it() -> None:
    case = made(0)["graph cut, not monotone"]
    size = max(size for size in range(1, N + 1) if case.objective.monotone(size))
    assert 1 <= size < N
    rng = np.random.default_rng(0)
    for _ in range(300):
        kept = rng.permutation(N)[: rng.integers(size)].tolist()
        assert gains(case, kept).min() >= -CLOSE
    assert gains(case, list(range(N - 1))).min() < 0


def test_the_information_about_a_target_is_not_submodular_so_no_bound_may_say_so() -> None:
    """b is noise that a holds beside the target: alone it says nothing of the target, beside a it says much."""
    from curate.submodular.mutual_information import GaussianInformation

    rows = np.asarray([[0.6, 0.8], [0.0, 1.0]], np.float32)
    information = GaussianInformation(rows, np.asarray([[1.0, 0.0]], np.float32), 50.0, 1.0)
    alone = float(information.gains(np.asarray([1]))[0])
    information.add(0)
    assert alone == pytest.approx(0, abs=1e-6)
    assert float(information.gains(np.asarray([1]))[0]) > 1


def test_log_determinant_gains_match_slogdet_after_hundreds_of_steps() -> None:
    rows = unit(700, 5, width=12)
    objective, value = LogDeterminant(rows, 100.0), volume(rows, 100.0)
    for row in range(600):
        objective.add(row)
    assert objective.value == pytest.approx(value(list(range(600))), rel=1e-10)
    assert objective.gains(np.asarray([650]))[0] == pytest.approx(value([*range(600), 650]) - value(list(range(600))), abs=1e-9)


def test_dropping_the_only_row_of_a_direction_loses_no_digits() -> None:
    objective = LogDeterminant(np.eye(3, dtype=np.float32), 1e6)
    for row in range(3):
        objective.add(row)
    objective.drop(1)
    assert objective.gains(np.asarray([1]))[0] == pytest.approx(np.log1p(1e6), rel=1e-14)
    assert objective.value == pytest.approx(2 * np.log1p(1e6), rel=1e-14)
