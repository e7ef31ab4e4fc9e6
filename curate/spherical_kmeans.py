"""Spherical k-means: clusters of unit rows by direction, the same for any order of the rows.

Maximises sum_i x_i . c(i) over labels and unit centroids (Dhillon and Modha, 2001), from the seeds of k-means++ (Arthur and
Vassilvitskii, 2007): each next seed is a row drawn with probability proportional to its squared distance from the nearest seed so far.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.core import Floats, Integers
from curate.order import best_first
from curate.randomness import draw

_BLOCK = 2048
_FITTED = 64  # rows per cluster that centroids are fitted on; more change them little and cost in proportion


@dataclass(frozen=True)
class Clusters:
    """The cluster of each row (N,), and the centroids (C, D) of length one."""

    labels: Integers
    centroids: NDArray[np.float64]

    def distances(self) -> NDArray[np.float64]:
        """(C, C) Euclidean distances between centroids, sqrt(2 - 2 cos)."""
        cosines = np.einsum("id,jd->ij", self.centroids, self.centroids)
        return np.asarray(np.sqrt(np.maximum(2 - 2 * cosines, 0)))


def spherical_kmeans(rows: NDArray[np.float32], clusters: int, keys: NDArray[np.uint64], *, iterations: int = 25) -> Clusters:
    """At most `clusters` clusters, none empty; fewer where fewer rows differ.

    Rows are drawn by their `keys`, so a row's neighbours in the array change nothing; cosines are summed in float64 and
    compared in float32, ties to the earlier seed. Fitted on up to 64 rows per cluster, O(64 C^2 D) for the seeds and for each of the
    iterations; then every row takes its nearest centroid, O(N C D).

    Args:
        rows: (N, D) of length one, in the order of their ids.
        clusters: how many to look for, at least one.
        keys: (N,) from `curate.randomness.row_keys`.
        iterations: the most times that centroids move; they stop once no row changes its cluster.
    """
    sample = np.sort(best_first(draw(keys), clusters * _FITTED))
    fitted = rows[sample]
    centroids = fitted[_seeds(fitted, clusters, keys[sample])].astype(np.float64)
    labels = _nearest(fitted, centroids)
    for _ in range(iterations):
        centroids = _means(fitted, labels, centroids)
        moved = _nearest(fitted, centroids)
        if np.array_equal(moved, labels):
            break
        labels = moved
    labels = _nearest(rows, centroids)
    held, labels = np.unique(labels, return_inverse=True)
    return Clusters(labels.astype(np.int64), centroids[held])


def _seeds(rows: NDArray[np.float32], clusters: int, keys: NDArray[np.uint64]) -> list[int]:
    """Rows by k-means++: the first to ring of clocks whose rates are the squared distances."""
    seeds = [int(np.argmin(draw(keys, 1)))]
    apart = _squared_distances(rows, rows[seeds[0]])
    while len(seeds) < clusters and apart.max() > 0:
        with np.errstate(divide="ignore"):
            rings = -np.log(draw(keys, len(seeds) + 1)) / apart
        seeds.append(int(np.argmin(rings)))
        apart = np.minimum(apart, _squared_distances(rows, rows[seeds[-1]]))
    return seeds


def _squared_distances(rows: NDArray[np.float32], point: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N,) exactly zero for copies of the point."""
    out = np.empty(len(rows))
    for start in range(0, len(rows), _BLOCK):
        apart = rows[start : start + _BLOCK].astype(np.float64) - point
        out[start : start + len(apart)] = np.einsum("nd,nd->n", apart, apart)
    return out


def _nearest(rows: NDArray[np.float32], centroids: NDArray[np.float64]) -> Integers:
    """(N,) the centroid of largest cosine, ties to the lower one."""
    found = np.empty(len(rows), np.int64)
    for start in range(0, len(rows), _BLOCK):
        cosines = (rows[start : start + _BLOCK].astype(np.float64) @ centroids.T).astype(np.float32)
        found[start : start + len(cosines)] = cosines.argmax(axis=1)
    return found


def _means(rows: NDArray[np.float32], labels: Integers, before: Floats) -> NDArray[np.float64]:
    """(C, D) the direction of each cluster's sum; a cluster that is empty or sums to zero stays where it was."""
    from scipy.sparse import csr_array

    sums = np.zeros(before.shape)
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK].astype(np.float64)
        one = csr_array((np.ones(len(block)), (labels[start : start + len(block)], np.arange(len(block)))), shape=(len(before), len(block)))
        sums += one @ block
    norms = np.sqrt(np.einsum("cd,cd->c", sums, sums))[:, None]
    return np.where(norms > 0, sums / np.where(norms > 0, norms, 1.0), before)
