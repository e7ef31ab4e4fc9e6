"""Whitened feature distance: how far pool rows lie from target rows once the features' own spread is divided out."""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from curate.core import Features, Floats, Integers
from curate.errors import DataError, NumericError

_BLOCK = 2048
_COINCIDENT = 1e-12  # a squared distance below this is rounding: two equal rows must be at distance 0

Wide = NDArray[np.float64]


class WhitenedDistances:
    """(N, M) sqrt(2 - 2 cos) between pool rows and target rows (M, D), centred and whitened together: held, or computed anew in every pass.

    Whitening divides by (1 - r) S + max(r, c) tr(S) / D, where S is the covariance of pool and target, c the damping and r the
    oracle-approximating shrinkage (Chen et al., 2010): with few rows S is mostly noise, and whitening by it alone would put
    all rows equally far apart. Neither has a unit, so shifting, scaling or rotating the features changes nothing. A damping
    of 0 whitens by S itself. Fitting takes two passes, O(N D^2 + D^3), a further pass O(N D (D + M)). With fewer rows than features the work is
    done in the span of the rows, O(R^2 D + R^3) for R = N + M rows. A row at the centre has no direction and is at distance sqrt(2) from every other.

    Args:
        pool: read block by block.
        target: (M, D).
        damping: least share of the mean variance that is added to the covariance.
        hold: the most distances, N x M, that are kept in memory; otherwise a block at a time is.
    """

    def __init__(self, pool: Features, target: Wide, damping: float, hold: int = 2**62) -> None:
        if np.shape(pool.vectors)[1] != target.shape[1]:
            raise DataError(f"pool vectors have width {np.shape(pool.vectors)[1]}, target vectors {target.shape[1]}; score both with the same scorer")
        self.shape = len(pool), len(target)
        self._pool = pool
        total = sum(self.shape)
        self._mean = (sum(block.sum(axis=0, dtype=np.float64) for _, block in pool.blocks(_BLOCK)) + target.sum(axis=0)) / total
        self._held: NDArray[np.float32] | None = None
        if total < target.shape[1]:
            self._held = _in_span(pool, target, self._mean, damping)
            return
        self._whiten = _whitener(_spread(pool, target, self._mean, damping))
        self._goal = _unit(self._whiten(target - self._mean))
        if len(pool) * len(target) <= hold:
            self._held = np.concatenate([block for _, block in self.blocks()])

    def blocks(self, size: int = _BLOCK) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """(first pool row, distances of up to `size` pool rows to every target row), in order."""
        if self._held is None:
            for start, block in self._pool.blocks(size):
                yield start, self._away(block)
            return
        for start in range(0, self.shape[0], size):
            yield start, self._held[start : start + size]

    def of(self, rows: Integers) -> NDArray[np.float32]:
        """(K, M) the distances of these pool rows."""
        if self._held is not None:
            return self._held[rows]
        found = np.empty((len(rows), self.shape[1]), np.float32)
        for start in range(0, len(rows), _BLOCK):
            found[start : start + _BLOCK] = self._away(np.asarray(self._pool.vectors[rows[start : start + _BLOCK]], np.float32))
        return found

    def _away(self, block: Floats) -> NDArray[np.float32]:
        return _distance(_unit(self._whiten(block.astype(np.float64) - self._mean)) @ self._goal.T)


def _spread(pool: Features, target: Wide, mean: Wide, damping: float) -> Wide:
    """The covariance, shrunk and damped."""
    centred = target - mean
    spread: Wide = centred.T @ centred
    for _, block in pool.blocks(_BLOCK):
        rows = block.astype(np.float64) - mean
        spread += rows.T @ rows
    total = len(pool) + len(target)
    spread /= total
    if float(np.trace(spread)) <= _COINCIDENT**2 * float(mean @ mean):
        spread[:] = 0.0
    shrunk, ridge = _shrinkage(float(np.trace(spread)), float((spread**2).sum()), total, len(spread), damping)
    spread *= shrunk
    spread[np.diag_indices_from(spread)] += ridge
    return spread


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
    held = energy > 1e-12 * max(float(energy.max(initial=0.0)), _COINCIDENT * len(rows) * float(mean @ mean), 1e-300)
    energy, basis = energy[held], basis[:, held]
    variance = energy / len(rows)
    shrunk, ridge = _shrinkage(float(variance.sum()), float((variance**2).sum()), len(rows), rows.shape[1], damping)
    white = _unit(basis * np.sqrt(energy / (shrunk * variance + ridge)))
    return _distance(white[: len(pool)] @ white[len(pool) :].T)


def _shrinkage(trace: float, trace_of_square: float, rows: int, width: int, damping: float) -> tuple[float, float]:
    """What the covariance is multiplied by, and what is added to its diagonal; the identity where all rows are equal."""
    if trace <= 0:
        return 1.0, 1.0
    apart = trace_of_square - trace**2 / width
    share = min(1.0, (trace_of_square + trace**2) / ((rows + 1) * apart)) if apart > 0 else 1.0
    return (1 - share, max(share, damping) * trace / width) if damping > 0 else (1.0, 0.0)


def _unit(rows: Wide) -> Wide:
    """Rows of length one, but for those at the centre: a whitened row is about sqrt(D) long."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: Wide = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 1e-9 * np.sqrt(rows.shape[1]))
    return unit


def _distance(cosines: Wide) -> NDArray[np.float32]:
    squared = 2 - 2 * cosines
    return np.asarray(np.sqrt(np.where(squared < _COINCIDENT, 0.0, squared)), np.float32)
