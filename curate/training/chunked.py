"""The gradient of one long row with the memory of a chunk of it (ChunkFlow; Yuan et al., 2025).

A pass forward without autograd keeps the keys and values of every layer. Then chunks run again from the last to the first, with
autograd. What a chunk attends to beyond itself is read from the kept tensors; the gradients that it leaves there are added to
those of the chunk that made them, when its turn comes. In exact arithmetic the sum over chunks is the gradient of the whole row.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from curate.core import Row
from curate.errors import ModelError
from curate.model import LanguageModel, decoder_of
from curate.training.attending import Asked, attending, losses_at
from curate.training.fitness import own_losses, probe_rows, unfit
from curate.training.stretches import Stretches


@dataclass
class _Kept:
    """What one layer keeps of its keys, or of its values, for the whole row, and the gradients that later chunks left there."""

    values: Tensor  # (1, H, T, d)
    filled: int = 0  # tokens
    gradients: Tensor | None = None  # (1, H, T, d), at least float32

    def fill(self, start: int, own: Tensor) -> None:
        """Keep a chunk's own the first time that it is computed."""
        if self.filled == start:
            self.filled = start + own.shape[2]
            self.values[:, :, start : self.filled] = own.detach()

    def leave(self, start: int, gradient: Tensor) -> None:
        if self.gradients is None:
            self.gradients = torch.zeros_like(self.values, dtype=torch.promote_types(self.values.dtype, torch.float32))
        self.gradients[:, :, start : start + gradient.shape[2]] += gradient

    def owed(self, start: int, stop: int) -> Tensor:
        return self.values.new_zeros(()) if self.gradients is None else self.gradients[:, :, start:stop]


class _Joined(torch.autograd.Function):
    """A chunk's own keys behind those that are kept; backward leaves there what is theirs, and adds to its own what later chunks left."""

    @staticmethod
    def forward(context: Any, own: Tensor, kept: _Kept, first: int, start: int) -> Tensor:
        context.kept, context.first, context.start = kept, first, start
        return kept.values[:, :, first : start + own.shape[2]].detach()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        earlier, own = gradient.split([context.start - context.first, gradient.shape[2] - context.start + context.first], 2)
        owed = context.kept.owed(context.start, context.start + own.shape[2])
        if earlier.shape[2]:
            context.kept.leave(context.first, earlier)
        return (own + owed).to(own.dtype), None, None, None


@dataclass
class _Chunk:
    """The pass of tokens start, ..., stop - 1, which attend to all before them."""

    start: int
    stop: int
    kept: dict[tuple[int, str], _Kept]  # by layer, of the whole row
    tokens: int  # of the whole row
    _stretches: dict[int, Stretches] = field(default_factory=dict, init=False)  # by their first key

    def attend(self, asked: Asked) -> Tensor:
        first = 0 if asked.window is None else max(0, self.start + 1 - asked.window)
        key, value = (self._joined(asked.layer, name, own, first) for name, own in (("key", asked.key), ("value", asked.value)))
        stretches = self._stretches.setdefault(first, Stretches([self.stop - self.start], [self.stop - first]))
        return stretches.attend(Asked(asked.layer, asked.query, key, value, asked.scale, asked.window, asked.dropout))

    def _joined(self, layer: int, name: str, own: Tensor, first: int) -> Tensor:
        if (layer, name) not in self.kept:
            self.kept[layer, name] = _Kept(own.new_empty(1, own.shape[1], self.tokens, own.shape[3]))
        kept = self.kept[layer, name]
        kept.fill(self.start, own)
        joined: Tensor = _Joined.apply(own, kept, first, self.start)  # type: ignore[no-untyped-call]
        return joined


class _Chunks:
    """One row in chunks, without what comes after its last supervised token."""

    def __init__(self, model: LanguageModel, row: Row, chunk_tokens: int) -> None:
        supervised = np.flatnonzero(row.supervised[1:])  # the places before the supervised tokens
        tokens = int(supervised[-1]) + 1 if len(supervised) else 0
        self.model = model
        self._ids = torch.from_numpy(row.input_ids.astype(np.int64)).to(model.device)
        self._places, self._tokens = supervised, tokens
        borders = [*range(0, tokens, chunk_tokens), tokens]
        self._spans = list(zip(borders[:-1], borders[1:], strict=True))
        self._kept: dict[tuple[int, str], _Kept] = {}

    def __len__(self) -> int:
        return len(self._spans)

    def losses_from(self, i: int) -> tuple[int, int]:
        """Which of the row's losses are chunk i's."""
        start, stop = np.searchsorted(self._places, self._spans[i])
        return int(start), int(stop)

    def losses(self, i: int) -> Tensor:
        """The losses after the tokens of chunk i; the label of its last token may be the first of the next chunk."""
        (start, stop), (first, last) = self._spans[i], self.losses_from(i)
        places = torch.from_numpy(self._places[first:last]).to(self._ids.device)
        with attending(self.model, _Chunk(start, stop, self._kept, self._tokens)):
            return losses_at(self.model, *self._inputs(i), places - start, self._ids[places + 1])

    def keep(self, i: int) -> None:
        """Run chunk i for its keys and values only."""
        ids, positions = self._inputs(i)
        with attending(self.model, _Chunk(*self._spans[i], self._kept, self._tokens)):
            decoder_of(self.model.model)(input_ids=ids, position_ids=positions, use_cache=False)

    def _inputs(self, i: int) -> tuple[Tensor, Tensor]:
        start, stop = self._spans[i]
        return self._ids[start:stop].unsqueeze(0), torch.arange(start, stop, device=self._ids.device).unsqueeze(0)


def backward_in_chunks(model: LanguageModel, row: Row, factors: Tensor, chunk_tokens: int) -> Tensor:
    """Add the gradient of  sum_s factors_s loss_s  to every trained parameter; returns the losses (S,) in nats, without gradient.

    `factors` (S,) weigh the row's supervised tokens, of which the first token of the row is none. Memory: the activations of one
    chunk, keys and values of the whole row, and their gradients in float32; time: one more pass forward over all chunks but the last.
    Dropout draws the same masks in both passes of a chunk, and leaves the generators where one pass would. `check_chunkable`
    says whether a model allows this. Called under autocast, the backward passes run outside of it.
    """
    chunks = _Chunks(model, row, chunk_tokens)
    states = []
    with torch.no_grad():
        for i in range(len(chunks) - 1):
            states.append(_random_state(model.device))
            chunks.keep(i)
    losses: list[Tensor] = []
    after = None
    for i in reversed(range(len(chunks))):
        if after is not None:
            _set_random_state(model.device, states[i])
        found = chunks.losses(i)
        after = after or _random_state(model.device)
        with torch.autocast(_kind(model.device), enabled=False):
            (found * factors[slice(*chunks.losses_from(i))]).sum().backward()
        losses.append(found.detach())
    if after is not None:
        _set_random_state(model.device, after)
    return torch.cat(losses[::-1]) if losses else factors.new_zeros(0)


def check_chunkable(model: LanguageModel) -> None:
    """ModelError if a short row in chunks has other losses than the row whole (float32: to 1e-4, relative to 1 + nats)."""
    row = probe_rows(model, [25])[0]

    def in_chunks() -> Tensor:
        chunks = _Chunks(model, row, 7)
        return torch.cat([chunks.losses(i) for i in range(len(chunks))])

    why = unfit(model, in_chunks, lambda: own_losses(model, row))
    if why:
        raise ModelError(f"rows cannot be trained in chunks for this model: {why}; leave train.chunk_tokens out")


def _kind(device: str) -> str:
    return device.split(":")[0]


def _random_state(device: str) -> list[Tensor]:
    """Of the generators that dropout draws from."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if _kind(device) == "cuda" else [])]


def _set_random_state(device: str, state: list[Tensor]) -> None:
    torch.set_rng_state(state[0])
    if len(state) > 1:
        torch.cuda.set_rng_state(state[1], device)
