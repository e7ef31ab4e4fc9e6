"""RazorAttention: the search for retrieval heads, the token that stands for the dropped ones, and what each head keeps."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from curate.compression.prefix import Prefix
from curate.compression.retrieval import Repeated, head_scores, looking_back, repeated_tokens, top_heads
from curate.errors import ModelError
from curate.inference.attention import ours
from curate.inference.passes import Pass, forward
from curate.inference.prefill import prefilled
from curate.inference.stores import Memory, Plain, Ragged
from curate.model import LanguageModel
from curate.presses.razor import ECHO, INDUCTION, Razor
from curate.testing.random_models import ARCHITECTURES, Architecture, random_model

TOKENS = np.random.default_rng(3).integers(2, 97, 50).tolist()
AFTER = [5, 17, 60, 9]


def prefix_of(model: LanguageModel, retrieving: Tensor | None = None, tokens: list[int] = TOKENS) -> Prefix:
    """A prefix whose heads of these scores (L, Hk) retrieve; by default none stands out."""
    with torch.inference_mode(), ours(model.model):
        prefix = prefilled(model, tokens)[0]
    scores = torch.zeros(len(prefix.layers), len(prefix.layers[0].keys)) if retrieving is None else retrieving.float()
    state = {ECHO: torch.zeros_like(scores), INDUCTION: scores}
    return replace(prefix, state=state)


def states_after(model: LanguageModel, memory: Memory) -> Tensor:
    positions = torch.arange(memory.tokens, memory.tokens + len(AFTER)).unsqueeze(0)
    with torch.inference_mode(), ours(model.model):
        return forward(model, torch.tensor([AFTER]), positions, Pass([memory]))[0]


def uniform_causal(text: Repeated) -> float:
    """The mean over queries past the first copy of (earlier copies) / (tokens up to the query)."""
    first = text.start + text.length
    return float(np.mean([((p - text.start) // text.length) / (p + 1) for p in range(first, text.start + text.length * text.copies)]))


def test_a_uniform_causal_head_scores_what_arithmetic_says() -> None:
    model = random_model("llama")
    for layer in model.model.model.layers:
        layer.self_attn.q_proj.weight.data.zero_()
    text = repeated_tokens(model, 20, 4, 0)
    with torch.inference_mode(), ours(model.model):
        echo, induction = head_scores(model, text)
    assert echo.shape == induction.shape == (3, 2)
    torch.testing.assert_close(echo, torch.full((3, 2), uniform_causal(text)), rtol=1e-5, atol=0)
    torch.testing.assert_close(induction, echo, rtol=1e-5, atol=0)


@pytest.mark.parametrize("architecture", ["qwen2", "gpt_neox"])
def test_scores_are_those_of_the_whole_attention_maps(architecture: Architecture) -> None:
    model = random_model(architecture)
    text = repeated_tokens(model, 13, 3, 1)
    with torch.inference_mode(), ours(model.model):
        echo, induction = head_scores(model, text)
    model.model.set_attn_implementation("eager")
    with torch.inference_mode():
        maps = model.model(torch.tensor([list(text.tokens)]), output_attentions=True).attentions
    groups = maps[0].shape[1] // echo.shape[1]
    for layer, weights in enumerate(maps):
        found = np.zeros((2, weights.shape[1]))
        for head in range(weights.shape[1]):
            for query in range(13, 39):
                for lag in (13, 26):
                    if query - lag >= 0:
                        found[0, head] += float(weights[0, head, query, query - lag]) / 26
                        found[1, head] += float(weights[0, head, query, query - lag + 1]) / 26
        wanted = found.reshape(2, -1, groups).max(-1)
        np.testing.assert_allclose(echo[layer].numpy(), wanted[0], rtol=1e-4)
        np.testing.assert_allclose(induction[layer].numpy(), wanted[1], rtol=1e-4)


def test_chunks_and_blocks_of_queries_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    text = Repeated([], 1, 10, 3)
    queries, keys = torch.randn(4, 31, 8), torch.randn(2, 31, 8)
    whole = looking_back(queries, keys, 0.5, 0, text)
    chunks = [looking_back(queries[:, start:end], keys[:, :end], 0.5, start, text) for start, end in ((0, 7), (7, 19), (19, 31))]
    torch.testing.assert_close(sum(chunks[1:], chunks[0]), whole)
    monkeypatch.setattr("curate.compression.retrieval._ENTRIES", 4 * 31 * 3)
    torch.testing.assert_close(looking_back(queries, keys, 0.5, 0, text), whole)


def test_random_tokens_are_distinct_ordinary_and_repeated_after_the_first() -> None:
    model = random_model("llama")
    model.tokenizer.bos_token_id = 1
    model.tokenizer.added_tokens_decoder = {7: "<reserved>"}
    text = repeated_tokens(model, 30, 4, 5)
    assert text.tokens[0] == 1 and text.start == 1 and len(text.tokens) == 121
    copies = np.reshape(text.tokens[1:], (4, 30))
    assert (copies == copies[0]).all() and len(set(copies[0].tolist())) == 30
    assert not {0, 1, 7} & set(text.tokens[1:])
    assert text.tokens == repeated_tokens(model, 30, 4, 5).tokens != repeated_tokens(model, 30, 4, 6).tokens
    assert repeated_tokens(model, 2500, 4, 5).length == 94  # all that this vocabulary has
    model.model.config.max_position_embeddings = 41
    assert repeated_tokens(model, 2500, 4, 5).length == 10


def test_a_model_without_room_for_copies_is_refused() -> None:
    model = random_model("llama")
    model.model.config.max_position_embeddings = 7
    with pytest.raises(ModelError, match="takes 4 copies of at least 2 ordinary tokens, but this model has 95 of them and 7 positions"):
        repeated_tokens(model, 10, 4, 0)


def circuit() -> LanguageModel:
    """Two layers: in the first, query head 1 looks for its own token and query head 2 copies the token before; in the second, query head 2 looks for that."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 97, "hidden_size": 64, "intermediate_size": 16, "num_hidden_layers": 2, "head_dim": 64}
    config = transformers.Qwen2Config(num_attention_heads=4, num_key_value_heads=2, **sizes)
    config.rope_parameters = {"rope_type": "default", "rope_theta": 1e12}
    model: Any = transformers.Qwen2ForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.model.layers.parameters():
            parameter.zero_()
        for layer in model.model.layers:
            layer.input_layernorm.weight.fill_(1.0)
        model.model.embed_tokens.weight.zero_()[:, :24] = torch.randn(97, 24).sign()
        slow = torch.arange(8, 32)  # channels that hardly turn within the text
        eye = torch.eye(24)
        first, second = (layer.self_attn for layer in model.model.layers)
        first.q_proj.weight[64 + slow, :24] = first.k_proj.weight[slow, :24] = 3 * eye
        channels = torch.arange(8)
        angles = model.model.rotary_emb.inv_freq[:8]
        first.k_proj.bias[64 + channels] = 16.0  # every key says the same, every query asks for it one position back
        first.q_proj.bias[128 + channels], first.q_proj.bias[128 + 32 + channels] = 16 * angles.cos(), -16 * angles.sin()
        first.v_proj.weight[64 : 64 + 24, :24] = eye
        first.o_proj.weight[24:48, 128 : 128 + 24] = eye
        second.q_proj.weight[128 + slow, :24] = second.k_proj.weight[64 + slow, 24:48] = 4 * eye
    tokenizer = type("Tokenizer", (), {"all_special_ids": [0, 1]})()
    return LanguageModel(model, tokenizer, "cpu", {})


def test_a_hand_built_induction_circuit_is_found() -> None:
    model = circuit()
    state = Razor(length=30, echo=0.25, induction=0.25).calibrate(model, [], 0)
    assert state is not None
    assert state[INDUCTION][1, 1] > 0.9 and state[INDUCTION].flatten()[:3].max() < 0.1
    assert 0.5 < state[ECHO][0, 0] < 0.75 and state[ECHO].flatten()[1:].max() < 0.1  # it shares its attention with the token itself
    prefix = prefix_of(model)
    found = Razor(echo=0.25, induction=0.25).retrieval_heads(replace(prefix, state=state))
    assert found == [[True, False], [False, True]]


def test_shares_are_of_all_heads_together_rounded_up_and_ties_go_to_the_lower() -> None:
    scores = torch.tensor([[0.1, 0.5], [0.5, 0.5], [0.2, 0.0]])
    assert top_heads(scores, 0.0).sum() == 0 and top_heads(scores, 1.0).all()
    assert top_heads(scores, 0.17).tolist() == [[False, True], [True, False], [False, False]]
    assert top_heads(scores, 1 / 6).tolist() == [[False, True], [False, False], [False, False]]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_with_all_heads_retrieving_or_no_token_dropped_nothing_changes(architecture: Architecture) -> None:
    model = random_model(architecture)
    prefix = prefix_of(model)
    whole = Memory([Plain(view.keys, view.values) for view in prefix.layers], len(prefix))
    wanted = states_after(model, whole)
    for press in (Razor(induction=1.0), Razor(divisor=1.0, recent=1), Razor(recent=50)):
        torch.testing.assert_close(states_after(model, press.compress(prefix)), wanted, rtol=0, atol=1e-5)
    fewer = Razor(recent=4, sinks=2, induction=0.14)
    assert (states_after(model, fewer.compress(prefix)) - wanted).abs().max() > 1e-3


def test_each_head_keeps_what_its_kind_keeps() -> None:
    scores = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    prefix = prefix_of(random_model("qwen2"), scores)
    memory = Razor(echo=0.0, induction=0.5, sinks=3, recent=7, divisor=5.0).compress(prefix)
    mixed, thin, full = memory.layers
    assert isinstance(mixed, Ragged) and isinstance(thin, Plain) and isinstance(full, Plain)
    assert full.keys is prefix.layers[2].keys and mixed.heads[0].keys.shape[1] == 50 and mixed.heads[0].bias is None
    kept = [0, 1, 2, *range(40, 50)]  # 50 / 5 = 10 is more than 7
    for store, keys, values in ((mixed.heads[1], *_head(prefix, 0, 1)), (thin, prefix.layers[1].keys, prefix.layers[1].values)):
        places = [0, 1, 2, *range(4, 14)]
        assert store.keys[:, places].equal(keys[:, kept]) and store.values[:, places].equal(values[:, kept])
        torch.testing.assert_close(store.keys[:, 3], keys[:, 3:40].mean(1))
        torch.testing.assert_close(store.values[:, 3], values[:, 3:40].mean(1))
        assert store.bias is not None and store.bias[:, places].eq(0).all()
        assert store.bias[:, 3].tolist() == pytest.approx([math.log(37)] * len(keys))
    numbers = 50 * 2 + 14 * 2 + 50 * 4 + 14 * 4  # tokens times 2 (keys and values), by head
    assert memory.nbytes == 4 * (16 * numbers + 14 * 3)


def _head(prefix: Prefix, layer: int, head: int) -> tuple[Tensor, Tensor]:
    return prefix.layers[layer].keys[head : head + 1], prefix.layers[layer].values[head : head + 1]


def test_equal_dropped_tokens_are_compensated_exactly_and_only_by_their_number() -> None:
    prefix = prefix_of(random_model("llama", layers=1))
    alike = torch.tensor([*range(5), *[4] * 35, *range(40, 50)])
    view = replace(prefix.layers[0], keys=prefix.layers[0].keys[:, alike], values=prefix.layers[0].values[:, alike])
    prefix = replace(prefix, layers=[view])
    torch.manual_seed(1)
    queries = torch.randn(2, 6, 16)
    wanted, total = Plain(view.keys, view.values).attend(queries, view.scale)
    errors = {}
    for weight in ("count", "one", "none"):
        store = Razor.model_validate({"recent": 10, "sinks": 4, "induction": 0.0, "echo": 0.0, "weight": weight}).compress(prefix).layers[0]
        found, normaliser = store.attend(queries, view.scale)
        errors[weight] = float((found - wanted).abs().max())
        assert weight != "count" or (normaliser - total).abs().max() < 1e-5
    assert errors["count"] < 1e-6 and errors["one"] > 1e-2 and errors["none"] > 1e-2 and errors["one"] != errors["none"]


@pytest.mark.parametrize("weight", ["count", "one", "none"])
@pytest.mark.parametrize(("tokens", "sinks", "recent"), [(50, 3, 10), (9, 4, 8), (2, 4, 3), (12, 0, 1)])
def test_while_generating_the_mean_takes_in_what_leaves_the_newest_tokens(weight: str, tokens: int, sinks: int, recent: int) -> None:
    scores = torch.tensor([[1.0, 0.0]])
    prefix = prefix_of(random_model("llama", layers=1), scores, TOKENS[:tokens])
    press = Razor.model_validate({"echo": 0.0, "induction": 0.5, "sinks": sinks, "recent": recent, "divisor": 100.0, "weight": weight})
    cache = press.decoder(prefix, 0)
    assert cache is not None
    view = prefix.layers[0]
    keys, values = view.keys, view.values
    torch.manual_seed(2)
    for position in range(tokens, tokens + 30):
        query, key, value = torch.randn(2, 2, 16), torch.randn(2, 1, 16), torch.randn(2, 1, 16)
        keys, values = torch.cat([keys, key], 1), torch.cat([values, value], 1)
        found = cache.attend(query, key, value, position, view.scale)
        torch.testing.assert_close(found[0], _over(query[0], keys[0], values[0], [0.0] * (position + 1), view.scale), rtol=1e-4, atol=1e-5)
        kept = [i for i in range(position + 1) if i < sinks or i >= position - recent]  # those before it, and the token itself
        gone = [i for i in range(position + 1) if i not in kept]
        own_keys, own_values, bias = keys[1, kept], values[1, kept], [0.0] * len(kept)
        if gone and weight != "none":
            own_keys, own_values = torch.cat([own_keys, keys[1, gone].mean(0, keepdim=True)]), torch.cat([own_values, values[1, gone].mean(0, keepdim=True)])
            bias.append(math.log(len(gone)) if weight == "count" else 0.0)
        torch.testing.assert_close(found[1], _over(query[1], own_keys, own_values, bias, view.scale), rtol=1e-4, atol=1e-5)
    sizes = {tuple(tensor.shape) for tensor in cache.tensors}
    assert (1, 1 + sinks + recent + 1, 16) in sizes and (1, tokens, 16) in sizes and (1, 30, 16) in sizes


def _over(query: Tensor, keys: Tensor, values: Tensor, bias: list[float], scale: float) -> Tensor:
    weights = ((query.double() @ keys.double().T) * scale + torch.tensor(bias, dtype=torch.float64)).softmax(-1)
    return (weights @ values.double()).float()


def test_a_press_that_was_not_calibrated_says_so() -> None:
    prefix = prefix_of(random_model("llama"))
    with pytest.raises(ModelError, match=r"razor reads what its calibration measured, and this prefix has none; calibrate the press on the base model first$"):
        Razor().compress(replace(prefix, state=None))
    with pytest.raises(ModelError, match="razor is of another model"):
        Razor().compress(prefix_of(random_model("llama"), torch.zeros(2, 2)))


def test_calibration_reads_no_text_and_depends_on_the_seed_alone() -> None:
    model = random_model("llama_one_kv_head")
    press = Razor(length=20)
    one, again, other = (press.calibrate(model, texts, seed) for texts, seed in (([], 0), ([[5, 6]], 0), ([], 1)))
    assert one is not None and again is not None and other is not None
    assert one[ECHO].shape == one[INDUCTION].shape == (3, 1)
    assert one[INDUCTION].equal(again[INDUCTION]) and not one[INDUCTION].equal(other[INDUCTION])
