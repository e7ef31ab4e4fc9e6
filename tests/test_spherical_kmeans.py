"""Spherical k-means finds planted directions, ends in a fixed point, and depends on ids alone."""

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from curate.randomness import row_keys
from curate.spherical_kmeans import Clusters, spherical_kmeans


def unit(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def keys(count: int, seed: int = 0) -> NDArray[np.uint64]:
    return row_keys(seed, "test", [f"{i:05d}" for i in range(count)])


def value(rows: NDArray[np.float32], found: Clusters) -> float:
    return float(np.einsum("nd,nd->", rows.astype(np.float64), found.centroids[found.labels]))


@pytest.mark.parametrize("seed", range(5))
def test_planted_directions_are_found(seed: int) -> None:
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, 6, 300)
    rows = unit(np.eye(8)[truth] + 0.05 * generator.normal(size=(300, 8)))
    found = spherical_kmeans(rows, 6, keys(300, seed))
    assert len(found.centroids) == 6
    assert len({(a, b) for a, b in zip(truth.tolist(), found.labels.tolist(), strict=True)}) == 6


def test_it_ends_where_rows_are_nearest_to_their_centroid_and_centroids_are_means() -> None:
    rows = unit(np.random.default_rng(0).normal(size=(60, 4)))
    found = spherical_kmeans(rows, 4, keys(60), iterations=200)
    np.testing.assert_array_equal((rows.astype(np.float64) @ found.centroids.T).argmax(axis=1), found.labels)
    for cluster, centroid in enumerate(found.centroids):
        total = rows[found.labels == cluster].astype(np.float64).sum(axis=0)
        np.testing.assert_allclose(centroid, total / np.linalg.norm(total), atol=1e-12)


def test_the_best_of_a_few_seeds_reaches_the_brute_force_optimum() -> None:
    rows = unit(np.random.default_rng(3).normal(size=(9, 3)))
    best = max(
        sum(float(np.linalg.norm(rows[np.asarray(labels) == c].astype(np.float64).sum(axis=0))) for c in range(2)) for labels in product(range(2), repeat=9)
    )
    reached = [value(rows, spherical_kmeans(rows, 2, keys(9, seed))) for seed in range(10)]
    assert max(reached) == pytest.approx(best, abs=1e-6)
    assert min(reached) > 0.8 * best


def test_more_iterations_never_lower_the_objective() -> None:
    rows = unit(np.random.default_rng(5).normal(size=(200, 10)))
    reached = [value(rows, spherical_kmeans(rows, 12, keys(200), iterations=i)) for i in (0, 1, 2, 4, 50)]
    assert (np.diff(reached) >= -1e-6).all() and reached[-1] > reached[0]


def test_seeds_far_from_the_others_are_drawn_in_proportion_to_the_squared_distance() -> None:
    rows = unit(np.array([[1, 0], [1, 0], [0.6, 0.8]]))
    seconds = [len(spherical_kmeans(rows, 2, keys(3, seed)).centroids) for seed in range(50)]
    assert seconds == [2] * 50  # a copy of the first seed has weight zero
    apart = unit(np.array([[1, 0, 0], [0.8, 0.6, 0], [-1, 0, 0]]))  # squared distances from row 0: 0, 0.4, 4
    taken = []
    for seed in range(800):
        found = spherical_kmeans(apart, 2, keys(3, seed), iterations=0)
        if np.allclose(found.centroids[found.labels[0]], apart[0]) and found.labels[0] == 0:
            taken.append(bool(np.allclose(found.centroids[1], apart[2])))
    assert 150 < len(taken) < 600 and np.mean(taken) == pytest.approx(4 / 4.4, abs=0.06)


def test_fewer_clusters_than_asked_where_fewer_rows_differ() -> None:
    rows = unit(np.repeat(np.eye(3), 4, axis=0))
    assert len(spherical_kmeans(rows, 10, keys(12)).centroids) == 3
    assert spherical_kmeans(rows[:1], 5, keys(1)).labels.tolist() == [0]


def test_a_large_pool_is_fitted_on_a_part_and_labelled_whole() -> None:
    generator = np.random.default_rng(1)
    truth = generator.integers(0, 2, 5000)
    rows = unit(np.eye(2)[truth] + 0.05 * generator.normal(size=(5000, 2)))
    found = spherical_kmeans(rows, 2, keys(5000))
    assert len({(a, b) for a, b in zip(truth.tolist(), found.labels.tolist(), strict=True)}) == 2


def test_distances_between_centroids_are_euclidean() -> None:
    found = spherical_kmeans(unit(np.random.default_rng(2).normal(size=(40, 5))), 4, keys(40))
    expected = np.linalg.norm(found.centroids[:, None] - found.centroids[None], axis=2)
    np.testing.assert_allclose(found.distances(), expected, atol=1e-7)
