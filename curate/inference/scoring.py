"""Log-probabilities of chosen tokens after chosen contexts, each position computed once, in float32, without a logit that nobody reads."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from curate.core import Integers
from curate.errors import ModelError
from curate.inference.passes import Pass, forward, logits_of
from curate.inference.plan import DEFAULT, Layout, PackedRow, Plan, Stage, plan
from curate.inference.prefill import prefill
from curate.inference.stores import Memory
from curate.model import LanguageModel

_NUMBERS = 2**25  # float32 logits held at a time
Tokens = Sequence[int]
Compress = Callable[[Tokens], tuple[Memory, Tensor]]  # what becomes of a stretch that begins at position 0: (what is stored, its last hidden states)


@dataclass(frozen=True, eq=False)
class Lookups:
    """In one row or stretch: the places whose next token is asked about, which token, and where the answer goes."""

    places: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class ScoringPlan:
    """A plan with the tokens whose log-probability is wanted: request by request, slot by slot."""

    plan: Plan
    requests: list[tuple[Tokens, Sequence[Tokens]]]  # each context with its continuations
    lookups: dict[Any, Lookups]  # by stage or row
    starts: list[Integers]  # per context, the first slot of each continuation, and one behind the last
    slots: int
    asked_tokens: int  # what a run without sharing computes

    @property
    def longest(self) -> int:
        """Tokens of the longest request."""
        return longest_request(self.requests)


@dataclass(frozen=True)
class Scored:
    """One continuation: the sum of log p over its tokens in nats, each of them, and whether each was the likeliest token.

    NaN where the model's logits are no finite numbers: whoever grades must refuse it, for a NaN is also unequal to what is right. In a packed row it
    reaches other requests; `Engine.score` computes those again.
    """

    loglikelihood: float
    tokens: NDArray[np.float64]
    greedy: bool


def longest_request(requests: Iterable[tuple[Tokens, Sequence[Tokens]]]) -> int:
    """Tokens of the longest context with one of its continuations."""
    return max((len(context) + len(continuation) for context, several in requests for continuation in several), default=0)


def plan_scoring(contexts: Sequence[Tokens], continuations: Sequence[Sequence[Tokens]], layout: Layout = DEFAULT) -> ScoringPlan:
    """Where log p(continuation | context) is to be found; contexts are not empty, and a continuation may be, for a sum of 0."""
    sequences = [[*context, *continuation[:-1]] for context, several in zip(contexts, continuations, strict=True) for continuation in several]
    made = plan(sequences, layout)
    lookups: dict[Any, Lookups] = defaultdict(Lookups)
    starts, slot, sequence = [], 0, 0
    for context, several in zip(contexts, continuations, strict=True):
        first = [slot]
        for continuation in several:
            for j, token in enumerate(continuation):
                where, place = made.locate(sequence, len(context) - 1 + j)
                found = lookups[where]
                found.places.append(place)
                found.tokens.append(int(token))
                found.slots.append(slot)
                slot += 1
            sequence += 1
            first.append(slot)
        starts.append(np.asarray(first, np.int64))
    asked = sum(len(context) + len(continuation) for context, several in zip(contexts, continuations, strict=True) for continuation in several)
    return ScoringPlan(made, list(zip(contexts, continuations, strict=True)), dict(lookups), starts, slot, asked)


class ScoringRun:
    """One model on a scoring plan; run within `ours(model.model)` and inference mode."""

    def __init__(self, model: LanguageModel, wanted: ScoringPlan, compress: Compress | None = None) -> None:
        self.model, self.wanted, self.compress = model, wanted, compress
        self.nats = np.zeros(wanted.slots)
        self.greedy = np.zeros(wanted.slots, bool)
        self.peak_bytes = 0

    def results(self) -> list[list[Scored]]:
        """Per context and continuation."""
        self.stage(self.wanted.plan.top, [])
        return self.scored()

    def scored(self) -> list[list[Scored]]:
        """What was read so far, per context and continuation."""
        found = []
        for starts in self.wanted.starts:
            pairs = zip(starts[:-1], starts[1:], strict=True)
            found.append([Scored(float(self.nats[a:b].sum()), self.nats[a:b].copy(), bool(self.greedy[a:b].all())) for a, b in pairs])
        return found

    def stage(self, stage: Stage, path: list[Memory]) -> None:
        """Compute a stage behind the stretches on the path."""
        if len(stage.stretch):
            memory, hidden = self._stretch(stage, path)
            self.read(hidden, _last_alone(self.wanted.lookups.get(stage), len(stage.stretch), len(hidden)))
            path = [*path, memory]
            self.peak_bytes = max(self.peak_bytes, sum(memory.nbytes for memory in path))
        for batch in stage.batches:
            self._rows(batch, path)
        for inner in stage.stages:
            self.stage(inner, path)

    def _stretch(self, stage: Stage, path: Sequence[Memory]) -> tuple[Memory, Tensor]:
        if self.compress is not None and not path:
            return self.compress(stage.stretch.tolist())
        return prefill(self.model, stage.stretch.tolist(), path)

    def _rows(self, rows: Sequence[PackedRow], path: Sequence[Memory]) -> None:
        ids, positions, mask = packed_tensors(rows, self.model)
        self.read_rows(forward(self.model, ids, positions, Pass(path, mask)), rows)

    def read_rows(self, hidden: Tensor, rows: Sequence[PackedRow]) -> None:
        """Take what is asked about these rows from their hidden states (B, T, H)."""
        joined = Lookups()
        for number, row in enumerate(rows):
            found = self.wanted.lookups.get(row)
            if found is not None:
                joined.places.extend(number * hidden.shape[1] + place for place in found.places)
                joined.tokens.extend(found.tokens)
                joined.slots.extend(found.slots)
        self.read(hidden.reshape(-1, hidden.shape[-1]), joined)

    def read(self, hidden: Tensor, found: Lookups | None) -> None:
        """Take what is asked about hidden states (N, H)."""
        if found is None or not found.places:
            return
        places, which = np.unique(np.asarray(found.places), return_inverse=True)
        nats, likeliest = np.zeros(len(which)), np.zeros(len(which), bool)
        tokens = np.asarray(found.tokens)
        size = max(1, _NUMBERS // int(self.model.model.config.get_text_config().vocab_size))
        for start in range(0, len(places), size):
            mine = (which >= start) & (which < start + size)
            logits = logits_of(self.model, hidden[torch.from_numpy(places[start : start + size]).to(hidden.device)])
            row = torch.from_numpy(which[mine] - start).to(hidden.device)
            token = torch.from_numpy(tokens[mine]).to(hidden.device)
            nats[mine], likeliest[mine] = log_probabilities(logits, row, token)
        self.nats[found.slots], self.greedy[found.slots] = nats, likeliest


def log_probabilities(logits: Tensor, rows: Tensor, tokens: Tensor) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """((K,) log p in nats of tokens (K,) by the logits (N, V) of rows (K,), whether each is its row's likeliest).

    NaN in all of a row that is no distribution: with NaN or +infinity in it, wherever that stands, or with -infinity alone.
    """
    normaliser = logits.logsumexp(-1)
    normaliser = normaliser.where(normaliser.isfinite(), float("nan"))
    nats = (logits[rows, tokens] - normaliser[rows]).double()
    return nats.cpu().numpy(), (logits.argmax(-1)[rows] == tokens).cpu().numpy()


def _last_alone(found: Lookups | None, tokens: int, states: int) -> Lookups | None:
    """Lookups in the hidden states of a stretch, of which a press may have let only some through: the last among them."""
    if found is None or states == tokens:
        return found
    if set(found.places) != {tokens - 1}:
        raise ModelError("tokens are scored inside a stretch that requests share, and this press does not carry it through all layers; use another press")
    return Lookups([states - 1] * len(found.places), found.tokens, found.slots)


def packed_tensors(rows: Sequence[PackedRow], model: LanguageModel) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens and positions (B, T), right-padded, and who sees whom (B, T, T); padding sees itself alone."""
    width = max(len(row) for row in rows)
    ids = np.full((len(rows), width), model.pad, np.int64)
    positions = np.zeros((len(rows), width), np.int64)
    mask = np.zeros((len(rows), width, width), bool)
    mask[:, np.arange(width), np.arange(width)] = True
    for i, row in enumerate(rows):
        ids[i, : len(row)], positions[i, : len(row)] = row.tokens, row.positions
        mask[i, : len(row), : len(row)] = row.mask()
    found = [torch.from_numpy(array).to(model.device) for array in (ids, positions, mask)]
    return found[0], found[1], found[2]
