"""Answers grow token by token, many at once, until each ends."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from curate.core import Integers
from curate.inference.attention import Attends
from curate.inference.passes import forward, logits_of
from curate.inference.stops import Stops
from curate.inference.stores import DecodeCache, held_bytes
from curate.model import LanguageModel

# (logits (B, V) in float32, which contexts they follow (B,), how many tokens each has so far) -> the next token of each (B,)
Choose = Callable[[Tensor, Integers, int], Tensor]


def most_likely(logits: Tensor, contexts: Integers, step: int) -> Tensor:
    """Greedy: the token of the largest logit, of equal ones the first."""
    return logits.argmax(-1)


class Decodes(Attends, Protocol):
    """Passes of one token per answer, whose keys and values are kept for the next."""

    def advance(self) -> None:
        """After a pass: every answer is a token longer."""

    def keep(self, rows: Tensor) -> None:
        """Go on with these answers alone."""

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values that are held."""


@dataclass
class Growing:
    """How answers grow, and what it took."""

    model: LanguageModel
    max_tokens: int
    stops: Stops = Stops()
    choose: Choose = most_likely
    decoded_tokens: int = field(default=0, init=False)
    peak_bytes: int = field(default=0, init=False)

    def grow(self, state: Decodes, logits: Tensor, lengths: Tensor, contexts: Integers) -> list[list[int]]:
        """The answers that follow logits (B, V), each behind `lengths` (B,) tokens and for its context."""
        answers: list[list[int]] = [[] for _ in contexts]
        going = np.arange(len(contexts))
        for taken in range(self.max_tokens):
            following = self.choose(logits, contexts[going], taken)
            alive = [place for place, token in enumerate(following.tolist()) if self.stops.take(answers[going[place]], token)]
            if not alive or taken + 1 == self.max_tokens:
                break
            if len(alive) < len(going):
                rows = torch.tensor(alive, device=following.device)
                following, lengths, going = following[rows], lengths[rows], going[alive]
                state.keep(rows)
            hidden = forward(self.model, following.unsqueeze(1), (lengths + taken).unsqueeze(1), state)
            state.advance()
            self.decoded_tokens += len(going)
            self.peak_bytes = max(self.peak_bytes, state.nbytes)
            logits = logits_of(self.model, hidden[:, -1])
        return answers


@dataclass
class Forgetting:
    """One answer over caches that evict as it grows."""

    caches: Sequence[DecodeCache]
    position: int  # of the next token

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        _, own, _, width = query.shape
        heads = key.shape[1]
        output = self.caches[layer].attend(query.reshape(heads, own // heads, width), key[0], value[0], self.position, scale)
        return output.reshape(1, own, 1, -1)

    def advance(self) -> None:
        self.position += 1

    def keep(self, rows: Tensor) -> None:
        """There is one answer."""

    @property
    def nbytes(self) -> int:
        return held_bytes([tensor for cache in self.caches for tensor in cache.tensors])
