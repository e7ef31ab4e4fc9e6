"""Stores that hold less than keys and values and make them anew whenever they are attended to; nothing that was made is kept.

Bytes are those of the codes; time is that of decoding one layer for every pass, and while it is attended to, its keys and values are there in full.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from curate.compression.codec import unpacked
from curate.inference.attention import FEW, Part, attention, merge
from curate.inference.stores import LayerStore, Ragged


class Decodes(Protocol):
    """A tensor in fewer bytes."""

    def decoded(self) -> Tensor:
        """The tensor, or what is left of it."""

    @property
    def tensors(self) -> Sequence[Tensor]:
        """Everything that is kept."""


@dataclass(frozen=True)
class Whole:
    """A tensor as it was; of tokens (Hk, n, d), where others are put behind them."""

    tensor: Tensor

    def joined(self, *others: "Whole") -> "Whole":
        """These tokens and then the others'."""
        return Whole(torch.cat([self.tensor, *(other.tensor for other in others)], 1))

    def pick(self, tokens: Tensor) -> "Whole":
        """These of the tokens, in this order."""
        return Whole(self.tensor.index_select(1, tokens))

    def decoded(self) -> Tensor:
        return self.tensor

    @property
    def tensors(self) -> Sequence[Tensor]:
        return [self.tensor]


class Decoding(ABC):
    """A store whose keys and values are made when they are attended to."""

    @abstractmethod
    def read(self) -> tuple[Tensor, Tensor]:
        """Keys and values (Hk, n, d), in the order of their positions."""

    def attend(self, query: Tensor, scale: float) -> Part:
        keys, values = self.read()
        return over(query, keys, values, scale)


@dataclass(frozen=True)
class Tiers(Decoding):
    """Some tokens of every head as they were or in some bits, the others in few; keys in bits may be stored multiplied by a number per channel."""

    keys: Decodes  # (Hk, m, d)
    values: Decodes  # (Hk, m, d)
    low_keys: Decodes  # (Hk, n - m, d)
    low_values: Decodes  # (Hk, n - m, d)
    balancer: Tensor | None  # (Hk, d)
    coded: bool  # whether `keys` are in bits, too, and so multiplied as the others
    high: Tensor  # (bytes,) uint8: a bit per head and token, whether it is one of the first

    def read(self) -> tuple[Tensor, Tensor]:
        keys, low = self.keys.decoded(), self.low_keys.decoded()
        if self.balancer is not None:
            numbers = self.balancer.unsqueeze(1)
            keys, low = unbalanced(keys, numbers) if self.coded else keys, unbalanced(low, numbers)
        heads, many, width = keys.shape
        high = unpacked(self.high, 1, heads * (many + low.shape[1])).view(heads, -1).bool()
        place = torch.where(high, high.cumsum(1) - 1, many + (~high).cumsum(1) - 1).unsqueeze(-1).expand(-1, -1, width)
        return torch.cat([keys, low], 1).gather(1, place), torch.cat([self.values.decoded(), self.low_values.decoded()], 1).gather(1, place)

    @property
    def tensors(self) -> Sequence[Tensor]:
        parts = (self.keys, self.values, self.low_keys, self.low_values)
        numbers = [] if self.balancer is None else [self.balancer]
        return [*(tensor for part in parts for tensor in part.tensors), *numbers, self.high]


@dataclass(frozen=True)
class Residual(Decoding):
    """The first keys and the first values in few bytes, the others, not always equally many, as they were."""

    keys: Decodes  # (Hk, a, d)
    last_keys: Tensor  # (Hk, n - a, d)
    values: Decodes  # (Hk, b, d)
    last_values: Tensor  # (Hk, n - b, d)

    def read(self) -> tuple[Tensor, Tensor]:
        return torch.cat([self.keys.decoded(), self.last_keys], 1), torch.cat([self.values.decoded(), self.last_values], 1)

    @property
    def tensors(self) -> Sequence[Tensor]:
        return [*self.keys.tensors, self.last_keys, *self.values.tensors, self.last_values]


@dataclass(frozen=True)
class SlimKeys:
    """Keys of all but the last tokens without some of their channels, which differ by head; logits are scaled as if all channels were there."""

    slim: Tensor  # (Hk, n - r, d - k)
    channels: Tensor  # (Hk, d - k) int16, ascending
    last: Tensor  # (Hk, r, d)
    values: Tensor  # (Hk, n, d)

    def attend(self, query: Tensor, scale: float) -> Part:
        old = self.slim.shape[1]
        if query.shape[1] >= FEW or not old:  # blocked kernels want keys as wide as values
            return over(query, self.zeroed(), self.values, scale)
        narrow = query.gather(-1, self._channels(query.shape[1]))
        return merge([over(narrow, self.slim, self.values[:, :old], scale), over(query, self.last, self.values[:, old:], scale)])

    def zeroed(self) -> Tensor:
        """(Hk, n, d) keys with zeros in the channels that are gone."""
        wide = self.slim.new_zeros(*self.slim.shape[:2], self.values.shape[-1])
        return torch.cat([wide.scatter(-1, self._channels(self.slim.shape[1]), self.slim), self.last], 1)

    def _channels(self, rows: int) -> Tensor:
        return self.channels.long().unsqueeze(1).expand(-1, rows, -1)

    @property
    def tensors(self) -> Sequence[Tensor]:
        return [self.slim, self.channels, self.last, self.values]


def stored(kept: Sequence[Tensor], store: Callable[[slice, Tensor], LayerStore]) -> LayerStore:
    """One store of all heads where they keep equally many tokens, else one for each; `store` is given the heads and their tokens (heads, m)."""
    if len({len(tokens) for tokens in kept}) == 1:
        return store(slice(0, len(kept)), torch.stack(list(kept)))
    return Ragged([store(slice(head, head + 1), tokens.unsqueeze(0)) for head, tokens in enumerate(kept)])


def taken(tensor: Tensor, tokens: Tensor) -> Tensor:
    """(Hk, m, d) of a tensor (Hk, n, d) and tokens (Hk, m), with memory of its own."""
    return tensor.gather(1, tokens.unsqueeze(-1).expand(-1, -1, tensor.shape[-1]))


def balanced(keys: Tensor, balancer: Tensor) -> Tensor:
    """Keys (..., d) times their balancer."""
    return (keys.float() * balancer).to(keys.dtype)


def unbalanced(keys: Tensor, balancer: Tensor) -> Tensor:
    """Keys (..., d) over their balancer."""
    return (keys.float() / balancer).to(keys.dtype)


def over(query: Tensor, keys: Tensor, values: Tensor, scale: float) -> Part:
    """Attention of queries (Hk, Q, d) over keys and values (Hk, n, d); of no keys, zeros that count nothing."""
    if keys.shape[1] == 0:
        shape = query.shape[:2]
        return values.new_zeros(*shape, values.shape[-1]), torch.full(shape, float("-inf"), device=query.device)
    output, normaliser = attention(query.unsqueeze(0), keys.unsqueeze(0), values.unsqueeze(0), scale)
    return output[0], normaliser[0]
