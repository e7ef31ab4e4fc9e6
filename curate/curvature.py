"""Curvature in feature space: TRAK's kernel; and the damping and factorisation that all curvatures share.

Every product of matrices is taken in float64, whatever the rows are stored in: an inverse magnifies rounding by the
condition number, and a float32 product may be rounded further by the hardware (TF32).
"""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from curate.errors import ConfigError, DataError, NumericError


def ridge(damping: float, mean: float, *, absolute: bool, where: str) -> float:
    """lambda: the damping itself, or `damping` times the mean eigenvalue, which has the curvature's unit for any scale of the gradients."""
    if not (damping > 0 and math.isfinite(damping)):
        raise ConfigError(f"{where}: damping is {damping}; give a positive number, for instance 0.1")
    value = damping if absolute else damping * mean
    if not (value > 0 and math.isfinite(value)):
        raise NumericError(
            f"{where}: no row of the sample has a gradient there, so there is nothing to invert; name modules that have one, sample more rows, "
            "or look at the answers of the pool"
        )
    return value


def cholesky(matrix: Tensor, where: str) -> Tensor:
    """The lower root of a positive definite float64 matrix; NumericError if it is singular to rounding."""
    root: Tensor
    root, failed = torch.linalg.cholesky_ex(matrix)
    pivots = root.diagonal()
    floor = math.sqrt(len(root) * torch.finfo(root.dtype).eps)
    if int(failed) or not float(pivots.min()) > floor * float(pivots.max()):
        raise NumericError(f"{where}: the curvature is singular to rounding; raise damping (0.1 is a usual value)")
    return root


def finite(rows: Tensor) -> Tensor:
    """(B,) whether all numbers of a row are finite: one that is not would spoil the curvature for all others."""
    return torch.isfinite(rows).flatten(1).all(1)


def tensors(state: Mapping[str, Any], device: str = "cpu") -> dict[str, Tensor]:
    """A stored state as tensors, without a copy where it is on the device already."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable")  # a memory map of a stored file; it is only read
        return {name: torch.as_tensor(value, device=device) for name, value in state.items()}


def stored(rows: Tensor) -> Tensor:
    """Rows as they are kept and given back: float64 stays, everything else is float32."""
    return rows if rows.dtype == torch.float64 else rows.float()


class KernelSum:
    """Sums w_i phi_i phi_i^T over the blocks of a sample, in float64: O(D^2) memory and O(B D^2) time a block."""

    def __init__(self) -> None:
        self.rows = 0
        self._total: Tensor | None = None

    def add(self, features: Tensor, weights: Tensor | None = None) -> None:
        """Add rows (B, D), each counted `weights` (B,) times (once if not given); a row that is not finite takes no part."""
        good = finite(features) if weights is None else finite(features) & torch.isfinite(weights)
        rows = features[good].double()
        if self._total is None:
            self._total = rows.new_zeros(rows.shape[1], rows.shape[1])
        if rows.shape[1] != len(self._total):
            raise DataError(f"features have width {rows.shape[1]}, those before them {len(self._total)}; give all rows of one kernel the same width")
        weighted = rows if weights is None else rows * weights[good].double().unsqueeze(1)
        self._total.addmm_(rows.T, weighted)
        self.rows += len(rows)

    def kernel(self, damping: float, *, rows: int | None = None, absolute: bool = False) -> "FeatureKernel":
        """The kernel of all the rows added; `rows`, if more are meant than were sampled, scales the sum to that many."""
        if self._total is None or not self.rows:
            raise NumericError("kernel: no row of the sample is finite, so there is nothing to invert; look at the rows' losses")
        total = self._total if rows is None else self._total * (rows / self.rows)
        mean = float(total.trace()) / len(total)
        added = ridge(damping, mean, absolute=absolute, where="kernel") if damping else 0.0
        return FeatureKernel(cholesky(total + added * torch.eye(len(total), dtype=total.dtype, device=total.device), "kernel"))


@dataclass(frozen=True)
class FeatureKernel:
    """K^{-1} for K = sum_i w_i phi_i phi_i^T + lambda I over rows of features, with lambda = c tr(sum) / D for a relative damping c.

    TRAK's effect of training row i on the output at x is tau_i(x) = phi(x)^T K^{-1} phi_i (1 - p_i), phi being the projected gradient of the
    output and p_i the probability of the right answer. With w_i = p_i (1 - p_i) K is the Hessian of logistic regression, and
    tau_i / (1 - w_i phi_i^T K^{-1} phi_i) is exactly one Newton step of leaving row i out (Pregibon, 1981); TRAK takes w_i = 1 and drops
    the denominator. So a row that is in K has a smaller tau than the same row outside it, by one minus its leverage: have all rows in K, or else
    several times D, for the leverages average D / rows. Holds 8 D^2 bytes. Park et al., "TRAK: Attributing Model Behavior at Scale", ICML 2023.
    """

    root: Tensor  # (D, D) float64, lower: K = root root^T

    def solve(self, rows: Tensor) -> Tensor:
        """K^{-1} x for rows x (B, D), float32 unless the rows are float64."""
        solved = torch.cholesky_solve(self._checked(rows).T, self.root).T
        return solved.to(stored(rows).dtype)

    def quadratic(self, rows: Tensor) -> Tensor:
        """x^T K^{-1} x (B,) in float64, never negative: a row's leverage if it is one of those in K."""
        half: Tensor = torch.linalg.solve_triangular(self.root, self._checked(rows).T, upper=False)
        return half.square().sum(0)

    def state(self) -> dict[str, Tensor]:
        """What `from_state` rebuilds it from."""
        return {"root": self.root.contiguous()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], device: str = "cpu") -> Self:
        return cls(**tensors(state, device))

    def _checked(self, rows: Tensor) -> Tensor:
        if rows.shape[1] != len(self.root):
            raise DataError(f"rows have width {rows.shape[1]}, the kernel {len(self.root)}; build both from the same features")
        return rows.double()
