"""The engine with its shared prefixes equals the model without any cache."""

from pathlib import Path

import numpy as np
import pytest
import torch

from curate.inference.engine import Engine
from curate.model import LanguageModel, fresh, resolve
from curate.settings import ModelSpec


@pytest.fixture(scope="module")
def model(tiny: Path) -> LanguageModel:
    return fresh(resolve(ModelSpec(path=str(tiny)), tiny))


def prompts(shared: int, count: int = 14) -> tuple[list[list[int]], list[list[list[int]]]]:
    generator = np.random.default_rng(shared)
    prefix = generator.integers(3, 1000, shared).tolist()
    contexts = [prefix + generator.integers(3, 1000, generator.integers(1, 12)).tolist() for _ in range(count)]
    contexts.append(contexts[0])  # the same question twice
    continuations = [[generator.integers(3, 1000, generator.integers(1, 5)).tolist() for _ in range(generator.integers(1, 5))] for _ in contexts]
    return contexts, continuations


def uncached(model: LanguageModel, context: list[int], continuation: list[int]) -> float:
    with torch.no_grad():
        logits = model.model(input_ids=torch.tensor([context + continuation])).logits[0].double()
    nats = torch.log_softmax(logits, -1)
    return sum(float(nats[len(context) - 1 + i, token]) for i, token in enumerate(continuation))


@pytest.mark.parametrize("shared", [0, 1, 40])
@pytest.mark.parametrize("batch_tokens", [1, 60, 10_000])
def test_loglikelihoods_equal_those_of_the_uncached_model(model: LanguageModel, shared: int, batch_tokens: int) -> None:
    contexts, continuations = prompts(shared)
    found = Engine(model, batch_tokens=batch_tokens).loglikelihoods(contexts, continuations)
    for context, texts, values in zip(contexts, continuations, found, strict=True):
        assert values == pytest.approx([uncached(model, context, text) for text in texts], abs=1e-4)


def test_the_order_of_requests_does_not_matter(model: LanguageModel) -> None:
    contexts, continuations = prompts(20)
    forward = Engine(model, batch_tokens=60).loglikelihoods(contexts, continuations)
    backward = Engine(model, batch_tokens=60).loglikelihoods(contexts[::-1], continuations[::-1])[::-1]
    for ours, theirs in zip(forward, backward, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)


def test_the_shared_prefix_is_computed_once(model: LanguageModel) -> None:
    contexts, continuations = prompts(40)
    engine = Engine(model)
    engine.loglikelihoods(contexts, continuations)
    sequences = [context + text[:-1] for context, texts in zip(contexts, continuations, strict=True) for text in texts]
    assert engine.forward_tokens == len({tuple(sequence[: end + 1]) for sequence in sequences for end in range(len(sequence))})
    assert engine.asked_tokens > 5 * engine.forward_tokens


@pytest.mark.parametrize("batch_tokens", [1, 100, 10_000])
def test_greedy_generation_equals_that_of_transformers(model: LanguageModel, batch_tokens: int) -> None:
    contexts, _ = prompts(10)
    end = int(model.tokenizer.eos_token_id)
    found = Engine(model, batch_tokens=batch_tokens).generate(contexts, max_tokens=12, stop=[end])
    for context, tokens in zip(contexts, found, strict=True):
        ids = torch.tensor([context])
        wanted = model.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)[0, len(context) :].tolist()
        assert tokens == (wanted[: wanted.index(end)] if end in wanted else wanted)
