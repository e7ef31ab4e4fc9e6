"""Blocks of tokens in few bits, with outliers exact and a few directions of the error: GEAR's codec. A block depends on its own tokens only."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from curate.compression.codec import Coded, coded
from curate.compression.low_rank import low_rank

BLOCK = 64  # tokens


@dataclass(frozen=True)
class Corrected:
    """N blocks of a tensor (Hk, 64 N, d): codes, then directions of what they miss, then outliers put in place.

    Outliers lie along vectors: for keys a channel over the block's tokens, for values (`tokenwise`) a token over all heads' channels.
    """

    codes: Coded  # of the vectors
    places: Tensor  # (vectors, 2 k) uint8, int16 or int32: where in its vector an outlier lies
    outliers: Tensor  # (vectors, 2 k)
    left: Tensor  # (Hk, N, 64, r)
    right: Tensor  # (Hk, N, d, r)
    tokenwise: bool

    def decoded(self) -> Tensor:
        """(Hk, 64 N, d)."""
        error = _vectors(self.left.float() @ self.right.float().transpose(-1, -2), self.tokenwise)
        vectors = (self.codes.decoded().float().reshape(error.shape) + error).to(self.outliers.dtype)
        vectors = vectors.scatter(-1, self.places.long(), self.outliers)
        return _blocks(vectors, self.tokenwise, self.left.shape[0]).flatten(1, 2)

    @property
    def tensors(self) -> Sequence[Tensor]:
        return [*self.codes.tensors, self.places, self.outliers, self.left, self.right]


def corrected(numbers: Tensor, tokenwise: bool, bits: int, group: int | None, sparsity: float, rank: int, loops: int) -> Corrected:
    """Of numbers (Hk, 64 N, d); a group of None is a whole vector."""
    blocks = numbers.unflatten(1, (numbers.shape[1] // BLOCK, BLOCK))
    vectors = _vectors(blocks, tokenwise)
    length = vectors.shape[-1]
    count = math.ceil(length * sparsity / 2)
    order = vectors.argsort(dim=-1, stable=True)
    places = torch.cat([order[..., :count], order[..., max(count, length - count) :]], -1)
    mean = vectors.float().mean(-1, keepdim=True).to(vectors.dtype)
    filled = vectors.scatter(-1, places, mean.expand(places.shape))
    if group is not None and tokenwise:
        filled = filled.unflatten(-1, (numbers.shape[0], -1))
    codes = coded(filled, bits, group or length)
    error = (vectors.float() - codes.decoded().float().reshape(vectors.shape)).scatter(-1, places, 0.0)
    left, right = low_rank(_blocks(error, tokenwise, numbers.shape[0]), rank, loops)
    small = torch.uint8 if length <= 256 else torch.int16 if length <= 32768 else torch.int32
    return Corrected(codes, places.to(small), vectors.gather(-1, places), left.to(numbers.dtype), right.to(numbers.dtype), tokenwise)


def _vectors(blocks: Tensor, tokenwise: bool) -> Tensor:
    """(N, 64, Hk d) or, per channel, (Hk, N, d, 64) of blocks (Hk, N, 64, d)."""
    return blocks.permute(1, 2, 0, 3).flatten(2) if tokenwise else blocks.transpose(2, 3)


def _blocks(vectors: Tensor, tokenwise: bool, heads: int) -> Tensor:
    """(Hk, N, 64, d) of what `_vectors` gave."""
    return vectors.unflatten(-1, (heads, -1)).permute(2, 0, 1, 3) if tokenwise else vectors.transpose(2, 3)
