"""Keys and values of a prefix as they are kept: whole, thinned out, or in few bits. Each layer says how many bytes it really holds.

A prefix is stored once, for one sequence; every row that follows it attends to it as it is. Nothing here is written to after it was made, so a
fork is the same object.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from curate.inference.attention import Part, attention


class LayerStore(Protocol):
    """One layer's keys and values of one sequence."""

    def attend(self, query: Tensor, scale: float) -> Part:
        """(Hk, Q, d) and (Hk, Q): attention of queries (Hk, Q, d) over what is kept, and its log normaliser."""

    @property
    def tensors(self) -> Sequence[Tensor]:
        """Everything that is kept for the layer, for bytes to be counted."""


class DecodeCache(Protocol):
    """One layer's keys and values of one sequence that is being generated, which forgets as it goes."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, position: int, scale: float) -> Tensor:
        """(Hk, G, d): takes in the newest token's key and value (Hk, 1, d), attends with its queries (Hk, G, d), and evicts afterwards."""

    @property
    def tensors(self) -> Sequence[Tensor]:
        """Everything that is kept for the layer, for bytes to be counted."""


class SharedCache(Protocol):
    """One layer's keys and values of B answers that grow at once, whatever their prompts are."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """(B, Hk, G, d), as of `DecodeCache`, for queries (B, Hk, G, d) and the newest tokens' keys and values (B, Hk, 1, d)."""

    def keep(self, rows: Tensor) -> None:
        """Go on with these answers (ascending) alone."""

    @property
    def tensors(self) -> Sequence[Tensor]:
        """Everything that is kept for the layer, for bytes to be counted."""


@runtime_checkable
class Joins(Protocol):
    """A `DecodeCache` that answers to several prompts can share."""

    def beside(self, others: Sequence[Self], answers: Sequence[int]) -> SharedCache:
        """One cache for so many answers to each prompt: that of this cache, and those of others of its kind; none of them is changed."""


@dataclass(frozen=True)
class Plain:
    """As the model made them."""

    keys: Tensor  # (Hk, n, d)
    values: Tensor  # (Hk, n, d)
    bias: Tensor | None = None  # (Hk, n) added to the logits: the log of how many tokens an entry stands for

    def attend(self, query: Tensor, scale: float) -> Part:
        bias = None if self.bias is None else self.bias.unsqueeze(-2).unsqueeze(0)
        output, normaliser = attention(query.unsqueeze(0), self.keys.unsqueeze(0), self.values.unsqueeze(0), scale, bias)
        return output[0], normaliser[0]

    @property
    def tensors(self) -> Sequence[Tensor]:
        return [self.keys, self.values, *([] if self.bias is None else [self.bias])]


@dataclass(frozen=True)
class Ragged:
    """A store for each key-value head, where heads keep different numbers of tokens."""

    heads: Sequence[LayerStore]

    def attend(self, query: Tensor, scale: float) -> Part:
        parts = [head.attend(query[i : i + 1], scale) for i, head in enumerate(self.heads)]
        return torch.cat([output for output, _ in parts]), torch.cat([normaliser for _, normaliser in parts])

    @property
    def tensors(self) -> Sequence[Tensor]:
        return [tensor for head in self.heads for tensor in head.tensors]


@dataclass(frozen=True)
class Memory:
    """A stretch of tokens that later ones attend to: a store per layer, and how many tokens it stands for."""

    layers: Sequence[LayerStore]
    tokens: int

    @property
    def nbytes(self) -> int:
        """Bytes of the storages that the layers hold on to, each counted once."""
        return held_bytes([tensor for layer in self.layers for tensor in layer.tensors])


def held_bytes(tensors: Sequence[Tensor]) -> int:
    """Bytes of the storages behind these tensors: a view of a large tensor keeps all of it."""
    storages = [tensor.untyped_storage() for tensor in tensors if tensor.numel()]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
