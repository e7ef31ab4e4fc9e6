"""Diversity and the effects of single rows against their definitions, pair by pair and mask by mask."""

from itertools import combinations

import numpy as np
import pytest

from curate.masks.diversity import Anchors, Diversity, Pairs
from curate.masks.effects import Effects, effects_of

FORMS = ["pairwise", "covariance", "facility"]


def unit(n: int, seed: int = 0, width: int = 4) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(n, width)) + 0.4
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def form_of(name: str, vectors: np.ndarray) -> Diversity:
    if name == "facility":
        return Anchors(vectors[::2])
    return Pairs(1 if name == "pairwise" else 2)


def defined(name: str, vectors: np.ndarray, rows: tuple[int, ...]) -> float:
    """D of the rows by its definition, in float64."""
    kept = vectors[list(rows)].astype(float)
    if name == "pairwise":
        return -float(np.mean([kept[i] @ kept[j] for i, j in combinations(range(len(rows)), 2)])) if len(rows) > 1 else 0.0
    if name == "covariance":
        return -float(np.linalg.norm(sum(np.outer(row, row) for row in kept) / len(rows)) ** 2)
    return float(np.mean([max((1 + row @ anchor) / 2 for row in kept) for anchor in vectors[::2].astype(float)]))


def masked(n: int, rows: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros((1, n), np.bool_)
    mask[0, list(rows)] = True
    return mask


@pytest.mark.parametrize("name", FORMS)
def test_the_closed_form_is_the_definition_in_one_block_or_many(name: str) -> None:
    vectors = unit(9)
    form = form_of(name, vectors)
    for rows in [(3,), (0, 8), (1, 4, 7, 8), tuple(range(9))]:
        kept = vectors[list(rows)].astype(float)
        for blocks in ([kept], [kept[i : i + 1] for i in range(len(kept))]):
            assert form.value(form.summary(blocks), len(rows)) == pytest.approx(defined(name, vectors, rows), abs=1e-6)


def test_the_covariance_of_copies_is_the_worst_there_is() -> None:
    form, copies = Pairs(2), np.repeat(unit(1), 5, axis=0).astype(float)
    assert form.value(form.summary([copies]), 5) == pytest.approx(-1, abs=1e-6)
    assert form.value(form.summary([np.eye(4)]), 4) == pytest.approx(-1 / 4)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("size", [1, 3, 6])
def test_an_exchange_of_two_rows_changes_the_value_by_their_gains_and_the_exchange(name: str, size: int) -> None:
    vectors, scale = unit(8, seed=size), 2.5
    effects = effects_of(form_of(name, vectors), vectors, size, scale)
    for rows in combinations(range(8), size):
        others = [row for row in range(8) if row not in rows]
        mask = masked(8, rows)
        before, gains = effects.values(mask)[0], effects.gains(mask)[0]
        assert before == pytest.approx(scale * defined(name, vectors, rows), abs=1e-5)
        leaves, comes = rows[size // 2], others[len(others) // 2]
        exchange = effects.exchanges(mask, np.asarray([leaves]), np.asarray([comes]))[0]
        for row in range(8):
            out, into = (row, comes) if row in rows else (leaves, row)
            after = scale * defined(name, vectors, (*(kept for kept in rows if kept != out), into))
            assert after == pytest.approx(before - gains[out] + gains[into] + exchange[row], abs=1e-5)


def grown(effects: Effects, rows: list[int]) -> np.ndarray:
    growing = effects.growing()
    for row in rows:
        growing.add(row)
    return np.asarray(growing.gains)


@pytest.mark.parametrize("name", FORMS)
def test_a_mask_grown_row_by_row_has_the_gains_of_the_whole(name: str) -> None:
    vectors = unit(12, seed=3)
    effects = effects_of(form_of(name, vectors), vectors, 5, 1.5)
    for rows in ([], [4], [4, 0, 11, 7]):
        left = np.setdiff1d(np.arange(12), rows)
        assert np.allclose(grown(effects, rows)[left], effects.gains(masked(12, tuple(rows)))[0, left], atol=1e-6)
