"""Numbers in few bits: each group along an axis has a lowest value and a step, and its codes are packed into bytes without gaps.

With b bits, code = round((x - lowest) / step) for step = (highest - lowest) / (2^b - 1), and x^ = code * step + lowest, so |x - x^| <= step / 2; a group
whose numbers are all equal comes back exactly. Step and lowest are kept in the dtype of the numbers: `lowest` is one of them, and `step` is rounded up so
that the bound holds for the step that is kept (in bfloat16 and float16, x^ is rounded once more).

Bytes of an element: b / 8 + 2 * (bytes of the dtype) / (numbers in a group). What is decoded costs as much as the numbers did, for as long as it is used.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

_SAME_SIZE = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Coded:
    """A tensor in few bits, whose groups run along one axis; the last group may be shorter."""

    packed: Tensor  # (bytes,) uint8
    step: Tensor  # (..., groups), the axis of the groups last
    lowest: Tensor  # (..., groups)
    bits: int
    group: int
    axis: int  # negative: of the decoded tensor
    length: int  # along the axis

    def decoded(self) -> Tensor:
        """The tensor, in the dtype it had."""
        return numbers_of(codes_of(self), self.step, self.lowest, self.group).movedim(-1, self.axis)

    @property
    def tensors(self) -> Sequence[Tensor]:
        """Everything that is kept."""
        return [self.packed, self.step, self.lowest]


def coded(numbers: Tensor, bits: int, group: int, axis: int = -1) -> Coded:
    """Floating-point numbers in `bits` bits (2, 3, 4 or 8), in groups of `group` along an axis that is counted from the end (negative)."""
    moved = numbers.movedim(axis, -1)
    group = max(1, min(group, moved.shape[-1]))
    split = _in_groups(moved, group)
    lowest, highest = split.amin(-1), split.amax(-1)
    dtype = _wide(numbers.dtype)
    step = _rounded_up((highest.to(dtype) - lowest.to(dtype)) / (2**bits - 1), numbers.dtype)
    size = torch.where(step > 0, step, 1).to(dtype).unsqueeze(-1)
    codes = ((split.to(dtype) - lowest.unsqueeze(-1)) / size).round_().clamp_(0, 2**bits - 1).to(torch.uint8)
    packed = pack(codes.flatten(-2)[..., : moved.shape[-1]], bits)
    return Coded(packed, step, lowest, bits, group, axis, moved.shape[-1])


def codes_of(made: Coded) -> Tensor:
    """(..., length) uint8: the codes, the axis of the groups last."""
    shape = (*made.step.shape[:-1], made.length)
    return unpacked(made.packed, made.bits, math.prod(shape)).view(shape)


def numbers_of(codes: Tensor, step: Tensor, lowest: Tensor, group: int) -> Tensor:
    """(..., length) what codes (..., length) stand for, by the step and lowest (..., groups) of their groups, in the dtype of these."""
    wide = _in_groups(codes, group).to(_wide(step.dtype)).mul_(step.unsqueeze(-1)).add_(lowest.unsqueeze(-1))
    return wide.flatten(-2)[..., : codes.shape[-1]].to(step.dtype)


def padded_width(width: int, bits: int) -> int:
    """The least number of codes, not below `width`, that fill whole words."""
    count, _ = _word(bits)
    return -(-width // count) * count


def pack(codes: Tensor, bits: int) -> Tensor:
    """(bytes,) uint8 of uint8 codes below 2^bits (bits 1, 2, 3, 4 or 8), the first in the lowest bits: N codes take N * bits / 8 bytes, up to a whole word.

    A word is the least number of codes that fill whole bytes: 8 codes of 3 bits in 3 bytes.
    """
    flat = codes.flatten()
    count, width = _word(bits)
    filled = torch.nn.functional.pad(flat, (0, -len(flat) % count)).view(-1, count).int()
    words = (filled << _steps(count, bits, codes.device)).sum(-1, dtype=torch.int32)
    return (words.unsqueeze(-1) >> _steps(width, 8, codes.device)).bitwise_and_(255).to(torch.uint8).flatten()


def unpacked(packed: Tensor, bits: int, length: int) -> Tensor:
    """(length,) uint8 codes of what `pack` made."""
    count, width = _word(bits)
    if width == 1:  # a table of all bytes is several times as fast as shifting them
        return packed[:length] if count == 1 else _codes_of_bytes(bits, packed.device).index_select(0, packed.int()).view(torch.uint8)[:length]
    return _shifted_apart(packed, bits)[:length]


@lru_cache(maxsize=16)
def _codes_of_bytes(bits: int, device: torch.device) -> Tensor:
    """(256,) the codes of every byte side by side, read as one integer."""
    every = torch.arange(256, dtype=torch.uint8, device=device)
    return _shifted_apart(every, bits).view(_SAME_SIZE[8 // bits])


def _shifted_apart(packed: Tensor, bits: int) -> Tensor:
    count, width = _word(bits)
    words = (packed.view(-1, width).int() << _steps(width, 8, packed.device)).sum(-1, dtype=torch.int32)
    codes: Tensor = (words.unsqueeze(-1) >> _steps(count, bits, packed.device)).bitwise_and_(2**bits - 1)
    return codes.to(torch.uint8).flatten()


def _word(bits: int) -> tuple[int, int]:
    """(codes, bytes) of a word."""
    shared = math.gcd(bits, 8)
    return 8 // shared, bits // shared


def _steps(count: int, size: int, device: torch.device) -> Tensor:
    return torch.arange(0, count * size, size, dtype=torch.int32, device=device)


def _in_groups(numbers: Tensor, group: int) -> Tensor:
    """(..., groups, group) of (..., length); a last group that is short is filled with its last number, which changes neither its lowest nor its highest."""
    missing = -numbers.shape[-1] % group
    if missing:
        numbers = torch.cat([numbers, numbers[..., -1:].expand(*numbers.shape[:-1], missing)], -1)
    return numbers.reshape(*numbers.shape[:-1], -(-numbers.shape[-1] // group), group)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _rounded_up(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """Not negative numbers in a dtype of as many or fewer bits, never below what they were: as integers, floats of one sign keep their order."""
    nearest = numbers.to(dtype)
    above = (nearest.view(_SAME_SIZE[dtype.itemsize]) + 1).view(dtype)
    return torch.where(nearest.to(numbers.dtype) < numbers, above, nearest)
