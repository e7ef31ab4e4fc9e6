"""A press that covers prompts acts on every whole prompt, of likelihoods too, as a loop over prompts does."""

from typing import Any

import pytest
import torch

from curate.inference.attention import ours
from curate.inference.engine import Engine
from curate.inference.passes import Pass, forward, logits_of
from curate.inference.prefill import prefilled
from curate.interfaces import Press
from curate.model import LanguageModel
from curate.presses.fastkv import Fastkv
from curate.presses.h2o import H2o
from curate.presses.snapkv import Snapkv
from curate.testing.random_models import random_model
from tests.inference.test_shared_prefixes import requests


def one_by_one(model: LanguageModel, press: Press, context: list[int], continuation: list[int]) -> float:
    """log p in nats: all of the context but its last token compressed, then everything else in one pass behind it."""
    with torch.inference_mode(), ours(model.model):
        if isinstance(press, Fastkv):
            memory = press.prefill(model, context[:-1])[0]
        else:
            memory = press.compress(prefilled(model, context[:-1])[0])
        fed = [context[-1], *continuation[:-1]]
        positions = torch.arange(len(context) - 1, len(context) - 1 + len(fed), device=model.device).unsqueeze(0)
        states = forward(model, torch.tensor([fed], device=model.device), positions, Pass([memory]))
        nats = logits_of(model, states[0]).double().log_softmax(-1)
    return float(nats[range(len(fed)), continuation].sum())


@pytest.mark.parametrize("press", [Snapkv(keep=0.4, covers="prompt"), H2o(keep=0.3, covers="prompt"), Fastkv(keep=0.4, propagate=0.5, covers="prompt")])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_likelihoods_are_those_of_a_loop_over_prompts(press: Press, device: str) -> None:
    model = random_model(device=device)
    contexts, continuations = requests(12)
    contexts, continuations = [*contexts, contexts[3]], [*continuations, continuations[5]]  # one prompt asked twice
    engine = Engine(model, press=press)
    found = engine.loglikelihoods(contexts, continuations)
    for context, several, nats in zip(contexts, continuations, found, strict=True):
        assert nats == pytest.approx([one_by_one(model, press, context, continuation) for continuation in several], abs=1e-4)
    distinct = {tuple(context) for context in contexts}
    assert engine.compressed_tokens == sum(len(context) - 1 for context in distinct) and engine.peak_bytes > 0


def test_where_prompts_have_nothing_in_common_only_whole_prompts_are_compressed() -> None:
    model = random_model()
    contexts = [[i + 2, *torch.randint(2, 97, (40,), generator=torch.Generator().manual_seed(i)).tolist()] for i in range(6)]
    choices = [[[5], [6], [7]]] * 6  # of one token each, which an exact prefill would decide
    exact = Engine(model).loglikelihoods(contexts, choices)
    shared, whole = (Engine(model, press=Snapkv(tokens=4, covers=covers)) for covers in ("prefix", "prompt"))
    behind = shared.loglikelihoods(contexts, choices)
    assert shared.compressed_tokens == 0
    for one, other in zip(exact, behind, strict=True):
        assert other == pytest.approx(one, abs=1e-4)
    lossy = whole.loglikelihoods(contexts, choices)
    assert max(abs(a - b) for one, other in zip(exact, lossy, strict=True) for a, b in zip(one, other, strict=True)) > 1e-2
    assert whole.compressed_tokens == 6 * 40
    kept = Engine(model, press=Snapkv(keep=1.0, covers="prompt")).loglikelihoods(contexts, choices)
    for one, other in zip(exact, kept, strict=True):
        assert other == pytest.approx(one, abs=1e-4)


def test_a_prompt_of_one_token_is_exact() -> None:
    given: dict[str, Any] = {"contexts": [[5], [9]], "continuations": [[[3, 4], [6]], [[7]]]}
    engine = Engine(random_model(), press=Snapkv(tokens=1, covers="prompt"))
    for one, other in zip(engine.loglikelihoods(**given), Engine(random_model()).loglikelihoods(**given), strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    assert engine.compressed_tokens == 0
