"""Answers that grow at once over caches that change: one cache a layer for all of them, which decodes what a prompt has in few bits once for its answers.

Answers are B rows; those to a prompt lie side by side. What rows hold of their own is kept in tensors with room for the longest, of which row b has the first
places; numbers behind them are finite and count nothing.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from curate.compression.quantised import Decodes

    Prompt = tuple[Sequence[Decodes], Sequence[Decodes]]  # pieces of keys and of values

ROOM = 8  # tokens by which a tail is widened


class Blocks(Protocol):
    """Blocks of one or more tokens in few bytes, each of them coded by itself."""

    def decoded(self) -> "Tensor":
        """(Hk, N tokens, d), or what else N blocks are decoded to."""

    def joined(self, *others: Self) -> Self:
        """These blocks and then the others'."""

    def pick(self, blocks: "Tensor") -> Self:
        """These of the blocks, in this order."""

    @property
    def tensors(self) -> "Sequence[Tensor]":
        """Everything that is kept."""


class Tail:
    """Tokens that rows hold as they are, of one or more kinds (keys, values): (Hk, B, room, ...), of which row b has the first `filled[b]`."""

    def __init__(self, parts: "Sequence[Sequence[Tensor]]", answers: Sequence[int], room: int | None = None) -> None:
        """For each kind the tokens (Hk, n, ...) of prompts with so many answers; room for so many tokens, by default as many as there are."""
        import torch

        self.filled = [part.shape[1] for part, count in zip(parts[0], answers, strict=True) for _ in range(count)]
        room = max(self.filled) if room is None else room
        self.held = [one[0].new_zeros((one[0].shape[0], len(self.filled), room, *one[0].shape[2:])) for one in parts]
        for held, one in zip(self.held, parts, strict=True):
            for part, rows in zip(one, spans(answers), strict=True):
                held[:, rows, : part.shape[1]] = part.unsqueeze(1)
        self._rows = torch.arange(len(self.filled), device=self.held[0].device)
        self._places = torch.tensor(self.filled, device=self.held[0].device)  # as `filled`

    def states(self, kind: int = 0) -> "Tensor":
        """(Hk, B, m, ...): up to the last place that a row has filled."""
        return self.held[kind][:, :, : max(self.filled)]

    def append(self, *new: "Tensor") -> None:
        """One more token of every row, of each kind (Hk, B, 1, ...)."""
        import torch

        if max(self.filled) == self.held[0].shape[2]:
            self.held = [torch.cat([held, held.new_zeros((*held.shape[:2], ROOM, *held.shape[3:]))], 2) for held in self.held]
        for held, tokens in zip(self.held, new, strict=True):
            held[:, self._rows, self._places] = tokens[:, :, 0]
        self.filled = [count + 1 for count in self.filled]
        self._places = self._places + 1

    def those_with(self, count: int) -> list[int]:
        """Rows that hold so many tokens."""
        return [row for row, filled in enumerate(self.filled) if filled == count]

    def take(self, rows: Sequence[int], count: int) -> "list[Tensor]":
        """[(Hk, R, count, ...)]: the first tokens of these rows, of each kind; the others move up."""
        import torch

        mine = torch.tensor(rows, device=self._rows.device)
        taken = [held[:, mine] for held in self.held]
        for held, tokens in zip(self.held, taken, strict=True):
            held[:, mine, : held.shape[2] - count] = tokens[:, :, count:]
        self._shorten(rows, mine, count)
        return [tokens[:, :, :count] for tokens in taken]

    def swap_out(self, rows: Sequence[int], places: "Tensor") -> "list[Tensor]":
        """[(Hk, R, 1, ...)]: the tokens of these rows at these places (Hk, R), of each kind; the last token of the row takes the place."""
        import torch

        mine, heads = torch.tensor(rows, device=self._rows.device), torch.arange(len(places), device=self._rows.device).unsqueeze(1)
        last = self._places[mine] - 1
        taken = [held[heads, mine, places].unsqueeze(2) for held in self.held]
        for held in self.held:
            held[heads, mine, places] = held[:, mine, last]
        self._shorten(rows, mine, 1)
        return taken

    def keep(self, rows: "Tensor") -> None:
        """Go on with these rows alone."""
        self.filled = [self.filled[row] for row in rows.tolist()]
        self.held, self._rows, self._places = [held[:, rows] for held in self.held], self._rows[: len(rows)], self._places[rows]

    @property
    def tensors(self) -> "Sequence[Tensor]":
        return self.held

    def _shorten(self, rows: Sequence[int], mine: "Tensor", count: int) -> None:
        self._places[mine] -= count
        for row in rows:
            self.filled[row] -= count


class Grid:
    """Blocks of tokens that rows hold in few bytes, of one or more kinds (keys, values): block b of row r at place r * m + b, where m is the most of a row."""

    def __init__(self, rows: int, code: "Sequence[Callable[[Tensor], Blocks]]") -> None:
        """For each kind, what makes R blocks of tokens (Hk, R, tokens of a block, d)."""
        self.filled = [0] * rows
        self._code = code
        self._held: list[Any] = []
        self._nothing: list[Any] = []  # a block of zeros, which stands where a row has fewer than others

    def add(self, rows: Sequence[int], numbers: "Sequence[Tensor]") -> None:
        """One more block for these rows, of each kind (Hk, R, tokens of a block, d)."""
        import torch

        made: list[Any] = [code(tokens) for code, tokens in zip(self._code, numbers, strict=True)]
        before = max(self.filled)
        if not self._nothing:
            self._nothing = [code(torch.zeros_like(tokens[:, :1])) for code, tokens in zip(self._code, numbers, strict=True)]
        old = len(self.filled) * before
        source = np.zeros((len(self.filled), max(before, *(self.filled[row] + 1 for row in rows))), np.int64)
        source[:, :before] = np.arange(1, 1 + old).reshape(len(self.filled), before)
        for number, row in enumerate(rows):
            source[row, self.filled[row]] = 1 + old + number
            self.filled[row] += 1
        order = torch.from_numpy(source.ravel()).to(numbers[0].device)
        held = [[one] for one in self._held] or [[] for _ in made]
        self._held = [nothing.joined(*one, new).pick(order) for nothing, one, new in zip(self._nothing, held, made, strict=True)]

    def read(self, kind: int = 0) -> "list[Tensor]":
        """[(Hk, B, m tokens, d)], or what else blocks of a kind are decoded to; [] where there is none."""
        if not self._held:
            return []
        states: Tensor = self._held[kind].decoded()
        return [states.unflatten(1, (len(self.filled), -1))]

    def counts(self, row: int) -> list[int]:
        """[blocks of a row], as long as what `read` gives."""
        return [self.filled[row]] if self._held else []

    def keep(self, rows: "Tensor") -> None:
        """Go on with these rows alone."""
        before = max(self.filled)
        self.filled = [self.filled[row] for row in rows.tolist()]
        most = max(self.filled)
        if not most:
            self._held = []
        elif self._held:
            import torch

            order = rows.unsqueeze(1) * before + torch.arange(most, device=rows.device)
            self._held = [one.pick(order.flatten()) for one in self._held]

    @property
    def tensors(self) -> "Sequence[Tensor]":
        return [tensor for one in (*self._held, *self._nothing) for tensor in one.tensors]


class Together(ABC):
    """One layer's keys and values of all rows: pieces of each prompt, which are never changed again, and the rows' own tokens, in parts."""

    def __init__(self, prompts: "Sequence[Prompt]", answers: Sequence[int]) -> None:
        """Pieces of keys and of values (Hk, n, d) of prompts with so many answers; cut into pieces differently, keys and values may be."""
        self.prompts, self.answers = list(prompts), list(answers)

    @abstractmethod
    def enter(self, key: "Tensor", value: "Tensor") -> None:
        """Take in a token (Hk, B, 1, d) of every row."""

    @abstractmethod
    def own_logits(self, query: "Tensor") -> "list[Tensor]":
        """[(Hk, B, G, m)]: products of queries (Hk, B, G, d) and the rows' own keys, by part."""

    @abstractmethod
    def own_values(self) -> "list[Tensor]":
        """[(Hk, B, m, d)]: the rows' own values, by part."""

    @abstractmethod
    def key_counts(self, row: int) -> list[int]:
        """How many keys a row has in each part."""

    @abstractmethod
    def value_counts(self, row: int) -> list[int]:
        """How many values a row has in each part."""

    @abstractmethod
    def fold(self, shares: "Sequence[Tensor]") -> None:
        """Code what has become old enough, after own values got so much attention, [(Hk, B, G, m)]."""

    @property
    @abstractmethod
    def own(self) -> "Sequence[Grid | Tail]":
        """Everything that rows hold of their own."""

    def attend(self, query: "Tensor", key: "Tensor", value: "Tensor", scale: float) -> "Tensor":
        """(B, Hk, G, d): takes in every row's newest key and value (B, Hk, 1, d), attends with its queries (B, Hk, G, d), and codes afterwards."""
        import torch

        self.enter(key.transpose(0, 1), value.transpose(0, 1))
        asked = query.transpose(0, 1)
        logits, values = self.own_logits(asked), self.own_values()
        wide = torch.float64 if query.dtype == torch.float64 else torch.float32
        shares = [part.new_zeros((*asked.shape[:3], part.shape[2]), dtype=wide) for part in values]
        output = value.new_zeros((*asked.shape[:3], value.shape[-1]))
        for prompt, rows in zip(self.prompts, spans(self.answers), strict=True):
            mine, given = [part[:, rows] for part in logits], [part[:, rows] for part in shares]
            self._behind(prompt, rows.start, asked[:, rows], mine, given, output[:, rows], scale)
        for share, part in zip(shares, values, strict=True):
            output += share.to(value.dtype) @ part
        self.fold(shares)
        return output.transpose(0, 1)

    def keep(self, rows: "Tensor") -> None:
        """Go on with these rows alone, and with their prompts."""
        kept = rows.tolist()
        counts = [sum(span.start <= row < span.stop for row in kept) for span in spans(self.answers)]
        self.prompts = [prompt for prompt, count in zip(self.prompts, counts, strict=True) if count]
        self.answers = [count for count in counts if count]
        for part in self.own:
            part.keep(rows)

    @property
    def tensors(self) -> "Sequence[Tensor]":
        """Everything that is kept for the layer, for bytes to be counted."""
        pieces = [piece for keys, values in self.prompts for piece in (*keys, *values)]
        return [tensor for one in (*pieces, *self.own) for tensor in one.tensors]

    def _behind(self, prompt: "Prompt", row: int, query: "Tensor", own: "Sequence[Tensor]", given: "Sequence[Tensor]", output: "Tensor", scale: float) -> None:
        """Of the answers to a prompt, from `row` on: what they get of its values is added to `output`, what their own values are given put into `given`."""
        import torch

        together = query.flatten(1, 2)
        keys = [(together @ piece.decoded().transpose(-1, -2)).unflatten(1, query.shape[1:3]) for piece in prompt[0]]
        logits = torch.cat([*keys, *(part[..., :count] for part, count in zip(own, self.key_counts(row), strict=True))], -1) * scale
        counts = self.value_counts(row)
        old, *mine = logits.softmax(-1, dtype=given[-1].dtype).split([logits.shape[-1] - sum(counts), *counts], -1)
        for part, share in zip(given, mine, strict=True):
            part[..., : share.shape[-1]] = share
        weights, first = old.to(query.dtype).flatten(1, 2), 0
        for piece in prompt[1]:
            values = piece.decoded()
            output += (weights[..., first : first + values.shape[1]] @ values).unflatten(1, query.shape[1:3])
            first += values.shape[1]


def spans(answers: Sequence[int]) -> list[slice]:
    """The rows of each prompt, by how many answers it has."""
    ends = list(accumulate(answers))
    return [slice(end - count, end) for end, count in zip(ends, answers, strict=True)]
