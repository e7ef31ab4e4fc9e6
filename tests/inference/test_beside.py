"""Answers over caches that change as they grow are decoded together, and equal those that are decoded one by one."""

import copy
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from curate.inference import recorded
from curate.inference.attention import ours
from curate.inference.decoding import Decoding
from curate.inference.engine import Engine
from curate.inference.growing import Forgetting, Growing
from curate.inference.passes import logits_of
from curate.inference.prefill import prefilled
from curate.inference.sampling import Nucleus, Sampler, sample_keys
from curate.inference.stops import Stops
from curate.interfaces import Press
from curate.model import LanguageModel
from curate.registry import component
from curate.testing.random_models import random_model

PRESSES = [
    {"name": "h2o", "keep": 0.3},
    {"name": "treekv", "keep": 0.4, "sinks": 2, "block": 4},
    {"name": "razor", "recent": 4, "sinks": 2, "length": 20, "divisor": 8.0},
    {"name": "triattention", "importance": {"name": "trigonometric", "selection": "per_layer_head", "recent": 4}, "keep": 0.5, "live": 12, "slack": 3},
    {"name": "kivi", "action": {"name": "kivi", "group": 4, "residual": 8}},
    {"name": "gear"},
    {"name": "mikv", "keep": 0.3},
    {"name": "snapkv", "keep": 0.4},
]
ENDS = range(7, 13)  # tokens
PROMPTS = [np.random.default_rng(i).integers(2, 97, 9 + 7 * i).tolist() for i in range(6)]


def press_of(fields: dict[str, object]) -> Press:
    press = component("presses", {**fields, "covers": "prompt"})
    assert isinstance(press, Press)
    return press


def alone(model: LanguageModel, press: Press, state: object, prompt: Sequence[int], context: int, choose: Sampler, steps: int) -> list[int]:
    """One answer over its own caches, nothing beside it."""
    with torch.inference_mode(), ours(model.model):
        prefix, hidden = prefilled(model, prompt, state=state)  # type: ignore[arg-type]
        caches = [press.decoder(prefix, layer) for layer in range(len(prefix.layers))]
        logits, start = logits_of(model, hidden[-1:]), torch.tensor([len(prompt)], device=model.device)
        answers = Growing(model, steps, Stops.at(ENDS), choose)
        if all(cache is not None for cache in caches):
            forgetting = Forgetting([copy.deepcopy(cache) for cache in caches if cache is not None], len(prompt))
            return answers.grow(forgetting, logits, start, np.array([context]))[0]
        whole = Decoding([press.compress(prefix)], None, torch.zeros(1, dtype=torch.long, device=model.device))
        return answers.grow(whole, logits, start, np.array([context]))[0]


@pytest.mark.parametrize(("fields", "batch_tokens"), [*((fields, 90) for fields in PRESSES), (PRESSES[0], 1), (PRESSES[2], 8192)])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_answers_of_all_prompts_and_samples_equal_those_grown_one_by_one(fields: dict[str, object], batch_tokens: int, device: str) -> None:
    model, press = random_model(device=device), press_of(fields)
    texts = [np.random.default_rng(9).integers(2, 97, 60).tolist()] * 2
    state = press.calibrate(model, texts, 0)
    contexts = [prompt for prompt in PROMPTS for _ in range(2)]
    choose = Sampler(sample_keys(3, PROMPTS, 2), Nucleus(temperature=2.0))
    engine = Engine(model, batch_tokens, press, state)
    found = engine.generate(contexts, max_tokens=14, stop=ENDS, choose=choose)
    assert found == [alone(model, press, state, context, i, choose, 14) for i, context in enumerate(contexts)]
    assert len({tuple(answer) for answer in found}) > 8 and len({len(answer) for answer in found}) > 1  # some end before others
    assert engine.compressed_tokens == sum(map(len, PROMPTS))


def test_one_pass_serves_all_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    forward = recorded.forward
    monkeypatch.setattr(recorded, "forward", lambda model, ids, *rest: (seen.append(len(ids)), forward(model, ids, *rest))[1])
    Engine(random_model(), press=press_of({"name": "h2o", "keep": 0.3})).generate(PROMPTS, max_tokens=5)
    assert seen == [6] * 4
