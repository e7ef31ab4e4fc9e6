"""Models that the shared engine cannot compute are found out by a probe, run one by one, and the reason is said."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as t

from curate.inference.engine import Engine
from curate.inference.own_attention import score
from curate.model import LanguageModel
from curate.testing.random_models import ARCHITECTURES, random_model
from tests.inference.test_shared_prefixes import requests

SIZES: dict[str, Any] = {"vocab_size": 97, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}


def wrapped(model: Any) -> LanguageModel:
    tokenizer = SimpleNamespace(pad_token_id=0, eos_token_id=1, all_special_ids=[0, 1])
    return LanguageModel(model.eval(), tokenizer, "cpu", {})


def bloom() -> LanguageModel:
    return wrapped(t.BloomForCausalLM(t.BloomConfig(vocab_size=97, hidden_size=64, n_layer=2, n_head=4)))


def gemma2() -> LanguageModel:
    config = t.Gemma2Config(num_key_value_heads=2, head_dim=16, attn_logit_softcapping=0.5, query_pre_attn_scalar=1, sliding_window=4096, **SIZES)
    model = t.Gemma2ForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8)
    return wrapped(model)


def mamba() -> LanguageModel:
    return wrapped(t.MambaForCausalLM(t.MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2, state_size=4)))


def mistral(window: int) -> LanguageModel:
    return wrapped(t.MistralForCausalLM(t.MistralConfig(num_key_value_heads=2, sliding_window=window, **SIZES)))


def assert_exact(model: LanguageModel, engine: Engine) -> None:
    contexts, continuations = requests(6, shared=20)
    found = engine.loglikelihoods(contexts, continuations)
    with torch.inference_mode():
        for context, texts, values in zip(contexts, continuations, found, strict=True):
            assert values == pytest.approx([score(model, context, text).loglikelihood for text in texts], abs=1e-4)


@pytest.mark.parametrize("make", [bloom, gemma2, mamba])
def test_a_model_with_other_attention_runs_alone_and_says_why(make: Any) -> None:
    torch.manual_seed(0)
    model = make()
    engine = Engine(model)
    assert_exact(model, engine)
    assert engine.unshared
    assert engine.forward_tokens == engine.asked_tokens
    answers = engine.generate([[5, 6, 7], [5, 6, 7], [8, 9]], max_tokens=5, stop=[1])
    assert answers[0] == answers[1]
    ids = model.model.generate(torch.tensor([[8, 9]]), attention_mask=torch.ones(1, 2), max_new_tokens=5, do_sample=False, eos_token_id=1)[0, 2:].tolist()
    assert answers[2] == [token for token in ids if token != 1]


def test_a_window_is_no_hindrance_until_a_request_is_longer() -> None:
    torch.manual_seed(0)
    wide, narrow = mistral(1000), mistral(16)
    engine = Engine(wide)
    assert_exact(wide, engine)
    assert engine.unshared == ""
    engine = Engine(narrow)
    assert_exact(narrow, engine)
    assert "window of 16" in engine.unshared


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_probe_passes_what_the_engine_computes_exactly(architecture: Any) -> None:
    engine = Engine(random_model(architecture))
    engine.loglikelihoods([[3, 4, 5]], [[[6]]])
    assert engine.unshared == ""


def test_learned_positions_are_shared_too() -> None:
    torch.manual_seed(0)
    model = wrapped(t.GPT2LMHeadModel(t.GPT2Config(vocab_size=97, n_embd=64, n_layer=2, n_head=4, n_positions=256)))
    engine = Engine(model)
    assert_exact(model, engine)
    assert engine.unshared == ""


def test_a_model_is_probed_once_however_many_engines_run_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from curate.inference import probe

    tried: list[LanguageModel] = []
    real = probe.unfit
    monkeypatch.setattr(probe, "unfit", lambda model: (tried.append(model), real(model))[1])
    one, other = random_model(), random_model()
    for model in (one, one, other, one):
        Engine(model).loglikelihoods([[3, 4]], [[[5]]])
    assert tried == [one, other]
