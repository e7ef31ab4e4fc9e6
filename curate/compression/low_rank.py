"""The best few directions of a matrix, by subspace iteration from a fixed start: most of a singular value decomposition for a few products."""

import torch
from torch import Tensor


def low_rank(matrix: Tensor, rank: int, loops: int) -> tuple[Tensor, Tensor]:
    """(left, right) of shapes (..., m, r) and (..., d, r) in float32, for matrices R (..., m, d): R is about left right^T.

    left has orthonormal columns and right = R^T left, so left right^T = left left^T R is an orthogonal projection of R: the rest never has a larger norm
    than R, nor a smaller one than the tail of its singular values, which it approaches with loops. The start for r columns is the first r of one fixed
    matrix, so that more columns span what fewer did, and the rest never grows with r. Time: 2 * loops products of R with r vectors, and loops
    QR factorisations; `loops` is at least 1. GEAR's public code orthonormalises in the last loop only; in every loop, the span is the same and small
    directions survive.
    """
    wide = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    *batch, rows, columns = wide.shape
    rank = min(rank, rows, columns)
    if rank == 0:
        return wide.new_zeros(*batch, rows, 0), wide.new_zeros(*batch, columns, 0)
    right = _start(columns, rank).to(wide)
    for _ in range(loops):
        left = torch.linalg.qr(wide @ right).Q
        right = wide.transpose(-1, -2) @ left
    return left, right


def _start(width: int, rank: int) -> Tensor:
    return torch.randn(width, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)[:, :rank]
