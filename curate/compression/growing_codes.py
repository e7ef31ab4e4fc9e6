"""Few bits while a sequence is generated: newcomers stay whole until enough of them are there, and are then coded as the prefix was.

What is coded depends on its own tokens alone, so at any length the cache is what coding the whole sequence at once gives.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from curate.compression.codec import Coded, coded, codes_of, numbers_of, pack, padded_width, unpacked
from curate.compression.corrected import BLOCK, Corrected
from curate.compression.quantised import Decodes, over


@dataclass(frozen=True)
class TokenCodes:
    """Tokens in few bits, each coded by itself in groups of channels, and its codes filled up to whole bytes, so that others can be put behind them."""

    packed: Tensor  # (Hk, n, bytes of a token)
    step: Tensor  # (Hk, n, groups)
    lowest: Tensor  # (Hk, n, groups)
    bits: int
    group: int
    width: int  # channels

    @classmethod
    def of(cls, numbers: Tensor, bits: int, group: int) -> "TokenCodes":
        """Of numbers (Hk, n, d), as `coded` along the channels."""
        made: Coded = coded(numbers, bits, group)
        width = numbers.shape[-1]
        filled = torch.nn.functional.pad(codes_of(made), (0, padded_width(width, bits) - width))
        packed = pack(filled, bits).view(*numbers.shape[:2], padded_width(width, bits) * bits // 8)
        return cls(packed, made.step, made.lowest, bits, made.group, width)

    def joined(self, other: "TokenCodes") -> "TokenCodes":
        """These tokens and then the other's."""
        packed, step, lowest = (torch.cat(pair, 1) for pair in zip(self.tensors, other.tensors, strict=True))
        return TokenCodes(packed, step, lowest, self.bits, self.group, self.width)

    def decoded(self) -> Tensor:
        """(Hk, n, d), in the dtype they had."""
        filled = padded_width(self.width, self.bits)
        heads, tokens = self.packed.shape[:2]
        codes = unpacked(self.packed.flatten(), self.bits, heads * tokens * filled).view(heads, tokens, filled)[..., : self.width]
        return numbers_of(codes, self.step, self.lowest, self.group)

    @property
    def tensors(self) -> Sequence[Tensor]:
        return [self.packed, self.step, self.lowest]


class GrowingCodes:
    """One layer's keys and values of one sequence: pieces in few bytes, and the last ones as they are; as `DecodeCache`."""

    def __init__(self, keys: Sequence[Decodes], last_keys: Tensor, values: Sequence[Decodes], last_values: Tensor) -> None:
        self.keys, self.values = list(keys), list(values)
        self.last_keys, self.last_values = last_keys.clone(), last_values.clone()  # (Hk, m, d)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, position: int, scale: float) -> Tensor:
        """(Hk, G, d) for queries (Hk, G, d); the step that fills a piece still attends to its tokens as they are."""
        self.last_keys, self.last_values = torch.cat([self.last_keys, key], 1), torch.cat([self.last_values, value], 1)
        output = over(query, *self.read(), scale)[0]
        self.fold()
        return output

    def read(self) -> tuple[Tensor, Tensor]:
        """Keys and values (Hk, n, d)."""
        keys = torch.cat([*(piece.decoded() for piece in self.keys), self.last_keys], 1)
        return keys, torch.cat([*(piece.decoded() for piece in self.values), self.last_values], 1)

    def fold(self) -> None:
        """Code what has become old enough."""
        raise NotImplementedError

    @property
    def tensors(self) -> Sequence[Tensor]:
        return [tensor for piece in (*self.keys, *self.values) for tensor in piece.tensors] + [self.last_keys, self.last_values]


class KiviCodes(GrowingCodes):
    """KIVI: when `residual` keys are whole they are coded together, per channel; of values the newest `residual` are whole, and the next leaves alone."""

    def __init__(self, keys: Tensor, values: Tensor, bits: int, group: int, residual: int) -> None:
        self.bits, self.group, self.residual = bits, group, residual
        n = keys.shape[1]
        old, older = n - n % residual, max(0, n - residual)
        first = [coded(keys[:, :old], bits, group, axis=-2)] if old else []
        super().__init__(first, keys[:, old:], [TokenCodes.of(values[:, :older], bits, group)], values[:, older:])

    def fold(self) -> None:
        if self.last_keys.shape[1] == self.residual:
            self.keys.append(coded(self.last_keys, self.bits, self.group, axis=-2))
            self.last_keys = self.last_keys[:, :0].clone()
        if self.last_values.shape[1] > self.residual:
            gone = TokenCodes.of(self.last_values[:, :1], self.bits, self.group)
            self.values = [piece.joined(gone) for piece in self.values if isinstance(piece, TokenCodes)]
            self.last_values = self.last_values[:, 1:].clone()


class GearCodes(GrowingCodes):
    """GEAR: 64 tokens are gathered as they are, and then become a block: `prefix` makes those of the prefix, `code` later ones.

    Both are given numbers (Hk, 64 N, d), and whether outliers lie along tokens.
    """

    def __init__(self, keys: Tensor, values: Tensor, prefix: Callable[[Tensor, bool], Corrected], code: Callable[[Tensor, bool], Corrected]) -> None:
        self.code = code
        full = keys.shape[1] // BLOCK * BLOCK
        first = [[prefix(numbers[:, :full], tokenwise)] if full else [] for numbers, tokenwise in ((keys, False), (values, True))]
        super().__init__(first[0], keys[:, full:], first[1], values[:, full:])

    def fold(self) -> None:
        if self.last_keys.shape[1] < BLOCK:
            return
        self.keys.append(self.code(self.last_keys, False))
        self.values.append(self.code(self.last_values, True))
        self.last_keys, self.last_values = self.last_keys[:, :0].clone(), self.last_values[:, :0].clone()
