"""Blocks of tokens in few bits, with outliers exact and a few directions of the error: GEAR's codec. A block depends on its own tokens only."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

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
        """(Hk, 64 N, d), laid out as the vectors are: a view that is turned round, not a copy."""
        left, right = self.left.float(), self.right.float()
        if self.tokenwise:
            error = (left @ right.transpose(-1, -2)).permute(1, 2, 0, 3)  # (N, 64, Hk, d)
            vectors = self._with_outliers(self.codes.decoded().float().reshape(error.shape).add_(error).flatten(2))
            return vectors.view(-1, *error.shape[2:]).transpose(0, 1)
        vectors = self._with_outliers(self.codes.decoded().float().add_(right @ left.transpose(-1, -2)))
        return vectors.transpose(1, 2).flatten(2).transpose(1, 2)

    def _with_outliers(self, vectors: Tensor) -> Tensor:
        """Vectors that nobody else holds, with the outliers in place."""
        made: Tensor = vectors.to(self.outliers.dtype)
        return made.scatter_(-1, self.places.long(), self.outliers)

    def joined(self, *others: "Corrected") -> "Corrected":
        """These blocks and then the others'."""
        parts = zip(self._by_block(), *(other._by_block() for other in others), strict=True)
        return self._with([torch.cat([tensor for tensor, _ in same], same[0][1]) for same in parts])

    def pick(self, blocks: Tensor) -> "Corrected":
        """These of the blocks, in this order."""
        return self._with([tensor.index_select(axis, blocks) for tensor, axis in self._by_block()])

    @property
    def tensors(self) -> Sequence[Tensor]:
        return [*self.codes.tensors, self.places, self.outliers, self.left, self.right]

    def _by_block(self) -> list[tuple[Tensor, int]]:
        """(tensor, its axis of blocks) of all `tensors`; a block's codes fill whole bytes."""
        axis, (heads, blocks) = (0 if self.tokenwise else 1), self.left.shape[:2]
        packed = self.codes.packed.view(*([blocks] if self.tokenwise else [heads, blocks]), -1)
        return [*((tensor, axis) for tensor in (packed, self.codes.step, self.codes.lowest, self.places, self.outliers)), (self.left, 1), (self.right, 1)]

    def _with(self, tensors: Sequence[Tensor]) -> "Corrected":
        packed, step, lowest, places, outliers, left, right = tensors
        codes = replace(self.codes, packed=packed.flatten(), step=step, lowest=lowest)
        return Corrected(codes, places, outliers, left, right, self.tokenwise)


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
