"""Answers grow token by token, many at once, until each ends."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from curate.core import Integers
from curate.inference.attention import Attends
from curate.inference.recorded import Record, Steps, recorder
from curate.inference.stops import Stops
from curate.inference.stores import DecodeCache, Joins, SharedCache, held_bytes
from curate.model import LanguageModel

# (logits (B, V) in float32, which contexts they follow (B,), how many tokens each has so far) -> the next token of each (B,)
Choose = Callable[[Tensor, Integers, int], Tensor]
_NEVER = np.iinfo(np.int64).max


def most_likely(logits: Tensor, contexts: Integers, step: int) -> Tensor:
    """Greedy: the token of the largest logit, of equal ones the first."""
    return logits.argmax(-1)


@dataclass
class Watched:
    """A token-choosing function that notes whose logits gave no distribution; it chooses among equal ones in their place."""

    choose: Choose
    failed: dict[int, int] = field(default_factory=dict, init=False)  # by context, the first such step

    def __call__(self, logits: Tensor, contexts: Integers, step: int) -> Tensor:
        usable = logits.amax(-1).isfinite()
        broken = contexts[~usable.cpu().numpy()].tolist()
        for context in broken:
            self.failed.setdefault(context, step)
        return self.choose(logits.where(usable.unsqueeze(-1), 0) if broken else logits, contexts, step)

    def sound(self, answers: Sequence[Sequence[int]]) -> list[bool]:
        """Whether every choice of each context's answer was one: n tokens took the choices 0 to n - 1, and choice n if a token stopped them."""
        return [self.failed.get(context, _NEVER) > len(answer) for context, answer in enumerate(answers)]


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
    record: Record | None = None  # how passes are recorded; by default as the device can
    decoded_tokens: int = field(default=0, init=False)
    peak_bytes: int = field(default=0, init=False)

    def grow(self, state: Decodes, logits: Tensor, lengths: Tensor, contexts: Integers) -> list[list[int]]:
        """The answers that follow logits (B, V), each behind `lengths` (B,) tokens and for its context."""
        answers: list[list[int]] = [[] for _ in contexts]
        steps = Steps(self.model, state, self.record if self.record is not None else recorder(self.model.device))
        going = np.arange(len(contexts))
        alive = list(range(len(going)))  # places in `going`
        for taken in range(self.max_tokens):
            following = self.choose(logits, contexts[going], taken)
            tokens = following.tolist()
            alive = [place for place in alive if self.stops.take(answers[going[place]], tokens[place])]
            if not alive or taken + 1 == self.max_tokens:
                break
            if len(alive) < len(going) and not steps.hold(len(alive), len(going)):
                rows = torch.tensor(alive, device=following.device)
                following, lengths, going = following[rows], lengths[rows], going[alive]
                steps.keep(rows)
                alive = list(range(len(going)))
            logits = steps(following, lengths + taken, self.max_tokens - 1 - taken)
            self.decoded_tokens += len(going)
            self.peak_bytes = max(self.peak_bytes, state.nbytes)
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


@dataclass
class Joined:
    """Answers over caches that change as they grow, one a layer for all of them."""

    caches: Sequence[SharedCache]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        rows, own, _, width = query.shape
        heads = key.shape[1]
        output = self.caches[layer].attend(query.reshape(rows, heads, own // heads, width), key, value, scale)
        return output.reshape(rows, own, 1, -1)

    def advance(self) -> None:
        """The caches count for themselves."""

    def keep(self, rows: Tensor) -> None:
        for cache in self.caches:
            cache.keep(rows)

    @property
    def nbytes(self) -> int:
        return held_bytes([tensor for cache in self.caches for tensor in cache.tensors])


@dataclass
class Beside:
    """Answers of several states side by side in one pass: the layers multiply for all of them at once, and each attends to its own cache alone."""

    states: list[Decodes]
    rows: list[int]  # answers of each

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        parts = zip(self.states, query.split(self.rows), key.split(self.rows), value.split(self.rows), strict=True)
        return torch.cat([state.attend(layer, own, new_key, new_value, scale) for state, own, new_key, new_value in parts])

    def advance(self) -> None:
        for state in self.states:
            state.advance()

    def keep(self, rows: Tensor) -> None:
        states, counts, first = [], [], 0
        for state, count in zip(self.states, self.rows, strict=True):
            mine = rows[(rows >= first) & (rows < first + count)] - first
            first += count
            if len(mine):
                if len(mine) < count:
                    state.keep(mine)
                states.append(state)
                counts.append(len(mine))
        self.states, self.rows = states, counts

    @property
    def nbytes(self) -> int:
        return sum(state.nbytes for state in self.states)


def side_by_side(prompts: Sequence[tuple[Decodes, int]]) -> Beside:
    """So many answers over the state of each prompt: joined where their caches can be, each over a copy where caches forget, and else together."""
    states: list[Decodes] = []
    rows: list[int] = []
    for kind, run in groupby(prompts, key=lambda prompt: _joint(prompt[0])):
        some = list(run)
        if kind is not None and sum(answers for _, answers in some) > 1:
            states.append(_joined([state for state, _ in some if isinstance(state, Forgetting)], [answers for _, answers in some]))
            rows.append(sum(answers for _, answers in some))
            continue
        for state, answers in some:
            copies: list[Decodes] = [copy.deepcopy(state) for _ in range(answers)] if isinstance(state, Forgetting) else [state]
            states += copies
            rows += [answers // len(copies)] * len(copies)
    return Beside(states, rows)


def _joint(state: Decodes) -> type | None:
    """The kind of caches that can be joined."""
    kinds = {type(cache) if isinstance(cache, Joins) else None for cache in state.caches} if isinstance(state, Forgetting) else set()
    return kinds.pop() if len(kinds) == 1 else None


def _joined(states: Sequence[Forgetting], answers: Sequence[int]) -> Joined:
    layers = [[cache for cache in caches if isinstance(cache, Joins)] for caches in zip(*(state.caches for state in states), strict=True)]
    return Joined([first.beside(others, answers) for first, *others in layers])
