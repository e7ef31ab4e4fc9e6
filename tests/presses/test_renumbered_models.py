"""Renumbered positions on models: logits are those that transformers gives for what is kept, as a text of its own."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from curate.compression import renumbered
from curate.compression.renumbered import renumbering
from curate.compression.rotary import Rotary, check_rotary
from curate.errors import ModelError
from curate.inference.attention import ours
from curate.inference.engine import Engine
from curate.inference.passes import forward, logits_of
from curate.inference.stores import Memory, held_bytes
from curate.interfaces import Press
from curate.model import LanguageModel
from curate.presses.h2o import H2o
from curate.presses.treekv import Treekv
from curate.registry import component
from curate.testing import check_press
from curate.testing.random_models import ARCHITECTURES, Architecture, random_model
from tests.presses.sequences import Decoding, decoded, exact, followed, real_prefix
from tests.presses.test_renumbered import cache_of, slots_held


def small_model(kind: str) -> LanguageModel:
    """One layer and, where a model can, one key-value head: its keys and values depend on tokens and positions alone."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 97, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4}
    ends: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    if kind == "yarn":
        rope = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64, "rope_theta": 1e4}
        model: Any = transformers.LlamaForCausalLM(transformers.LlamaConfig(num_key_value_heads=1, rope_parameters=rope, **sizes))
    elif kind == "qwen3":
        model = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(num_key_value_heads=1, head_dim=16, **sizes))
    elif kind == "cohere":
        model = transformers.CohereForCausalLM(transformers.CohereConfig(num_key_value_heads=2, **ends, **sizes))
    elif kind == "smollm3":  # every fourth layer has no positions
        model = transformers.SmolLM3ForCausalLM(transformers.SmolLM3Config(num_key_value_heads=2, **ends, **(sizes | {"num_hidden_layers": 4})))
    elif kind == "gpt2":
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=97, n_embd=64, n_layer=1, n_head=4))
    elif kind == "dynamic":
        rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(num_key_value_heads=2, rope_parameters=rope, **sizes))
    else:
        raise ValueError(kind)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
    return LanguageModel(model.eval(), SimpleNamespace(all_special_ids=[0, 1]), "cpu", {})


TOKENS = np.random.default_rng(5).integers(2, 97, 40).tolist()
AFTER = np.random.default_rng(6).integers(2, 97, 30).tolist()


@pytest.mark.parametrize("kind", [*ARCHITECTURES, "yarn", "qwen3"])
def test_a_question_gets_the_logits_of_transformers_for_the_kept_tokens_as_a_text(kind: Any) -> None:
    """First and newest tokens alone, so that all heads keep the same."""
    model = random_model(kind, layers=1) if kind in ARCHITECTURES else small_model(kind)
    press = Treekv(tokens=12, block=16, sinks=4, renumber=True)
    with torch.inference_mode(), ours(model.model):
        prefix = real_prefix(model, TOKENS)
        found = followed(model, press.compress(prefix), AFTER[:5])
        unmoved = followed(model, press.model_copy(update={"renumber": False}).compress(prefix), AFTER[:5])
    full = exact(model, [*TOKENS[:4], *TOKENS[-8:]], AFTER[:5])
    torch.testing.assert_close(found, full, rtol=1e-4, atol=1e-4 * float(full.std()))
    assert (unmoved - full).abs().max() > 1e-2 * full.std()


@pytest.mark.parametrize("kind", ["llama_one_kv_head", "yarn", "qwen3"])
@pytest.mark.parametrize("press", [H2o(tokens=10, renumber=True), Treekv(tokens=12, block=3, renumber=True)], ids=lambda press: press.name)
def test_generated_tokens_get_the_logits_of_transformers_for_the_live_tokens_as_a_text(kind: Any, press: Press) -> None:
    model, text = random_model(kind, layers=1) if kind in ARCHITECTURES else small_model(kind), [*TOKENS, *AFTER]
    found, held = [], []
    with torch.inference_mode(), ours(model.model):
        cache = cache_of(press, real_prefix(model, TOKENS))
        for position, token in enumerate(AFTER, len(TOKENS)):
            held += slots_held(cache)
            found.append(logits_of(model, forward(model, torch.tensor([[token]]), torch.tensor([[position]]), Decoding([cache], position))[0])[0])
    gaps = [row for row in held if any(b - a > 1 for a, b in zip(row, row[1:], strict=False))]
    assert len(gaps) > 20 and max(map(max, gaps)) > len(TOKENS)
    for logits, row, token in zip(found, held, AFTER, strict=True):
        full = exact(model, [text[position] for position in row], [token])[0]
        torch.testing.assert_close(logits, full, rtol=1e-4, atol=1e-4 * float(full.std()))


def test_the_first_generated_token_attends_as_a_question_to_what_is_stored() -> None:
    model = random_model("qwen2")
    for press in (H2o(tokens=12, renumber=True), Treekv(tokens=12, block=3, renumber=True)):
        with torch.inference_mode(), ours(model.model):
            prefix = real_prefix(model, TOKENS)
            torch.testing.assert_close(decoded(model, press, prefix, AFTER[:1])[0], followed(model, press.compress(prefix), AFTER[:1]))


@pytest.mark.parametrize(
    ("kind", "says"), [("cohere", "otherwise than by pairs"), ("smollm3", "otherwise than by pairs"), ("gpt2", "no rotary embedding"), ("dynamic", "'dynamic'")]
)
@pytest.mark.parametrize("press", [H2o(tokens=4, renumber=True), Treekv(tokens=4, renumber=True)], ids=lambda press: press.name)
def test_models_whose_keys_cannot_be_turned_on_are_refused_in_a_line(kind: str, says: str, press: Press) -> None:
    model = small_model(kind)
    with torch.inference_mode(), ours(model.model):
        prefix = real_prefix(model, TOKENS[:9])
        for ask in (lambda: press.compress(prefix), lambda: press.decoder(prefix, 0)):
            with pytest.raises(ModelError, match=says) as caught:
                ask()
            assert "\n" not in str(caught.value) and str(caught.value).endswith("leave `renumber` off")
        assert press.model_copy(update={"renumber": False}).compress(prefix).tokens == 9


def test_a_model_is_probed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def noted(model: LanguageModel, queries: Tensor, rotary: Rotary) -> None:
        seen.append(queries.shape[1])
        check_rotary(model, queries, rotary)

    monkeypatch.setattr(renumbered, "check_rotary", noted)
    model = random_model(layers=5)
    with torch.inference_mode(), ours(model.model):
        prefix = real_prefix(model, TOKENS)
        for _ in range(3):
            renumbering(prefix)
    assert seen == [64] * 5


def test_other_actions_than_eviction_cannot_be_renumbered() -> None:
    with pytest.raises(ValueError, match="action kivi stores it otherwise; use evict, or renumber: false"):
        component("presses", {"name": "h2o", "renumber": True, "action": "kivi"})
    assert H2o.model_validate({"action": "kivi"}).action.name == "kivi"


@pytest.mark.parametrize(
    "press",
    [
        H2o(renumber=True),
        H2o(renumber=True, keep=0.1, allocator="pyramid"),  # type: ignore[arg-type]
        Treekv(renumber=True),
        Treekv(renumber=True, keep=0.15, block=2),
    ],
    ids=["h2o", "h2o with fewer tokens in later layers", "treekv", "treekv in small blocks"],
)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_contract_is_kept(press: Press, device: str) -> None:
    check_press(press, device=device)


@pytest.mark.parametrize(
    "press", [H2o(tokens=8, covers="prompt", renumber=True), Treekv(tokens=8, covers="prompt", renumber=True)], ids=lambda press: press.name
)
def test_answers_that_grow_at_once_are_those_that_grow_one_by_one(press: Press) -> None:
    model = random_model()
    contexts = [TOKENS[:9], TOKENS[:30], TOKENS[3:20], TOKENS[:9], TOKENS]
    together = Engine(model, press=press).generate(contexts, max_tokens=14)
    assert together == [Engine(model, press=press).generate([context], max_tokens=14)[0] for context in contexts]
    assert together != Engine(model, press=press.model_copy(update={"renumber": False})).generate(contexts, max_tokens=14)


def test_a_full_cache_takes_the_bytes_that_it_takes_with_its_own_positions() -> None:
    model = random_model("qwen2")
    with torch.inference_mode(), ours(model.model):
        prefix = real_prefix(model, TOKENS)
        for press in (H2o(tokens=8), Treekv(tokens=8)):
            both = [press, press.model_copy(update={"renumber": True})]
            sizes = [held_bytes(decoded(model, one, prefix, AFTER[:steps])[1][0].tensors) for one in both for steps in (1, 30)]
            assert len(set(sizes)) == 1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_with_room_for_everything_decoding_is_the_full_model(architecture: Architecture) -> None:
    model = random_model(architecture)
    full = exact(model, TOKENS, AFTER[:5])
    with torch.inference_mode(), ours(model.model):
        prefix = real_prefix(model, TOKENS)
        for press in (H2o(tokens=45, renumber=True), Treekv(tokens=45, renumber=True)):
            torch.testing.assert_close(decoded(model, press, prefix, AFTER[:5])[0], full, rtol=1e-5, atol=1e-5)
            whole: Memory = press.compress(prefix)
            torch.testing.assert_close(followed(model, whole, AFTER[:5]), full, rtol=1e-5, atol=1e-5)
