"""Entropic transport in kernel form, stabilised by absorbing potentials: one read of the kernel an iteration, in float32.

Every row carries the mass 1/R, or at most a given mass where few of many rows are to be chosen; every column receives 1/M.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.core import Floats

_CACHED = 2**16  # kernel entries of a block that stays in the cache between its two products
_FAR = 40.0  # scalings beyond exp(+-40) are absorbed: float32 ends at exp(88)
_LEAST, _MOST = (np.exp(np.float32(end)) for end in (-_FAR / 2, _FAR / 2))  # an iteration's change of a scaling, so that it stays within float32
_GONE = -80.0  # kernel entries below exp(-80) are nothing; denormal numbers would be slow
_RELAXED = 1.5  # over-relaxation (Thibault et al., 2021): half the iterations
_COLD = 100  # a cold start is as good at a hundredth of the largest cost, and slow below
_COOLING = 4.0
_PATIENCE = 100

Wide = NDArray[np.float64]
Narrow = NDArray[np.float32]


@dataclass(frozen=True)
class Potentials:
    """Entropic potentials of the rows (R,) and the columns (M,), and how far the plan's column sums are from 1/M in total."""

    rows: Wide
    columns: Wide
    residual: float
    iterations: int


def sinkhorn(costs: Floats, blur: float, *, mass: float | None = None, start: Wide | None = None, tolerance: float = 1e-3, most: int = 2000) -> Potentials:
    """Potentials f, g of the plan P_ij = exp((f_i + g_j - c_ij) / blur) that minimises <P, c> + blur <P, log P> with column sums 1/M.

    Row sums are 1/R; with a `mass` they are at most that, and f <= 0. The kernel is taken around absorbed potentials, so that no
    blur underflows; a cold start gets there by way of larger ones. An iteration reads each block of the kernel
    once, for both marginals: 4 R M operations. Memory 4 R M bytes beside the costs.

    Args:
        costs: (R, M) non-negative.
        blur: the regularisation, in the unit of the costs.
        mass: the most that a row carries, where not all rows need carry any.
        start: (M,) column potentials of a similar problem, in place of a cold start.
        tolerance: enough once the column sums are wrong by this in total.
        most: iterations at the final blur.
    """
    near = np.asarray(costs, np.float32)
    columns = np.zeros(near.shape[1]) if start is None else np.asarray(start, np.float64)
    used = 0
    warmth = float(near.max(initial=0.0)) / _COLD if start is None else 0.0
    while warmth > blur:
        rough = _Scaling(near, warmth, mass, columns).solve(0.1, 30)
        columns, used, warmth = rough.columns, used + rough.iterations, warmth / _COOLING
    found = _Scaling(near, blur, mass, columns).solve(tolerance, most)
    return Potentials(found.rows, found.columns, found.residual, used + found.iterations)


class _Scaling:
    """diag(a) K diag(b) with K_ij = exp((f_i + g_j - c_ij) / blur), f and g absorbed so that the largest entry of each row and column is about 1."""

    def __init__(self, costs: Narrow, blur: float, mass: float | None, columns: Wide) -> None:
        self._costs, self._blur, self._mass = costs, blur, mass
        self._size = max(1, _CACHED // costs.shape[1])
        self._kernel = np.empty_like(costs)
        self._absorb(columns)

    def solve(self, tolerance: float, most: int) -> Potentials:
        share = np.float32(1 / self._costs.shape[1])
        best, since, relaxed = np.inf, 0, np.float32(1.0)
        used, residual = 0, np.inf
        while used < most:
            used += 1
            sums = np.maximum(self._sweep(relaxed), np.finfo(np.float32).tiny)
            residual = float(np.abs(self._b * sums - share).sum(dtype=np.float64))
            best, since = (residual, 0) if residual < best else (best, since + 1)
            if residual <= tolerance or since > 2 * _PATIENCE:
                break
            relaxed = np.float32(_RELAXED if since < _PATIENCE else 1.0)
            self._b *= np.clip(share / (self._b * sums), _LEAST, _MOST) ** relaxed
            if float(np.abs(np.log(self._b)).max()) > _FAR:
                self._absorb(self._columns())
                relaxed = np.float32(1.0)
        return Potentials(self._rows(), self._columns(), residual, used)

    def _absorb(self, columns: Wide) -> None:
        """Double c-transform: raises the columns' potentials until each touches a row, and hands the difference to b."""
        columns32 = columns.astype(np.float32)
        rows, raised = np.empty(len(self._costs), np.float32), np.full(len(columns), np.inf, np.float32)
        for at in self._blocks():
            rows[at] = (self._costs[at] - columns32).min(axis=1)
            if self._mass is not None:
                rows[at] = np.minimum(rows[at], 0.0)
            raised = np.minimum(raised, (self._costs[at] - rows[at, None]).min(axis=0))
        for at in self._blocks():
            power = np.subtract(rows[at, None] + raised, self._costs[at], out=self._kernel[at])
            power *= np.float32(1 / self._blur)
            power[power < _GONE] = -np.inf
            np.exp(power, out=power)
        self._f, self._g = rows.astype(np.float64), raised.astype(np.float64)
        self._a = np.ones(len(rows), np.float32)
        self._b = np.exp(np.maximum((columns - self._g) / self._blur, -_FAR)).astype(np.float32)
        self._ceiling = np.exp(np.minimum(-self._f / self._blur, -_GONE)).astype(np.float32) if self._mass is not None else None

    def _sweep(self, relaxed: np.float32) -> Narrow:
        """Sets a so that the rows carry their mass, and returns the column sums of diag(a) K."""
        mass = np.float32(1 / len(self._costs) if self._mass is None else self._mass)
        sums = np.zeros(self._kernel.shape[1], np.float32)
        for at in self._blocks():
            block = self._kernel[at]
            scale = mass / np.maximum(block @ self._b, np.finfo(np.float32).tiny)
            if self._ceiling is not None:
                scale = np.minimum(scale, self._ceiling[at])
            elif relaxed != 1:
                scale = self._a[at] * (scale / self._a[at]) ** relaxed
            self._a[at] = scale
            sums += scale @ block
        return sums

    def _blocks(self) -> list[slice]:
        return [slice(start, start + self._size) for start in range(0, len(self._costs), self._size)]

    def _rows(self) -> Wide:
        return np.asarray(self._f + self._blur * np.log(self._a.astype(np.float64)))

    def _columns(self) -> Wide:
        return np.asarray(self._g + self._blur * np.log(self._b.astype(np.float64)))
