"""CountSketch: a sparse random projection whose hash is computed from the coordinate, never drawn.

sketch(x)[b] = sum over coordinates p with bucket(p) = b of sign(p) x[p]; inner products are kept in expectation,
with standard deviation |x||y| / sqrt(width) (Charikar et al., 2002; Weinberger et al., 2009). Bucket and sign are
splitmix64 of (seed, stream, p), so a row's sketch does not depend on batch, worker or device.
"""

from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from curate.kept import kept


def splitmix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of the splitmix64 generator: 64 well-mixed bits of each value (Steele et al., 2014)."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


_PIECE = 1 << 22  # coordinates whose hashes are held at a time
_BITS = 40  # of a term; the sum of a piece has 22 more


@dataclass(frozen=True)
class CountSketch:
    """A projection to `width` numbers; each `stream` (such as a checkpoint) has a hash of its own."""

    width: int
    seed: int = 0
    stream: int = 0

    def add(self, into: Tensor, values: Tensor, first: int, scale: Tensor | None = None) -> None:
        """Add the sketch of coordinates first, first + 1, ... with `values` (B, P), times `scale` (P,), to `into` (B, width)."""
        for start in range(0, values.shape[1], _PIECE):
            piece = values[:, start : start + _PIECE]
            bucket, sign = _hashes(self.width, self.seed, self.stream, first + start, piece.shape[1], str(values.device))
            factor = sign.float() if scale is None else sign * scale[start : start + _PIECE]
            add = _add_whole if into.device.type == "cuda" else _add
            add(into, bucket.long().expand(len(values), -1), piece * factor)

    def dense(self, size: int) -> Tensor:
        """The same projection as an explicit (width, size) matrix; the oracle for small sizes."""
        bucket, sign = _hashes(self.width, self.seed, self.stream, 0, size, "cpu")
        matrix = torch.zeros(self.width, size)
        matrix[bucket.long(), torch.arange(size)] = sign.float()
        return matrix


def _add(into: Tensor, bucket: Tensor, terms: Tensor) -> None:
    """Add terms (B, P) to their buckets (B, P) in `into` (B, width), one after the other."""
    into.scatter_add_(1, bucket, terms)


def _add_whole(into: Tensor, bucket: Tensor, terms: Tensor) -> None:
    """The same where terms of a bucket come in any order, as a GPU's threads do: as whole numbers, whose sum does not depend on it.

    The unit is 2^-40 of the power of two above the row's largest term, so that 2^22 terms fit into 64 bits; a row that is not finite gives NaN.
    """
    largest = terms.abs().amax(1, keepdim=True)
    power = torch.frexp(torch.where(largest.isfinite(), largest, 1.0)).exponent
    whole = torch.ldexp(terms.double(), _BITS - power).nan_to_num(0.0, 0.0, 0.0).round_().long()
    sums = torch.zeros(into.shape, dtype=torch.int64, device=into.device).scatter_add_(1, bucket, whole)
    found = torch.ldexp(sums.double(), power - _BITS).to(into.dtype)
    into += torch.where(largest.isfinite(), found, float("nan"))


def fold(sketched: Tensor, width: int) -> Tensor:
    """(B, K) sketches of width K as sketches of `width`, a divisor of K: buckets are counted modulo the width."""
    folded: Tensor = sketched.unflatten(1, (-1, width)).sum(1)
    return folded


@lru_cache(maxsize=1024)
def factor(rows: int, columns: int, key: str, device: str) -> Tensor:
    """(rows, columns) random signs over sqrt(rows), each a hash of (key, place): inner products of columns are kept in expectation."""
    seed = np.frombuffer(blake2b(key.encode(), digest_size=8).digest(), "<u8").astype(np.uint64)
    mixed = splitmix64(np.arange(rows * columns, dtype=np.uint64) ^ splitmix64(seed))
    signs = (mixed & np.uint64(1)).astype(np.float32) * 2 - 1
    return torch.from_numpy(signs.reshape(rows, columns) / np.float32(rows**0.5)).to(device)


@kept(most_bytes=2**28)  # 53 million coordinates, at about the time that adding eight rows of them takes
def _hashes(width: int, seed: int, stream: int, first: int, size: int, device: str) -> tuple[Tensor, Tensor]:
    key = splitmix64(splitmix64(np.array([seed], np.uint64)) ^ np.array([stream], np.uint64))
    mixed = splitmix64(np.arange(first, first + size, dtype=np.uint64) ^ key)
    bucket = (mixed >> np.uint64(1)) % np.uint64(width)
    sign = (mixed & np.uint64(1)).astype(np.int8) * 2 - 1
    return torch.from_numpy(bucket.astype(np.int32 if width <= 2**31 else np.int64)).to(device), torch.from_numpy(sign).to(device)
