"""A pool of many modes and a target of three: what the mean over target rows misses, and who serves all three."""

from typing import Any

import numpy as np
import pytest

from curate.core import Budget, Features
from curate.interfaces import Selector
from curate.registry import component

MODES, EACH, WIDTH = 40, 25, 32
WANTED = (3, 17, 29)  # the target's modes, with 8, 4 and 3 of its rows


@pytest.fixture(scope="module")
def planted() -> tuple[Features, Features]:
    """(pool, target); row i of the pool is of mode i // EACH."""
    rng = np.random.default_rng(11)
    centres = rng.normal(size=(MODES, WIDTH))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)

    def around(modes: np.ndarray) -> np.ndarray:
        rows: np.ndarray = centres[modes] + 0.08 * rng.normal(size=(len(modes), WIDTH))
        return rows.astype(np.float32)

    pool = around(np.repeat(np.arange(MODES), EACH))
    return Features.from_arrays(vectors=pool), Features.from_arrays(vectors=around(np.repeat(WANTED, (8, 4, 3))))


def made(name: str, **fields: Any) -> Selector:
    found = component("selectors", {"name": name, **fields})
    assert isinstance(found, Selector)
    return found


def modes_of(selector: Selector, planted: tuple[Features, Features], kept: int) -> list[int]:
    """The mode of every kept row."""
    pool, target = planted
    modes: list[int] = (selector.select(pool, Budget(amount=kept), target=target).indices // EACH).tolist()
    return modes


def covered(modes: list[int]) -> float:
    """The share of the target's modes that have a kept row."""
    return len(set(modes) & set(WANTED)) / len(WANTED)


@pytest.mark.parametrize("kept", [3, 6, 12, 24])
def test_the_mean_over_target_rows_misses_the_rarer_modes(planted: tuple[Features, Features], kept: int) -> None:
    modes = modes_of(made("top_k", aggregate="mean"), planted, kept)
    assert covered(modes) == pytest.approx(1 / 3) and set(modes) == {WANTED[0]}


@pytest.mark.parametrize("name", ["round_robin", "transport"])
@pytest.mark.parametrize("kept", [15, 30, 45])
def test_round_robin_and_transport_cover_every_mode_and_nothing_else(planted: tuple[Features, Features], name: str, kept: int) -> None:
    modes = modes_of(made(name), planted, kept)
    assert covered(modes) == 1
    assert set(modes) <= set(WANTED)


@pytest.mark.parametrize("kept", [3, 6, 12])
def test_round_robin_over_a_target_row_of_each_mode_covers_them_at_once(planted: tuple[Features, Features], kept: int) -> None:
    pool, target = planted
    one_each = np.asarray([0, 8, 12])
    few = Features.from_arrays(vectors=np.asarray(target.vectors)[one_each])
    modes = modes_of(made("round_robin"), (pool, few), kept)
    assert np.bincount(modes, minlength=MODES)[list(WANTED)].tolist() == [kept // 3] * 3


def test_a_target_whose_groups_are_its_modes_is_covered_by_the_best_mean_too(planted: tuple[Features, Features]) -> None:
    pool, target = planted
    grouped = Features.from_arrays(vectors=target.vectors, groups=np.repeat(["a", "b", "c"], (8, 4, 3)).tolist())
    modes = modes_of(made("top_k", aggregate="mean"), (pool, grouped), 24)
    assert covered(modes) == 1 and set(modes) <= set(WANTED)


def test_mass_spread_by_every_target_row_reaches_every_mode(planted: tuple[Features, Features]) -> None:
    sharp = modes_of(made("softmax_mass"), planted, 45)
    drawn = modes_of(made("knn_uniform", neighbours=10, take="sampled"), planted, 30)
    assert covered(sharp) == 1 and covered(drawn) == 1
