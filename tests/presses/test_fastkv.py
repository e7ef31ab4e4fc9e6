"""FastKV: which tokens go on, that they go on unchanged at their own positions, and what each layer keeps."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from curate.compression.prefix import LayerView
from curate.errors import ConfigError, ModelError
from curate.inference.attention import ours
from curate.inference.passes import Pass, forward
from curate.inference.prefill import prefilled
from curate.inference.propagation import Narrowing, causal, narrowed
from curate.inference.stores import Memory, Plain
from curate.model import LanguageModel, decoder_of
from curate.presses.fastkv import Fastkv
from curate.testing.random_models import ARCHITECTURES, Architecture, random_model

TOKENS = np.random.default_rng(3).integers(2, 97, 45).tolist()


def prefilled_by(press: Fastkv, model: LanguageModel, tokens: Sequence[int] = TOKENS) -> tuple[Memory, Tensor]:
    with torch.inference_mode(), ours(model.model):
        return press.prefill(model, tokens)


def views(model: LanguageModel, tokens: Sequence[int] = TOKENS) -> tuple[Sequence[LayerView], Tensor]:
    with torch.inference_mode(), ours(model.model):
        prefix, hidden = prefilled(model, tokens)
    return prefix.layers, hidden


def stored(memory: Memory) -> list[Plain]:
    layers = [store for store in memory.layers if isinstance(store, Plain)]
    assert len(layers) == len(memory.layers)
    return layers


def pooled_scores(view: LayerView, window: int, kernel: int) -> np.ndarray[Any, Any]:
    """(Hk, n - w), head by head, query by query and token by token."""
    n, groups = view.keys.shape[1], view.groups
    q, k = view.queries.double().numpy(), view.keys.double().numpy()
    found = np.zeros((len(k), n - window))
    for head in range(len(q)):
        for query in range(n - window, n):
            logits = np.array([q[head, query] @ k[head // groups, j] * view.scale for j in range(query + 1)])
            weights = np.exp(logits - logits.max())
            found[head // groups] += (weights / weights.sum())[: n - window]
    padded = np.pad(found, ((0, 0), (kernel // 2, kernel // 2)))
    return np.stack([padded[:, j : j + kernel].sum(1) / kernel for j in range(n - window)], 1)


def best(scores: np.ndarray[Any, Any], count: int, n: int, window: int) -> list[int]:
    return sorted([*np.argsort(-scores, kind="stable")[: count - window].tolist(), *range(n - window, n)])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_with_all_tokens_going_on_each_layer_keeps_what_snapkv_keeps(architecture: Architecture) -> None:
    model = random_model(architecture)
    memory, hidden = prefilled_by(Fastkv(keep=0.4, propagate=1.0, window=5, kernel=3), model)
    layers, exact = views(model)
    for view, store in zip(layers, stored(memory), strict=True):
        assert store.keys.shape[1] == 18
        for head, scores in enumerate(pooled_scores(view, 5, 3)):
            kept = best(scores, 18, 45, 5)
            torch.testing.assert_close(store.keys[head], view.keys[head, kept], rtol=0, atol=1e-5)
            torch.testing.assert_close(store.values[head], view.values[head, kept], rtol=0, atol=1e-5)
    torch.testing.assert_close(hidden, exact[-1:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_keeping_and_passing_on_everything_is_the_full_cache(architecture: Architecture) -> None:
    model = random_model(architecture)
    memory, hidden = prefilled_by(Fastkv(keep=1.0, propagate=1.0), model)
    layers, exact = views(model)
    torch.testing.assert_close(hidden, exact[-1:], rtol=0, atol=1e-5)
    for view, store in zip(layers, stored(memory), strict=True):
        torch.testing.assert_close(store.keys, view.keys, rtol=0, atol=1e-5)
        torch.testing.assert_close(store.values, view.values, rtol=0, atol=1e-5)


def traced(model: LanguageModel, press: Fastkv | None) -> list[tuple[Tensor, Tensor]]:
    """(hidden states, positions) that every layer was given, and at the end what the last one gave; of an exact run without a press."""
    seen: list[tuple[Tensor, Tensor]] = []
    layers = decoder_of(model.model).layers

    def remember(module: Any, given: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        seen.append((given[0] if given else named["hidden_states"], named["position_ids"][0]))
        if module is layers[-1]:
            seen.append((output, named["position_ids"][0]))

    handles = [layer.register_forward_hook(remember, with_kwargs=True) for layer in layers]
    if press is not None:
        prefilled_by(press, model)
    else:
        with torch.inference_mode(), ours(model.model):
            forward(model, torch.tensor([TOKENS]), torch.arange(45).unsqueeze(0), Pass())
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_rows_up_to_the_last_full_layer_are_the_exact_ones_bitwise_and_the_chosen_go_on(architecture: Architecture, layer: int) -> None:
    model = random_model(architecture, layers=4)
    press = Fastkv(propagate=0.3, layer=layer, window=5, kernel=3)
    exact, found = traced(model, None), traced(model, press)
    for own, wanted in zip(found[: layer + 1], exact, strict=False):
        assert own[0].equal(wanted[0]) and own[1].equal(wanted[1])
    states, positions = found[layer + 1]
    scores = pooled_scores(views(model)[0][layer], 5, 3).sum(0)
    assert positions.tolist() == best(scores, 14, 45, 5)
    assert positions.diff().gt(0).all() and positions[-5:].tolist() == [40, 41, 42, 43, 44]
    assert states.equal(exact[layer + 1][0][:, positions])
    assert all(own[1].equal(positions) and own[0].shape[1] == 14 for own in found[layer + 1 :])


@pytest.mark.parametrize("architecture", ["qwen2", "gpt_neox"])
def test_the_upper_layers_see_the_chosen_tokens_alone_at_their_own_positions(architecture: Architecture) -> None:
    model = random_model(architecture, layers=4)
    press = Fastkv(keep=0.2, propagate=0.4, window=5, kernel=3)
    states, positions = traced(model, press)[2]
    memory, hidden = prefilled_by(press, model)
    decoder = decoder_of(model.model)
    whole, decoder.layers = decoder.layers, decoder.layers[2:]
    decoder.config.num_hidden_layers = 2
    model.model.set_attn_implementation("eager")
    later = torch.ones(len(positions), len(positions)).triu(1)
    mask = torch.zeros_like(later).masked_fill(later.bool(), torch.finfo(torch.float32).min)[None, None]
    with torch.inference_mode():
        wanted = decoder(inputs_embeds=states, position_ids=positions.unsqueeze(0), attention_mask=mask, use_cache=False).last_hidden_state[0]
    decoder.layers = whole
    torch.testing.assert_close(hidden, wanted[-1:], rtol=0, atol=1e-5)
    assert [store.keys.shape[1] for store in stored(memory)] == [9, 9, 9, 9] and memory.tokens == 45


def test_layers_above_hold_no_more_than_went_on() -> None:
    model = random_model("llama", layers=4)
    memory, _ = prefilled_by(Fastkv(keep=0.5, propagate=0.25, window=5), model)
    assert [store.keys.shape[1] for store in stored(memory)] == [23, 23, 12, 12]
    assert memory.nbytes == 2 * 4 * 2 * 16 * (23 + 23 + 12 + 12)
    layers, _ = views(model)
    assert not stored(memory)[0].keys.equal(layers[0].keys[:, :23])


@pytest.mark.parametrize("tokens", [1, 3, 9])
def test_short_prefixes_and_small_budgets_keep_their_newest_tokens(tokens: int) -> None:
    model = random_model("llama")
    memory, hidden = prefilled_by(Fastkv(keep=0.1, propagate=0.1), model, TOKENS[:tokens])
    layers, exact = views(model, TOKENS[:tokens])
    assert hidden.shape == (1, 64)
    for store in stored(memory):
        assert store.keys.shape[1] == 1
    assert stored(memory)[0].keys.equal(layers[0].keys[:, -1:])
    if tokens < 9:  # all of them are in the window, so that all go on
        torch.testing.assert_close(hidden, exact[-1:], rtol=0, atol=1e-5)


def test_pressing_a_prefix_stores_what_the_prefill_stores() -> None:
    model = random_model("qwen2")
    press = Fastkv(keep=0.3, pool="max", window=4)
    with torch.inference_mode(), ours(model.model):
        pressed = press.compress(prefilled(model, TOKENS)[0])
    for one, other in zip(stored(pressed), stored(prefilled_by(press, model)[0]), strict=True):
        assert one.keys.equal(other.keys) and one.values.equal(other.values)


@pytest.mark.parametrize("block", [1, 4, 7, 30])
def test_attention_in_blocks_is_causal_attention(block: int) -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(1, 4, 15, 8), torch.randn(1, 2, 15, 8), torch.randn(1, 2, 15, 8)
    wanted = torch.nn.functional.scaled_dot_product_attention(query, key.repeat_interleave(2, 1), value.repeat_interleave(2, 1), is_causal=True, scale=0.3)
    torch.testing.assert_close(causal(query, key, value, 0.3, block), wanted)


def test_the_model_is_left_as_it_was_even_after_an_error() -> None:
    model = random_model("llama")
    before = traced(model, None)

    def fail(view: LayerView) -> Tensor:
        raise ArithmeticError

    with pytest.raises(ArithmeticError), torch.inference_mode(), ours(model.model):
        narrowed(model, TOKENS, Narrowing(0, fail, lambda view: Plain(view.keys, view.values)))
    assert all(one[0].equal(other[0]) for one, other in zip(traced(model, None), before, strict=True))


def test_what_cannot_be_is_said() -> None:
    model = random_model("llama")
    with pytest.raises(ConfigError, match="fastkv.layer 3 is not one of the model's layers, 0 to 2; lower it"):
        prefilled_by(Fastkv(layer=3), model)
    with pytest.raises(ValueError, match="kernel 4 has no middle token; use an odd one such as 5"):
        Fastkv(kernel=4)
    decoder_of(model.model).layers = torch.nn.ModuleList([torch.nn.ModuleList(list(decoder_of(model.model).layers))])
    with pytest.raises(ModelError, match="is no plain stack of layers with an attention each"):
        prefilled_by(Fastkv(layer=0), model)


def test_numbers_of_tokens_stand_in_for_shares() -> None:
    model = random_model()
    by_share, _ = prefilled_by(Fastkv(keep=0.5, propagate=0.25, window=5), model)
    n = len(TOKENS)
    by_number, _ = prefilled_by(Fastkv(tokens=-(-n // 2), propagated=-(-n // 4), window=5), model)
    for one, other in zip(by_share.layers, by_number.layers, strict=True):
        assert all(a.equal(b) for a, b in zip(one.tensors, other.tensors, strict=True))
    whole, _ = prefilled_by(Fastkv(tokens=10 * n, propagated=10 * n), model)
    assert all(layer.tensors[0].shape[1] == n for layer in whole.layers)
