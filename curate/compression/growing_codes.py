"""Few bits while a sequence is generated: newcomers stay whole until enough of them are there, and are then coded as the prefix was.

What is coded depends on its own tokens alone, so at any length the cache is what coding the whole sequence at once gives.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from curate.compression.codec import Coded, coded, codes_of, numbers_of, pack, padded_width, unpacked
from curate.compression.corrected import BLOCK, Corrected
from curate.compression.quantised import Decodes
from curate.compression.together import Grid, Tail, Together


@dataclass(frozen=True)
class TokenCodes:
    """Tokens in few bits, each coded by itself in groups along the last axis, and its codes filled up to whole bytes, so that others can be put behind them."""

    packed: Tensor  # (Hk, n, ..., bytes of a line)
    step: Tensor  # (Hk, n, ..., groups)
    lowest: Tensor  # (Hk, n, ..., groups)
    bits: int
    group: int
    width: int  # numbers of a line: channels

    @classmethod
    def of(cls, numbers: Tensor, bits: int, group: int) -> "TokenCodes":
        """Of numbers (Hk, n, ..., width), as `coded` along the last axis."""
        made: Coded = coded(numbers, bits, group)
        width = numbers.shape[-1]
        filled = torch.nn.functional.pad(codes_of(made), (0, padded_width(width, bits) - width))
        packed = pack(filled, bits).view(*numbers.shape[:-1], padded_width(width, bits) * bits // 8)
        return cls(packed, made.step, made.lowest, bits, made.group, width)

    def joined(self, *others: "TokenCodes") -> "TokenCodes":
        """These tokens and then the others'."""
        return self.holding([torch.cat(parts, 1) for parts in zip(self.tensors, *(other.tensors for other in others), strict=True)])

    def pick(self, tokens: Tensor) -> "TokenCodes":
        """These of the tokens, in this order."""
        return self.holding([tensor.index_select(1, tokens) for tensor in self.tensors])

    def decoded(self) -> Tensor:
        """(Hk, n, ..., width), in the dtype they had."""
        filled = padded_width(self.width, self.bits)
        lines = self.packed.shape[:-1]
        codes = unpacked(self.packed.flatten(), self.bits, math.prod(lines) * filled).view(*lines, filled)[..., : self.width]
        return numbers_of(codes, self.step, self.lowest, self.group)

    @property
    def tensors(self) -> Sequence[Tensor]:
        return [self.packed, self.step, self.lowest]

    def holding(self, tensors: Sequence[Tensor]) -> "TokenCodes":
        """Other tokens that are coded as these, of their `tensors`."""
        packed, step, lowest = tensors
        return TokenCodes(packed, step, lowest, self.bits, self.group, self.width)


class GrowingCodes:
    """One layer's keys and values of one sequence: pieces in few bytes, and the last ones as they are; as `DecodeCache`."""

    def __init__(self, keys: Sequence[Decodes], last_keys: Tensor, values: Sequence[Decodes], last_values: Tensor) -> None:
        self.keys, self.values = list(keys), list(values)
        self.last_keys, self.last_values = last_keys.clone(), last_values.clone()  # (Hk, m, d)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, position: int, scale: float) -> Tensor:
        """(Hk, G, d) for queries (Hk, G, d); the step that fills a piece still attends to its tokens as they are."""
        self.last_keys, self.last_values = torch.cat([self.last_keys, key], 1), torch.cat([self.last_values, value], 1)
        output = attended(query, self._keys(), self._values(), scale)
        self.fold()
        return output

    def read(self) -> tuple[Tensor, Tensor]:
        """Keys and values (Hk, n, d)."""
        return torch.cat(self._keys(), 1), torch.cat(self._values(), 1)

    def _keys(self) -> list[Tensor]:
        return [*(piece.decoded() for piece in self.keys), self.last_keys]

    def _values(self) -> list[Tensor]:
        return [*(piece.decoded() for piece in self.values), self.last_values]

    def fold(self) -> None:
        """Code what has become old enough."""
        raise NotImplementedError

    @property
    def tensors(self) -> Sequence[Tensor]:
        return [tensor for piece in (*self.keys, *self.values) for tensor in piece.tensors] + [self.last_keys, self.last_values]


def attended(query: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor], scale: float) -> Tensor:
    """(Hk, G, d): attention of queries (Hk, G, d) over keys that come in pieces (Hk, n, d), and values in others that are as many together.

    Pieces are not put together: keys that were coded by channel lie channel by channel, and would be turned round.
    """
    logits = torch.cat([query @ piece.transpose(-1, -2) for piece in keys], -1) * scale
    shares = logits.softmax(-1, dtype=torch.float64 if logits.dtype == torch.float64 else torch.float32).to(query.dtype)
    parts = zip(shares.split([piece.shape[1] for piece in values], -1), values, strict=True)
    return torch.stack([share @ piece for share, piece in parts]).sum(0)


class KiviCodes(GrowingCodes):
    """KIVI: when `residual` keys are whole they are coded together, per channel; of values the newest `residual` are whole, and the next leaves alone."""

    def __init__(self, keys: Tensor, values: Tensor, bits: int, group: int, residual: int) -> None:
        self.bits, self.group, self.residual = bits, group, residual
        n = keys.shape[1]
        old, older = n - n % residual, max(0, n - residual)
        first = [coded(keys[:, :old], bits, group, axis=-2)] if old else []
        super().__init__(first, keys[:, old:], [TokenCodes.of(values[:, :older], bits, group)], values[:, older:])

    def beside(self, others: Sequence[Self], answers: Sequence[int]) -> "KiviTogether":
        """One cache for answers to several prompts; as `Joins`."""
        return KiviTogether([self, *others], answers)

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

    def beside(self, others: Sequence[Self], answers: Sequence[int]) -> "GearTogether":
        """One cache for answers to several prompts; as `Joins`."""
        return GearTogether([self, *others], answers)

    def fold(self) -> None:
        if self.last_keys.shape[1] < BLOCK:
            return
        self.keys.append(self.code(self.last_keys, False))
        self.values.append(self.code(self.last_values, True))
        self.last_keys, self.last_values = self.last_keys[:, :0].clone(), self.last_values[:, :0].clone()


class KiviTogether(Together):
    """KIVI for many answers: their tokens are whole, keys that were coded by channel, `residual` at once, and values that were coded one by one."""

    def __init__(self, caches: Sequence[KiviCodes], answers: Sequence[int]) -> None:
        super().__init__([(cache.keys, cache.values) for cache in caches], answers)
        bits, group, self.residual = caches[0].bits, caches[0].group, caches[0].residual
        self.last_keys = Tail([[cache.last_keys for cache in caches]], answers, self.residual)
        self.last_values = Tail([[cache.last_values for cache in caches]], answers, self.residual + 1)
        self.old_keys = Grid(sum(answers), [lambda keys: TokenCodes.of(keys.transpose(2, 3), bits, group)])
        self.old_values = Grid(sum(answers), [lambda values: TokenCodes.of(values[:, :, 0], bits, group)])

    def enter(self, key: Tensor, value: Tensor) -> None:
        self.last_keys.append(key)
        self.last_values.append(value)

    def own_logits(self, query: Tensor) -> list[Tensor]:
        blocks = self.old_keys.read()  # (Hk, B, m, d, residual)
        old = [(query.unsqueeze(2) @ channels).transpose(2, 3).flatten(3) for channels in blocks]
        return [*old, query @ self.last_keys.states().transpose(-1, -2)]

    def own_values(self) -> list[Tensor]:
        return [*self.old_values.read(), self.last_values.states()]

    def key_counts(self, row: int) -> list[int]:
        return [*(count * self.residual for count in self.old_keys.counts(row)), self.last_keys.filled[row]]

    def value_counts(self, row: int) -> list[int]:
        return [*self.old_values.counts(row), self.last_values.filled[row]]

    def fold(self, shares: Sequence[Tensor]) -> None:
        full = self.last_keys.those_with(self.residual)
        if full:
            self.old_keys.add(full, self.last_keys.take(full, self.residual))
        over = self.last_values.those_with(self.residual + 1)
        if over:
            self.old_values.add(over, self.last_values.take(over, 1))

    @property
    def own(self) -> Sequence[Grid | Tail]:
        return [self.last_keys, self.last_values, self.old_keys, self.old_values]


class GearTogether(Together):
    """GEAR for many answers: their tokens are whole, or in blocks of 64."""

    def __init__(self, caches: Sequence[GearCodes], answers: Sequence[int]) -> None:
        super().__init__([(cache.keys, cache.values) for cache in caches], answers)
        code = caches[0].code
        self.last = Tail([[cache.last_keys for cache in caches], [cache.last_values for cache in caches]], answers, BLOCK)
        self.blocks = Grid(sum(answers), [lambda keys: code(keys.flatten(1, 2), False), lambda values: code(values.flatten(1, 2), True)])

    def enter(self, key: Tensor, value: Tensor) -> None:
        self.last.append(key, value)

    def own_logits(self, query: Tensor) -> list[Tensor]:
        return [query @ keys.transpose(-1, -2) for keys in (*self.blocks.read(0), self.last.states(0))]

    def own_values(self) -> list[Tensor]:
        return [*self.blocks.read(1), self.last.states(1)]

    def key_counts(self, row: int) -> list[int]:
        return [*(count * BLOCK for count in self.blocks.counts(row)), self.last.filled[row]]

    def value_counts(self, row: int) -> list[int]:
        return self.key_counts(row)

    def fold(self, shares: Sequence[Tensor]) -> None:
        full = self.last.those_with(BLOCK)
        if full:
            self.blocks.add(full, self.last.take(full, BLOCK))

    @property
    def own(self) -> Sequence[Grid | Tail]:
        return [self.last, self.blocks]
