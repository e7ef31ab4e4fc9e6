"""Whitened distances against scikit-learn's shrinkage, against their symmetries, and held or streamed."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from curate.core import Features
from curate.errors import NumericError
from curate.transport.whitening import WhitenedDistances

Wide = NDArray[np.float64]


def problem(n: int = 40, m: int = 4, width: int = 5, seed: int = 0) -> tuple[Wide, Wide]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, width)) * np.arange(1, width + 1), rng.normal(size=(m, width)) + 1


def away(pool: Wide, goal: Wide, damping: float = 1e-3, hold: int = 10**9) -> NDArray[np.float32]:
    distances = WhitenedDistances(Features.from_arrays(vectors=pool), goal, damping, hold)
    return distances.of(np.arange(len(pool)))


def true_distances(pool: Wide, goal: Wide, inverse: Wide) -> Wide:
    rows = np.vstack([pool, goal])
    rows = rows - rows.mean(axis=0)
    inner = rows @ inverse @ rows.T
    cosine = inner / np.sqrt(np.outer(np.diag(inner), np.diag(inner)))
    return np.asarray(np.sqrt(np.maximum(2 - 2 * cosine[: len(pool), len(pool) :], 0)))


def test_without_damping_the_covariance_itself_is_divided_out() -> None:
    pool, goal = problem()
    inverse = np.linalg.inv(np.cov(np.vstack([pool, goal]).T, bias=True))
    assert np.allclose(away(pool, goal, 0.0), true_distances(pool, goal, inverse), atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e4])
def test_damping_is_a_share_of_the_mean_variance_whatever_the_scale(scale: float) -> None:
    rng = np.random.default_rng(3)
    pool, goal = scale * rng.normal(size=(4000, 4)) * np.asarray([8, 4, 1, 0.01]), scale * rng.normal(size=(5, 4))
    spread = np.cov(np.vstack([pool, goal]).T, bias=True)
    damped = np.linalg.inv(spread + 0.1 * np.trace(spread) / 4 * np.eye(4))
    assert np.allclose(away(pool, goal, 0.1), true_distances(pool, goal, damped), atol=2e-3)
    assert not np.allclose(away(pool, goal, 1e-3), true_distances(pool, goal, damped), atol=1e-1)


@pytest.mark.parametrize("width", [5, 20])
def test_the_covariance_is_shrunk_as_far_as_few_rows_ask_whether_in_their_span_or_not(width: int) -> None:
    oas = pytest.importorskip("sklearn.covariance").oas
    pool, goal = problem(8, 3, width)
    both = np.vstack([pool, goal]) - np.vstack([pool, goal]).mean(axis=0)
    inverse = np.linalg.inv(oas(both, assume_centered=True)[0])
    assert np.allclose(away(pool, goal, 1e-6), true_distances(pool, goal, inverse), atol=1e-5)


@pytest.mark.parametrize(("n", "width"), [(40, 5), (12, 30)])
def test_shifting_scaling_and_rotating_the_features_changes_nothing(n: int, width: int) -> None:
    pool, goal = problem(n, 4, width)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(width, width)))[0]
    assert np.allclose(away(pool, goal), away(7 + 0.03 * pool @ rotation, 7 + 0.03 * goal @ rotation), atol=1e-3)


def test_without_damping_any_affine_map_of_the_features_changes_nothing() -> None:
    pool, goal = problem()
    mix = np.random.default_rng(2).normal(size=(5, 5))
    assert np.allclose(away(pool, goal, 0.0), away(pool @ mix + 1, goal @ mix + 1, 0.0), atol=1e-3)


@pytest.mark.parametrize(("n", "width"), [(3000, 5), (12, 30)])
def test_a_copy_of_a_target_row_is_at_distance_zero(n: int, width: int) -> None:
    pool, goal = problem(n, 4, width)
    goal = goal.astype(np.float32).astype(np.float64)
    pool[[1, n - 1]] = goal[[2, 0]]
    found = away(pool, goal)
    assert found[1, 2] == 0 and found[n - 1, 0] == 0
    assert (found > 0).sum() == found.size - 2


def test_distances_that_are_streamed_from_disk_are_those_that_are_held(tmp_path: Path) -> None:
    pool, goal = problem(5000, 6, 8)
    np.save(tmp_path / "pool.npy", pool.astype(np.float32))
    stored = Features.from_arrays(vectors=pool.astype(np.float32))
    object.__setattr__(stored, "vectors", np.load(tmp_path / "pool.npy", mmap_mode="r"))
    held, streamed = (WhitenedDistances(stored, goal, 1e-3, hold) for hold in (10**6, 0))
    blocks = [list(side.blocks(700)) for side in (held, streamed)]
    assert [start for start, _ in blocks[0]] == [start for start, _ in blocks[1]] == list(range(0, 5000, 700))
    assert np.allclose(np.concatenate([block for _, block in blocks[0]]), np.concatenate([block for _, block in blocks[1]]), atol=1e-6)
    rows = np.asarray([4999, 3, 2048, 3])
    assert np.allclose(streamed.of(rows), held.of(rows), atol=1e-6) and held.shape == streamed.shape == (5000, 6)


def test_equal_rows_everywhere_have_no_direction_and_are_not_told_apart() -> None:
    for n, width in ((30, 4), (3, 40)):
        assert np.allclose(away(np.full((n, width), 0.75), np.full((2, width), 0.75)), np.sqrt(2))


def test_a_singular_covariance_without_damping_is_refused_with_the_remedy() -> None:
    pool, goal = problem()
    pool[:, 1] = goal[:, 1] = 3
    with pytest.raises(NumericError, match="damping"):
        away(pool, goal, 0.0)
