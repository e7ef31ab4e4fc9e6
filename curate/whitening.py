"""Whitened feature distance: how far pool rows lie from target rows once the features' own spread is divided out."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from curate.core import Features
from curate.errors import DataError, NumericError

_BLOCK = 2048
_COINCIDENT = 1e-12  # a squared distance below this is rounding: two equal rows must be at distance 0

Wide = NDArray[np.float64]


def whitened_distances(pool: Features, target: Wide, damping: float) -> NDArray[np.float32]:
    """(M, N) sqrt(2 - 2 cos) between target rows (M, D) and pool rows after centring and whitening them together.

    Whitening divides by (1 - r) S + max(r, c) tr(S) / D, where S is the covariance of pool and target, c the damping and r the
    oracle-approximating shrinkage (Chen et al., 2010): with few rows S is mostly noise, and whitening by it alone would put
    all rows equally far apart. Neither has a unit, so shifting, scaling or rotating the features changes nothing. A damping
    of 0 whitens by S itself. With fewer rows than features the work is done in the
    span of the rows, O(R^2 D + R^3) for R = N + M rows; otherwise O(R D^2 + D^3). A row at the centre has no
    direction and is at distance sqrt(2) from every other.
    """
    if np.shape(pool.vectors)[1] != target.shape[1]:
        raise DataError(f"pool vectors have width {np.shape(pool.vectors)[1]}, target vectors {target.shape[1]}; score both with the same scorer")
    total = len(pool) + len(target)
    mean = (sum(block.sum(axis=0, dtype=np.float64) for _, block in pool.blocks(_BLOCK)) + target.sum(axis=0)) / total
    if total < target.shape[1]:
        return _in_span(pool, target, mean, damping)
    return _in_features(pool, target, mean, damping)


def _in_features(pool: Features, target: Wide, mean: Wide, damping: float) -> NDArray[np.float32]:
    centred = target - mean
    spread = centred.T @ centred
    for _, block in pool.blocks(_BLOCK):
        rows = block.astype(np.float64) - mean
        spread += rows.T @ rows
    total = len(pool) + len(target)
    spread /= total
    shrunk, ridge = _shrinkage(float(np.trace(spread)), float((spread**2).sum()), total, len(spread), damping)
    spread *= shrunk
    spread[np.diag_indices_from(spread)] += ridge
    whiten = _whitener(spread)
    goal = _unit(whiten(centred))
    found = np.empty((len(target), len(pool)), np.float32)
    for start, block in pool.blocks(_BLOCK):
        found[:, start : start + len(block)] = _distance(goal @ _unit(whiten(block.astype(np.float64) - mean)).T)
    return found


def _whitener(spread: Wide) -> Callable[[Wide], Wide]:
    from scipy.linalg import LinAlgError, cholesky, solve_triangular

    try:
        root = cholesky(spread, lower=True)
    except LinAlgError:
        raise NumericError("the features' covariance is singular, so they cannot be whitened; set damping above 0, for instance 1e-3") from None
    return lambda rows: np.asarray(solve_triangular(root, rows.T, lower=True)).T


def _in_span(pool: Features, target: Wide, mean: Wide, damping: float) -> NDArray[np.float32]:
    rows = np.concatenate([*(block.astype(np.float64) for _, block in pool.blocks(_BLOCK)), target]) - mean
    energy, basis = np.linalg.eigh(rows @ rows.T)
    held = energy > 1e-12 * max(float(energy.max(initial=0.0)), 1e-300)
    energy, basis = energy[held], basis[:, held]
    variance = energy / len(rows)
    shrunk, ridge = _shrinkage(float(variance.sum()), float((variance**2).sum()), len(rows), rows.shape[1], damping)
    white = _unit(basis * np.sqrt(energy / (shrunk * variance + ridge)))
    return _distance(white[len(pool) :] @ white[: len(pool)].T)


def _shrinkage(trace: float, trace_of_square: float, rows: int, width: int, damping: float) -> tuple[float, float]:
    """What the covariance is multiplied by, and what is added to its diagonal; the identity where all rows are equal."""
    if trace <= 0:
        return 1.0, 1.0
    apart = trace_of_square - trace**2 / width
    share = min(1.0, (trace_of_square + trace**2) / ((rows + 1) * apart)) if apart > 0 else 1.0
    return (1 - share, max(share, damping) * trace / width) if damping > 0 else (1.0, 0.0)


def _unit(rows: Wide) -> Wide:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: Wide = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 1e-9 * norms.max(initial=0.0))
    return unit


def _distance(cosines: Wide) -> NDArray[np.float32]:
    squared = 2 - 2 * cosines
    return np.asarray(np.sqrt(np.where(squared < _COINCIDENT, 0.0, squared)), np.float32)
