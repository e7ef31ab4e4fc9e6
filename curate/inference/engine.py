"""Exact log-likelihoods and generation over many requests that begin alike: what they share is computed once.

Requests become a plan (curate.inference.plan), which depends on tokens and not on the model, so that all variants of a model run the same shapes.
Results equal those of the uncached model up to the rounding of sums in another order. A model that fails a probe against its own attention, and
requests longer than its attention's window, run one by one, and `unshared` says why.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from curate.compression.prefix import Prefix
from curate.core import Integers
from curate.errors import ConfigError, NumericError
from curate.inference.attention import ours
from curate.inference.continuous import ContinuousBatching
from curate.inference.decoding import Decoding
from curate.inference.generation import GenerationPlan, GenerationRun, plan_generation
from curate.inference.growing import Choose, Decodes, Forgetting, Growing, Watched, most_likely, side_by_side
from curate.inference.own_attention import Answering, score
from curate.inference.passes import logits_of
from curate.inference.plan import Layout
from curate.inference.prefill import prefilled
from curate.inference.probe import alone_because
from curate.inference.scoring import Compress, Scored, ScoringPlan, ScoringRun, plan_scoring
from curate.inference.stops import Stops
from curate.inference.stores import Memory
from curate.inference.whole_prompts import WholePrompts
from curate.interfaces import Press, State
from curate.model import LanguageModel

Tokens = Sequence[int]
BLAMED = 64  # requests without numbers that are computed again by themselves: a model without any number is not run twice


@runtime_checkable
class Prefills(Protocol):
    """A press that does not let all tokens through all layers, and so prefills by itself."""

    def prefill(self, model: LanguageModel, tokens: Tokens) -> tuple[Memory, Tensor]:
        """(what is stored, the last hidden states of the tokens that got through)."""


@dataclass
class Engine:
    """Runs requests on one model; `forward_tokens` counts what was computed, `asked_tokens` what a run without any sharing would.

    With a press, stretches that begin at position 0 and are shared are compressed after they were prefilled; where it covers prompts, every whole prompt
    is, one after the other (`whole_prompts` for likelihoods). Results are then no longer exact.
    """

    model: LanguageModel
    batch_tokens: int = 8192
    press: Press | None = None
    state: State | None = None  # of the press's calibration
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
        """For each context's continuations: log-likelihood, that of every token, and whether greedy decoding would give it; NaN as `Scored` says."""
        self.asked_tokens += wanted.asked_tokens
        with torch.inference_mode():
            if self._alone(wanted.longest):
                self.forward_tokens += wanted.asked_tokens
                return [[score(self.model, context, continuation) for continuation in several] for context, several in wanted.requests]
            with ours(self.model.model):
                return self._shared(wanted)

    def _shared(self, wanted: ScoringPlan) -> list[list[Scored]]:
        compress = self._compress()
        if compress is not None and self.press is not None and self.press.covers == "prompt":
            prompts = WholePrompts(self.model, compress, Layout(batch=self.batch_tokens))
            found = prompts.results(wanted)
            self.forward_tokens += prompts.forward_tokens
            self.peak_bytes = max(self.peak_bytes, prompts.peak_bytes)
            return found
        run = ScoringRun(self.model, wanted, compress)
        found = run.results()
        self.forward_tokens += wanted.plan.tokens
        self.peak_bytes = max(self.peak_bytes, run.peak_bytes)
        if compress is None:
            self._score_again(wanted, found)
        return found

    def _score_again(self, wanted: ScoringPlan, found: list[list[Scored]]) -> None:
        """Requests without numbers once more, each by itself: within a packed row, NaN of one reaches all others through the weights of 0 that they give it."""
        broken = [i for i, several in enumerate(found) if any(np.isnan(one.loglikelihood) for one in several)]
        for i in broken[:BLAMED]:
            alone = plan_scoring([wanted.requests[i][0]], [wanted.requests[i][1]], self.layout)
            found[i] = ScoringRun(self.model, alone).results()[0]
            self.forward_tokens += alone.plan.tokens

    def generate(
        self, contexts: Sequence[Tokens], *, max_tokens: int, stop: Sequence[int] = (), stops: Stops | None = None, choose: Choose = most_likely
    ) -> list[list[int]]:
        """The token that `choose` takes again and again, until a token of `stop` (left out), a stop string, or `max_tokens`; equal contexts share a prompt.

        NumericError where logits that an answer was chosen from are no finite numbers, unless `choose` is a `Watched` of the caller's, which says for whom.
        """
        ends = stops if stops is not None else Stops.at(stop)
        watched = choose if isinstance(choose, Watched) else Watched(choose)
        self.asked_tokens += sum(map(len, contexts))
        answers = self._continuously(contexts, max_tokens, ends, watched) if self.continuous else None
        if answers is None:
            growing = Growing(self.model, max_tokens, ends, watched)
            with torch.inference_mode():
                found = self._generated(plan_generation(contexts, self.layout), growing)
            self.peak_bytes = max(self.peak_bytes, growing.peak_bytes)
            answers = [found[i] for i in range(len(contexts))]
        if watched is not choose:
            _require_sound(watched.sound(answers))
        return answers

    def _generated(self, wanted: GenerationPlan, growing: Growing) -> dict[int, list[int]]:
        alone = self._alone(max((len(prompt) + growing.max_tokens for prompt in wanted.prompts), default=0))
        with contextlib.nullcontext() if alone else ours(self.model.model):
            if not alone and (self.press is None or self.press.covers == "prefix"):
                found = GenerationRun(self.model, wanted, growing, self._compress()).run()
                self._count(wanted.plan.tokens, growing.decoded_tokens)
                return found if self.press is not None else found | self._generated_again(wanted, growing, found)
            if not alone and self.press is not None:
                return self._pressed(self.press, wanted, growing)
            results: dict[int, list[int]] = {}
            for prompt, asked in zip(wanted.prompts, wanted.asked, strict=True):
                results |= dict(zip(asked, self._by_itself(growing, prompt, np.asarray(asked, np.int64)), strict=True))
        return results

    def _generated_again(self, wanted: GenerationPlan, growing: Growing, found: Mapping[int, list[int]]) -> dict[int, list[int]]:
        """Answers from logits without numbers once more, prompt by prompt, as in `_score_again`."""
        if not isinstance(growing.choose, Watched) or not growing.choose.failed:
            return {}
        sound = growing.choose.sound([found[context] for context in range(len(found))])
        broken = [number for number, contexts in enumerate(wanted.asked) if not all(sound[context] for context in contexts)]
        results: dict[int, list[int]] = {}
        for number in broken[:BLAMED]:
            for context in wanted.asked[number]:
                growing.choose.failed.pop(context, None)
            alone = replace(plan_generation([wanted.prompts[number]], self.layout), asked=[wanted.asked[number]])
            before = growing.decoded_tokens
            results |= GenerationRun(self.model, alone, growing).run()
            self._count(alone.plan.tokens, growing.decoded_tokens - before)
        return results

    def _continuously(self, contexts: Sequence[Tokens], max_tokens: int, stops: Stops, watched: Watched) -> list[list[int]] | None:
        """Greedy answers; None where some were chosen without numbers, for it does not say which: NaN of one request reaches those packed with it."""
        if self.press is not None or watched.choose is not most_likely:
            raise ConfigError("continuous batching gives greedy answers from whole caches only; leave it out where answers are sampled or a press is used")
        backend = ContinuousBatching(self.model, self.batch_tokens)
        found = backend.generate(contexts, max_tokens=max_tokens, stops=stops)
        if backend.broken:
            return None
        self._count(sum(map(len, {tuple(context) for context in contexts})), backend.decoded_tokens)
        return found

    def _by_itself(self, growing: Growing, prompt: Tokens, asked: Integers) -> list[list[int]]:
        found = Answering(self.model, growing.max_tokens, growing.stops, growing.choose).answers(prompt, asked)
        self._count(len(prompt) * len(asked), sum(map(len, found)))
        return found

    def _pressed(self, press: Press, wanted: GenerationPlan, growing: Growing) -> dict[int, list[int]]:
        """Answers to prompts that were compressed one by one and then grow together; the first token is still exact, for the prefill is."""
        results: dict[int, list[int]] = {}
        lengths = np.array([len(prompt) * len(asked) for prompt, asked in zip(wanted.prompts, wanted.asked, strict=True)], np.int64)
        for wave in _waves(lengths, self.batch_tokens):
            states, logits = [], []
            for number in wave:
                answers = len(wanted.asked[number])
                state, first = self._pressed_prompt(press, wanted.prompts[number], answers)
                states.append((state, answers))
                logits.append(first.expand(answers, -1))
            contexts = np.array([context for number in wave for context in wanted.asked[number]], np.int64)
            starts = torch.tensor([len(wanted.prompts[number]) for number in wave for _ in wanted.asked[number]], device=logits[0].device)
            before = growing.decoded_tokens
            together = side_by_side(states)
            del states, state  # or the caches of prompts whose answers have ended would be kept
            found = growing.grow(together, torch.cat(logits), starts, contexts)
            results |= dict(zip(contexts.tolist(), found, strict=True))
            self._count(sum(len(wanted.prompts[number]) for number in wave), growing.decoded_tokens - before)
        return results

    def _pressed_prompt(self, press: Press, prompt: Tokens, answers: int) -> tuple[Decodes, Tensor]:
        """(what so many answers to a prompt grow over, or one of them where caches change as they grow; logits (1, V) of the first token)."""
        prefix, memory, hidden = self._compressed(press, prompt)
        logits = logits_of(self.model, hidden[-1:])
        caches = [press.decoder(prefix, layer) for layer in range(len(prefix.layers))] if prefix is not None else []
        forgetting = [cache for cache in caches if cache is not None]
        if forgetting:
            return Forgetting(forgetting, len(prompt)), logits
        return Decoding([memory], None, torch.zeros(answers, dtype=torch.long, device=logits.device)), logits

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


def _require_sound(sound: Sequence[bool]) -> None:
    if not all(sound):
        raise NumericError(
            f"the model's logits are no finite numbers after {sum(not one for one in sound)} of {len(sound)} prompts (the first is number "
            f"{sound.index(False) + 1}); its weights are damaged, or overflow in this dtype: try float32, or leave the model out"
        )


def _waves(lengths: Integers, most: int) -> Iterator[list[int]]:
    """Consecutive prompts with at most so many tokens together, a longer one alone."""
    wave: list[int] = []
    size = 0
    for number, length in enumerate(lengths.tolist()):
        if wave and size + length > most:
            yield wave
            wave, size = [], 0
        wave.append(number)
        size += length
    if wave:
        yield wave
