"""A row in chunks has the losses and the gradient of the row whole, whatever the model, the adapters, the precision and the checkpointing."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import transformers as t

from curate.core import Row
from curate.errors import ModelError
from curate.model import LanguageModel, decoder_of
from curate.training.chunked import _Kept, backward_in_chunks, check_chunkable
from tests.training.tiny import FAMILIES, SIZES, adapted, assert_close, checkpointing, factors_for, gradients, model_of, plain_losses, rows_of, wrapped

ROW = rows_of(41)[0]
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}


def whole(model: LanguageModel, row: Row = ROW) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    losses = plain_losses(model, [row])
    (losses * factors_for(losses)).sum().backward()
    return losses.detach(), gradients(model)


def assert_same(model: LanguageModel, chunk_tokens: int, expected: tuple[torch.Tensor, dict[str, torch.Tensor]], allowed: float, row: Row = ROW) -> None:
    losses = backward_in_chunks(model, row, factors_for(expected[0]), chunk_tokens)
    assert not losses.requires_grad
    torch.testing.assert_close(losses, expected[0], rtol=allowed, atol=allowed)
    assert_close(gradients(model), expected[1], allowed)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("dtype", list(TOLERANCES), ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_are_those_of_the_whole_row(family: str, dtype: torch.dtype, lora: bool) -> None:
    model = model_of(family, dtype, lora=lora)
    expected = whole(model)
    for chunk_tokens in (7, 20, 64) if dtype == torch.float64 else (9,):  # 40 tokens stand before others, so 20 leaves no rest
        assert_same(model, chunk_tokens, expected, TOLERANCES[dtype])


def test_a_chunk_may_be_a_single_token() -> None:
    model = model_of("llama", torch.float64)
    assert_same(model, 1, whole(model), 1e-10)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_layers_that_are_computed_again_in_backward_attend_as_they_did(family: str, reentrant: bool) -> None:
    model = model_of(family, torch.float64, lora=True)
    expected = whole(model)
    checkpointing(model, reentrant=reentrant)
    assert_same(model, 9, expected, 1e-10)
    assert model.model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("supervised", [[], [0], [1], [40], [10], [9, 10, 11], [20, 21]], ids=str)
def test_every_supervised_token_counts_once_wherever_chunks_end(supervised: list[int]) -> None:
    model = model_of("llama", torch.float64)
    marks = np.zeros(41, bool)
    marks[supervised] = True
    row = Row(ROW.input_ids, marks)
    losses = plain_losses(model, [row])
    if not len(losses):
        assert len(backward_in_chunks(model, row, losses.detach(), 10)) == 0 and gradients(model) == {}
        return
    assert_same(model, 10, whole(model, row), 1e-10, row)


def test_gradients_are_added_to_those_that_are_there() -> None:
    model = model_of("qwen2", torch.float64)
    losses, expected = whole(model)
    for _ in range(2):
        backward_in_chunks(model, ROW, factors_for(losses), 10)
    assert_close(gradients(model), {name: 2 * gradient for name, gradient in expected.items()}, 1e-10)


@pytest.mark.parametrize("targets", [["v_proj"], ["down_proj"]])
def test_layers_below_the_first_trained_one_need_no_gradient(targets: list[str]) -> None:
    model = model_of("llama", torch.float64)
    for name, parameter in model.names.items():
        parameter.requires_grad = name.endswith(f"{targets[0]}.weight")
    model = LanguageModel(model.model, model.tokenizer, "cpu", {name: value for name, value in model.names.items() if value.requires_grad})
    assert_same(model, 10, whole(model), 1e-10)


@pytest.mark.parametrize("window", [1, 5, 15])
@pytest.mark.parametrize("chunk_tokens", [4, 10])
def test_windows_reach_back_across_chunks(window: int, chunk_tokens: int) -> None:
    torch.manual_seed(0)
    config = t.MistralConfig(num_key_value_heads=2, sliding_window=window, initializer_range=0.2, **SIZES)
    model = wrapped(t.MistralForCausalLM(config).double())
    check_chunkable(model)
    assert_same(model, chunk_tokens, whole(model), 1e-10)


def test_layers_with_and_without_windows_may_alternate() -> None:
    torch.manual_seed(0)
    kinds = ["sliding_attention", "full_attention"]
    config = t.Gemma3TextConfig(num_key_value_heads=2, head_dim=16, sliding_window=6, layer_types=kinds, **SIZES)
    model = wrapped(t.Gemma3ForCausalLM(config).double())
    check_chunkable(model)
    assert_same(model, 10, whole(model), 1e-6)  # its norms compute in float32


@contextmanager
def hidden_states(model: LanguageModel) -> Iterator[list[torch.Tensor]]:
    """The inputs to the final norm of every pass, in the order of the passes."""
    found: list[torch.Tensor] = []
    decoder = decoder_of(model.model)
    norm = decoder.ln_f if hasattr(decoder, "ln_f") else decoder.norm
    hook = norm.register_forward_hook(lambda module, inputs, output: found.append(inputs[0].detach().clone()))
    try:
        yield found
    finally:
        hook.remove()


@pytest.mark.parametrize("again", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize(("family", "lora"), [("gpt2", False), ("llama", True)])
def test_both_passes_of_a_chunk_see_the_same_dropout(family: str, lora: bool, again: bool) -> None:
    model = model_of(family, torch.float64, lora=lora, dropout=0.3)
    model.model.train()
    if again:
        checkpointing(model)
    assert_same_dropout(model, "cpu")


def assert_same_dropout(model: LanguageModel, device: str) -> None:
    torch.manual_seed(5)
    with hidden_states(model) as states:
        losses = backward_in_chunks(model, ROW, torch.ones(int(ROW.supervised[1:].sum()), device=device), 10)
    first, second = states[:3], states[:2:-1]
    assert len(states) == 7 and all(torch.equal(a, b) for a, b in zip(first, second, strict=False))
    assert len({float(state.sum()) for state in second}) == 4
    torch.manual_seed(6)
    assert not torch.equal(losses, backward_in_chunks(model, ROW, torch.ones_like(losses), 10))


def test_dropout_gradients_are_those_of_the_masks_that_were_drawn() -> None:
    model = model_of("gpt2", torch.float64, dropout=0.3)
    model.model.train()
    name = "transformer.h.0.attn.c_attn.weight"
    weight = model.names[name]
    direction = torch.randn(weight.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def loss(step: float) -> float:
        torch.manual_seed(5)
        with torch.no_grad():
            weight.add_(direction, alpha=step)
        found = backward_in_chunks(model, ROW, torch.ones(int(ROW.supervised[1:].sum())), 10).sum()
        with torch.no_grad():
            weight.sub_(direction, alpha=step)
        return float(found)

    loss(0.0)
    slope = float((gradients(model)[name] * direction).sum())
    assert slope == pytest.approx((loss(1e-5) - loss(-1e-5)) / 2e-5, rel=1e-6)


def test_the_generator_goes_on_where_one_pass_would_leave_it() -> None:
    model = model_of("gpt2", dropout=0.3)
    model.model.train()
    states: list[torch.Tensor] = []
    decoder_of(model.model).register_forward_hook(lambda module, inputs, output: states.append(torch.get_rng_state()))
    backward_in_chunks(model, ROW, torch.ones(int(ROW.supervised[1:].sum())), 10)
    assert len(states) == 7 and torch.equal(torch.get_rng_state(), states[3])
    assert [torch.equal(states[i], states[6 - i]) for i in range(3)] == [True] * 3 and not torch.equal(states[3], states[6])


@pytest.mark.parametrize("again", [False, True], ids=["kept", "checkpointed"])
def test_mixed_precision_is_as_near_as_that_of_the_whole_row(again: bool) -> None:
    model = model_of("llama", lora=True)
    if again:
        checkpointing(model)
    assert_as_near(model, "cpu", mixed=True)


def assert_as_near(model: LanguageModel, device: str, *, mixed: bool) -> None:
    exact = whole(model)[1]
    if not mixed:
        model.model.bfloat16()
    with torch.autocast(device, torch.bfloat16, enabled=mixed):
        losses = plain_losses(model, [ROW])
        factors = factors_for(losses)
        backward_in_chunks(model, ROW, factors, 10)
    chunked = gradients(model)
    (losses * factors).sum().backward()
    own = gradients(model)
    error, own_error = (sum(float((found[name].float() - exact[name]).norm()) for name in exact) for found in (chunked, own))
    assert 0 < error < 1.5 * own_error


def test_what_many_chunks_leave_in_16_bits_is_summed_in_32() -> None:
    kept = _Kept(torch.zeros(1, 1, 4, 1, dtype=torch.bfloat16))
    for _ in range(1000):
        kept.leave(1, torch.full((1, 1, 2, 1), 2.0**-8, dtype=torch.bfloat16))
    assert kept.owed(0, 4).flatten().tolist() == [0, 1000 / 256, 1000 / 256, 0]


@pytest.mark.parametrize("family", FAMILIES)
def test_models_of_these_families_may_be_chunked_and_are_left_as_they_were(family: str) -> None:
    model = model_of(family, lora=True, dropout=0.2)
    model.model.train()
    check_chunkable(model)
    assert model.model.training and model.model.config._attn_implementation == "sdpa" and gradients(model) == {}


def test_a_model_that_carries_other_state_is_refused_in_one_line() -> None:
    model = wrapped(t.MambaForCausalLM(t.MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2)))
    with pytest.raises(ModelError) as caught:
        check_chunkable(model)
    assert str(caught.value) == ("rows cannot be trained in chunks for this model: it has layers of the kind linear_attention; leave train.chunk_tokens out")


def test_a_model_that_mixes_tokens_outside_attention_is_refused() -> None:
    model = model_of("llama")
    model.model.model.layers[0].mlp.register_forward_hook(lambda module, inputs, output: output + output.cumsum(1) / 10)
    with pytest.raises(ModelError, match="the losses of a probe differ"):
        check_chunkable(model)


def test_a_layer_that_attends_twice_is_refused() -> None:
    torch.manual_seed(0)
    model = wrapped(t.DiffLlamaForCausalLM(t.DiffLlamaConfig(num_key_value_heads=2, initializer_range=0.2, **SIZES)))
    with pytest.raises(ModelError, match="leave train.chunk_tokens out"):
        check_chunkable(model)


@pytest.mark.gpu
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_are_those_of_the_whole_row_on_a_device(family: str) -> None:
    for dtype, allowed in ((torch.float64, 1e-9), (torch.float32, 1e-3)):
        model = model_of(family, dtype, lora=True, device="cuda")
        check_chunkable(model)
        expected = whole(model)
        assert_same(model, 10, expected, allowed)
        checkpointing(model)
        assert_same(model, 7, expected, allowed)


@pytest.mark.gpu
@pytest.mark.parametrize("window", [None, 12])
@pytest.mark.parametrize("mixed", [False, True], ids=["bfloat16", "autocast"])
def test_the_kernel_for_unlike_lengths_is_as_near_as_the_whole_row(window: int | None, mixed: bool) -> None:
    torch.manual_seed(0)
    config: Any = t.MistralConfig(num_key_value_heads=2, sliding_window=window, initializer_range=0.1, **SIZES)
    assert_as_near(adapted(wrapped(t.MistralForCausalLM(config), "cuda")), "cuda", mixed=mixed)


@pytest.mark.gpu
@pytest.mark.parametrize(("family", "lora"), [("gpt2", False), ("llama", True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_both_passes_of_a_chunk_see_the_same_dropout_on_a_device(family: str, lora: bool, dtype: torch.dtype) -> None:
    model = model_of(family, dtype, lora=lora, dropout=0.3, device="cuda")
    model.model.train()
    assert_same_dropout(model, "cuda")
