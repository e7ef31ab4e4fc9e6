"""Exact log-likelihoods and generation over many requests that begin alike: what they share is computed once.

Requests become a plan (curate.inference.plan), which depends on tokens and not on the model, so that all variants of a model run the same shapes.
Results equal those of the uncached model up to the rounding of sums in another order. A model that fails a probe against its own attention, and
requests longer than its attention's window, run one by one, and `unshared` says why.
"""

import contextlib
import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from curate.compression.prefix import Prefix
from curate.core import Integers
from curate.errors import ConfigError
from curate.inference.attention import ours
from curate.inference.continuous import ContinuousBatching
from curate.inference.decoding import Decoding
from curate.inference.generation import GenerationPlan, GenerationRun, plan_generation
from curate.inference.growing import Choose, Forgetting, Growing, most_likely
from curate.inference.own_attention import Answering, score
from curate.inference.passes import logits_of
from curate.inference.plan import Layout
from curate.inference.prefill import prefilled
from curate.inference.probe import alone_because
from curate.inference.scoring import Compress, Scored, ScoringPlan, ScoringRun, plan_scoring
from curate.inference.stops import Stops
from curate.inference.stores import Memory
from curate.interfaces import Press, State
from curate.model import LanguageModel

Tokens = Sequence[int]


@runtime_checkable
class Prefills(Protocol):
    """A press that does not let all tokens through all layers, and so prefills by itself."""

    def prefill(self, model: LanguageModel, tokens: Tokens) -> tuple[Memory, Tensor]:
        """(what is stored, the last hidden states of the tokens that got through)."""


@dataclass
class Engine:
    """Runs requests on one model; `forward_tokens` counts what was computed, `asked_tokens` what a run without any sharing would.

    With a press, stretches that begin at position 0 and are shared are compressed after they were prefilled; with `covers="prompt"`, generation
    compresses every whole prompt, one after the other. Results are then no longer exact.
    """

    model: LanguageModel
    batch_tokens: int = 8192
    press: Press | None = None
    state: State | None = None  # of the press's calibration
    covers: Literal["prefix", "prompt"] = "prefix"
    continuous: bool = False  # whether greedy answers come from transformers' continuous batching, which does not share all that it could
    forward_tokens: int = field(default=0, init=False)
    asked_tokens: int = field(default=0, init=False)
    peak_bytes: int = field(default=0, init=False)  # of stored keys and values
    compressed_tokens: int = field(default=0, init=False)  # whose keys and values went through the press
    unshared: str = field(default="", init=False)  # why requests were run one by one, if they were

    @property
    def layout(self) -> Layout:
        """The sizes that plans for this engine are made with."""
        return Layout(batch=self.batch_tokens, apart=self.press is not None)

    def loglikelihoods(self, contexts: Sequence[Tokens], continuations: Sequence[Sequence[Tokens]]) -> list[list[float]]:
        """log p(continuation | context) in nats, summed over its tokens, for each context's continuations."""
        found = self.score(self.plan(contexts, continuations))
        return [[scored.loglikelihood for scored in several] for several in found]

    def plan(self, contexts: Sequence[Tokens], continuations: Sequence[Sequence[Tokens]]) -> ScoringPlan:
        """What `score` runs; good for every model with this vocabulary."""
        return plan_scoring(contexts, continuations, self.layout)

    def score(self, wanted: ScoringPlan) -> list[list[Scored]]:
        """For each context's continuations: log-likelihood, that of every token, and whether greedy decoding would give it."""
        self.asked_tokens += wanted.asked_tokens
        with torch.inference_mode():
            if self._alone(wanted.longest):
                self.forward_tokens += wanted.asked_tokens
                return [[score(self.model, context, continuation) for continuation in several] for context, several in wanted.requests]
            with ours(self.model.model):
                run = ScoringRun(self.model, wanted, self._compress())
                found = run.results()
        self.forward_tokens += wanted.plan.tokens
        self.peak_bytes = max(self.peak_bytes, run.peak_bytes)
        return found

    def generate(
        self, contexts: Sequence[Tokens], *, max_tokens: int, stop: Sequence[int] = (), stops: Stops | None = None, choose: Choose = most_likely
    ) -> list[list[int]]:
        """The token that `choose` takes again and again, until a token of `stop` (left out), a stop string, or `max_tokens`; equal contexts share a prompt."""
        ends = stops if stops is not None else Stops.at(stop)
        self.asked_tokens += sum(map(len, contexts))
        if self.continuous:
            return self._continuously(contexts, max_tokens, ends, choose)
        wanted = plan_generation(contexts, self.layout)
        growing = Growing(self.model, max_tokens, ends, choose)
        with torch.inference_mode():
            found = self._generated(wanted, growing)
        self.peak_bytes = max(self.peak_bytes, growing.peak_bytes)
        return [found[i] for i in range(len(contexts))]

    def _generated(self, wanted: GenerationPlan, growing: Growing) -> dict[int, list[int]]:
        alone = self._alone(max((len(prompt) + growing.max_tokens for prompt in wanted.prompts), default=0))
        with contextlib.nullcontext() if alone else ours(self.model.model):
            if not alone and (self.press is None or self.covers == "prefix"):
                found = GenerationRun(self.model, wanted, growing, self._compress()).run()
                self._count(wanted.plan.tokens, growing.decoded_tokens)
                return found
            answers = self._by_itself if alone or self.press is None else partial(self._pressed, self.press)
            results: dict[int, list[int]] = {}
            for prompt, asked in zip(wanted.prompts, wanted.asked, strict=True):
                results |= dict(zip(asked, answers(growing, prompt, np.asarray(asked, np.int64)), strict=True))
        return results

    def _continuously(self, contexts: Sequence[Tokens], max_tokens: int, stops: Stops, choose: Choose) -> list[list[int]]:
        if self.press is not None or choose is not most_likely:
            raise ConfigError("continuous batching gives greedy answers from whole caches only; leave it out where answers are sampled or a press is used")
        backend = ContinuousBatching(self.model, self.batch_tokens)
        found = backend.generate(contexts, max_tokens=max_tokens, stops=stops)
        self._count(sum(map(len, {tuple(context) for context in contexts})), backend.decoded_tokens)
        return found

    def _by_itself(self, growing: Growing, prompt: Tokens, asked: Integers) -> list[list[int]]:
        found = Answering(self.model, growing.max_tokens, growing.stops, growing.choose).answers(prompt, asked)
        self._count(len(prompt) * len(asked), sum(map(len, found)))
        return found

    def _pressed(self, press: Press, growing: Growing, prompt: Tokens, asked: Integers) -> list[list[int]]:
        """Answers to a prompt whose keys and values were compressed; the first token is still exact, for the prefill is."""
        prefix, memory, hidden = self._compressed(press, prompt)
        before, logits = growing.decoded_tokens, logits_of(self.model, hidden[-1:])
        caches = [press.decoder(prefix, layer) for layer in range(len(prefix.layers))] if prefix is not None else []
        forgetting = [cache for cache in caches if cache is not None]
        if forgetting:
            found = []
            for context in asked:
                state = Forgetting(copy.deepcopy(forgetting), len(prompt))
                found += growing.grow(state, logits, torch.tensor([len(prompt)], device=logits.device), np.asarray([context]))
        else:
            owners = torch.zeros(len(asked), dtype=torch.long, device=logits.device)
            found = growing.grow(Decoding([memory], None, owners), logits.expand(len(asked), -1), torch.full_like(owners, len(prompt)), asked)
        self._count(len(prompt), growing.decoded_tokens - before)
        return found

    def _count(self, prefilled_tokens: int, decoded: int) -> None:
        self.forward_tokens += prefilled_tokens + decoded
        self.asked_tokens += decoded

    def _alone(self, tokens: int) -> bool:
        """Whether requests of up to so many tokens have to be run one by one."""
        self.unshared = alone_because(self.model, tokens)
        return bool(self.unshared)

    def _compress(self) -> Compress | None:
        """What the press makes of a stretch that begins at position 0."""
        press = self.press
        return None if press is None else lambda tokens: self._compressed(press, tokens)[1:]

    def _compressed(self, press: Press, tokens: Tokens) -> tuple[Prefix | None, Memory, Tensor]:
        """(the exact prefix, what the press keeps of it, the last hidden states); no prefix where the press prefills in its own way."""
        self.compressed_tokens += len(tokens)
        if isinstance(press, Prefills):
            return None, *press.prefill(self.model, tokens)
        prefix, hidden = prefilled(self.model, tokens, inputs=press.reads_inputs, state=self.state)
        return prefix, press.compress(prefix), hidden
