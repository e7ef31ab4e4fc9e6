"""One step of decoding for many answers at once: each prompt's keys are kept once, however many answers grow from it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from curate.inference.attention import Part, attention, grouped, merge
from curate.inference.passes import attend_path
from curate.inference.stores import Memory, held_bytes

GROW = 64  # tokens by which room for answers is added


@dataclass
class Prompts:
    """Keys and values of P prompts behind the stored stretches, right-padded to n tokens, by layer."""

    keys: list[Tensor]  # (P, Hk, n, d)
    values: list[Tensor]
    lengths: Tensor  # (P,)

    def __post_init__(self) -> None:
        width = self.keys[0].shape[2]
        past = torch.arange(width, device=self.lengths.device) >= self.lengths.unsqueeze(1)
        padded = bool(past.any())
        bias = torch.zeros(past.shape, dtype=self.keys[0].dtype, device=past.device).masked_fill(past, float("-inf"))
        self.bias = bias[:, None, None, :] if padded else None

    def pick(self, rows: Tensor) -> "Prompts":
        """These prompts alone."""
        return Prompts([keys[rows] for keys in self.keys], [values[rows] for values in self.values], self.lengths[rows])


@dataclass
class Decoding:
    """B answers that grow: `owners` (B,) says whose prompt each follows; a pass adds one token to every answer."""

    path: Sequence[Memory]
    prompts: Prompts | None  # None where the stored stretches are all of every prompt
    owners: Tensor
    length: int = 0  # tokens that every answer has so far
    keys: list[Tensor] = field(default_factory=list)  # (B, Hk, room, d) by layer
    values: list[Tensor] = field(default_factory=list)
    _next: Tensor | None = field(default=None, init=False)  # (1,) while it stands: the place of the next token, in place of `length`
    _ahead: Tensor = field(init=False)  # (room,) what keeps later places from being seen

    def __post_init__(self) -> None:
        self._arrange()

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        self._add(layer, key, value)
        heads = key.shape[1]
        rows, own, _, width = query.shape
        parts = attend_path(self.path, layer, query, heads, scale)
        if self.prompts is not None:
            parts.append(self._prompt(self.prompts, layer, query, heads, scale))
        until = self.length + 1 if self._next is None else None
        own_keys, own_values = self.keys[layer][:, :, :until], self.values[layer][:, :, :until]
        output, normaliser = attention(grouped(query, heads), own_keys, own_values, scale, None if self._next is None else self._ahead)
        parts.append((output.reshape(rows, own, 1, -1), normaliser.reshape(rows, own, 1)))
        return merge(parts)[0]

    def advance(self) -> None:
        """After a pass: every answer is a token longer."""
        self.length += 1
        if self._next is not None:
            self._next += 1
            self._ahead[self.length : self.length + 1] = 0

    def stand(self) -> int:
        """From here on every pass reads and writes at the same addresses, so that it can be recorded: for how many passes. `move` ends it."""
        self._make_room()
        room = self.keys[0].shape[2]
        self._next = torch.tensor([self.length], device=self.owners.device)
        self._ahead = torch.zeros(room, dtype=self.keys[0].dtype, device=self.owners.device)
        self._ahead[self.length + 1 :] = float("-inf")
        return room - self.length

    def move(self) -> None:
        """No longer stand: read what is filled alone."""
        self._next = None

    def keep(self, rows: Tensor) -> None:
        """Go on with these answers alone, and with their prompts."""
        self.keys, self.values = [keys[rows] for keys in self.keys], [values[rows] for values in self.values]
        left, self.owners = torch.unique(self.owners[rows], return_inverse=True)
        if self.prompts is not None and len(left) < len(self.prompts.lengths):
            self.prompts = self.prompts.pick(left)
        self._arrange()

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values that are held."""
        prompts = [*self.prompts.keys, *self.prompts.values] if self.prompts is not None else []
        return held_bytes([*prompts, *self.keys, *self.values]) + sum(memory.nbytes for memory in self.path)

    def _arrange(self) -> None:
        """(P, m) the answers of each prompt, padded with answer 0, and each answer's place in that table."""
        counts = torch.bincount(self.owners)
        order = torch.argsort(self.owners, stable=True)
        first = counts.cumsum(0) - counts
        within = torch.arange(len(order), device=order.device) - first[self.owners[order]]
        self._table = torch.zeros((len(counts), int(counts.max())), dtype=torch.long, device=order.device)
        self._table[self.owners[order], within] = order
        self._within = torch.empty_like(order)
        self._within[order] = within
        self._even = torch.equal(self._table.flatten(), torch.arange(len(order), device=order.device))  # as many answers to each prompt, in order

    def _prompt(self, prompts: Prompts, layer: int, query: Tensor, heads: int, scale: float) -> Part:
        rows, own, _, width = query.shape
        count, most = self._table.shape
        asked = query if self._even else query[self._table]
        asked = asked.reshape(count, most, heads, own // heads, width).transpose(1, 2).reshape(count, heads, -1, width)
        output, normaliser = attention(asked, prompts.keys[layer], prompts.values[layer], scale, prompts.bias)
        output = output.reshape(count, heads, most, own // heads, -1).transpose(1, 2)
        normaliser = normaliser.reshape(count, heads, most, own // heads).transpose(1, 2)
        if not self._even:
            output, normaliser = output[self.owners, self._within], normaliser[self.owners, self._within]
        return output.reshape(rows, own, 1, -1), normaliser.reshape(rows, own, 1)

    def _add(self, layer: int, key: Tensor, value: Tensor) -> None:
        if layer == len(self.keys):  # zeros, for numbers that are not may lie in empty memory, and a weight of 0 does not hide them
            self.keys.append(key.new_zeros((*key.shape[:2], GROW, key.shape[3])))
            self.values.append(value.new_zeros((*value.shape[:2], GROW, value.shape[3])))
        if self._next is not None:
            self.keys[layer].index_copy_(2, self._next, key)
            self.values[layer].index_copy_(2, self._next, value)
            return
        if not layer:
            self._make_room()
        self.keys[layer][:, :, self.length] = key[:, :, 0]
        self.values[layer][:, :, self.length] = value[:, :, 0]

    def _make_room(self) -> None:
        """For one more token at least."""
        if self.length == self.keys[0].shape[2]:
            self.keys, self.values = [_wider(keys) for keys in self.keys], [_wider(values) for values in self.values]


def _wider(states: Tensor) -> Tensor:
    return torch.nn.functional.pad(states, (0, 0, 0, GROW))
