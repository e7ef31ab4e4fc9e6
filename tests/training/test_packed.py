"""Packed rows have the losses and gradients of each row alone, whatever the model, the adapters, the precision and the checkpointing."""

import gc
from typing import Any
from weakref import ref

import numpy as np
import pytest
import torch
import transformers as t

from curate.core import Row
from curate.errors import ModelError
from curate.model import token_losses
from curate.testing.random_models import random_model
from curate.training import attending
from curate.training.packed import check_packable, packed_losses
from curate.training.padded import padded_losses
from curate.training.stretches import Stretches
from tests.training.tiny import FAMILIES, SIZES, adapted, assert_close, checkpointing, factors_for, gradients, model_of, plain_losses, rows_of, wrapped

ROWS = rows_of(13, 1, 29, 7, 20)
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("dtype", list(TOLERANCES), ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_are_those_of_each_row_alone(family: str, dtype: torch.dtype, lora: bool) -> None:
    model = model_of(family, dtype, lora=lora)
    own = plain_losses(model, ROWS)
    (own * factors_for(own)).sum().backward()
    expected = gradients(model)
    losses, row = packed_losses(model, ROWS)
    (losses * factors_for(losses)).sum().backward()
    torch.testing.assert_close(losses, own, rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype])
    assert row.tolist() == [i for i, one in enumerate(ROWS) for _ in range(int(one.supervised[1:].sum()))]
    assert_close(gradients(model), expected, TOLERANCES[dtype])


def test_what_is_found_of_a_model_is_found_once_and_keeps_it_in_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("llama")
    first = packed_losses(model, ROWS)[0].detach()
    monkeypatch.setattr(model.model, "set_attn_implementation", lambda name: pytest.fail("it is looked for anew"), raising=True)
    assert torch.equal(packed_losses(model, ROWS)[0], first)
    gone = ref(model.model)
    monkeypatch.undo()
    del model
    gc.collect()
    assert gone() is None


def test_padded_rows_have_the_losses_that_a_batch_of_them_has() -> None:
    model = model_of("llama")
    assert torch.equal(padded_losses(model, ROWS), token_losses(model.model, model.batch(ROWS))[0])


def test_it_keeps_the_contract_of_padded_losses() -> None:
    model = model_of("llama")
    with torch.no_grad():
        for found, expected in zip(packed_losses(model, ROWS), token_losses(model.model, model.batch(ROWS)), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_rows_without_supervised_tokens_or_without_tokens_count_nothing() -> None:
    model = model_of("qwen2")
    rows = [Row(ROWS[0].input_ids, np.zeros(13, bool)), Row(np.zeros(0, np.int32), np.zeros(0, bool)), ROWS[2], rows_of(1)[0]]
    losses, row = packed_losses(model, rows)
    torch.testing.assert_close(losses, plain_losses(model, [ROWS[2]]), rtol=1e-5, atol=1e-5)
    assert set(row.tolist()) == {2}
    none, rows_of_none = packed_losses(model, [rows[0], rows[3]])
    none.sum().backward()
    assert len(none) == len(rows_of_none) == 0 and not any(gradient.any() for gradient in gradients(model).values())


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_layers_that_are_computed_again_in_backward_attend_as_they_did(family: str, reentrant: bool) -> None:
    model = model_of(family, torch.float64, lora=True)
    packed_losses(model, ROWS)[0].sum().backward()
    expected = gradients(model)
    checkpointing(model, reentrant=reentrant)
    losses = packed_losses(model, ROWS)[0]
    with torch.no_grad():
        packed_losses(model, ROWS[:2])  # another pass in between
    assert model.model.config._attn_implementation == "sdpa"
    losses.sum().backward()
    assert_close(gradients(model), expected, 1e-10)
    assert model.model.config._attn_implementation == "sdpa"


def test_recomputed_layers_see_the_same_dropout() -> None:
    found = []
    for again in (False, True):
        model = model_of("gpt2", torch.float64, dropout=0.2)
        model.model.train()
        if again:
            checkpointing(model)
        torch.manual_seed(3)
        packed_losses(model, ROWS)[0].sum().backward()
        found.append(gradients(model))
    assert_close(found[1], found[0], 1e-10)


def test_dropout_within_attention_is_drawn_as_the_model_draws_it() -> None:
    model = model_of("gpt2", dropout=0.3)
    model.model.train()
    found = []
    for losses in (lambda: packed_losses(model, ROWS[2:3])[0], lambda: plain_losses(model, ROWS[2:3])):
        torch.manual_seed(4)
        found.append(losses().detach())
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("again", [False, True], ids=["kept", "checkpointed"])
def test_mixed_precision_is_as_near_as_that_of_each_row_alone(again: bool) -> None:
    model = model_of("llama", lora=True)
    plain_losses(model, ROWS).sum().backward()
    exact = gradients(model)
    if again:
        checkpointing(model)
    with torch.autocast("cpu", torch.bfloat16):
        losses = packed_losses(model, ROWS)[0]
    losses.sum().backward()
    packed = gradients(model)
    with torch.autocast("cpu", torch.bfloat16):
        own = plain_losses(model, ROWS)
    own.sum().backward()
    alone = gradients(model)
    assert losses.dtype == torch.float32
    error, own_error = (sum(float((found[name] - exact[name]).norm()) for name in exact) for found in (packed, alone))
    assert 0 < error < 1.5 * own_error


@pytest.mark.parametrize("window", [5, 12])
def test_windows_reach_back_within_a_row_only(window: int) -> None:
    model = windowed(window)
    check_packable(model)
    own = plain_losses(model, ROWS)
    own.sum().backward()
    expected = gradients(model)
    losses = packed_losses(model, ROWS)[0]
    losses.sum().backward()
    torch.testing.assert_close(losses, own, rtol=1e-10, atol=1e-10)
    assert_close(gradients(model), expected, 1e-10)


def windowed(window: int) -> Any:
    torch.manual_seed(0)
    config = t.MistralConfig(num_key_value_heads=2, sliding_window=window, initializer_range=0.2, **SIZES)
    return wrapped(t.MistralForCausalLM(config).double())


def test_no_mask_over_the_whole_pack_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []
    attend = Stretches.attend

    def watched(self: Stretches, asked: attending.Asked) -> torch.Tensor:
        given.append((asked.layer, dict(self._masks)))
        return attend(self, asked)

    monkeypatch.setattr(Stretches, "attend", watched)
    packed_losses(model_of("llama"), ROWS)
    assert [layer for layer, _ in given] == [0, 1] and not any(masks for _, masks in given)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_models_of_these_families_may_be_packed_and_are_left_as_they_were(family: str, lora: bool) -> None:
    model = model_of(family, lora=lora)
    model.model.train()
    check_packable(model)
    assert model.model.training and model.model.config._attn_implementation == "sdpa" and gradients(model) == {}


def small(model: Any) -> Any:
    torch.manual_seed(0)
    return wrapped(model)


@pytest.mark.parametrize(
    ("architecture", "why"),
    [
        ("mamba", "it has layers of the kind linear_attention"),
        ("bloom", "2 of its 2 layers do not attend by transformers' attention interface"),
        ("gemma2", "its attention takes softcap"),
        ("llama4", "it has layers of the kind chunked_attention"),
    ],
)
def test_a_model_that_cannot_be_packed_is_refused_in_one_line(architecture: str, why: str) -> None:
    grouped = {**SIZES, "num_key_value_heads": 2, "head_dim": 16}
    made = {
        "mamba": lambda: t.MambaForCausalLM(t.MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2)),
        "bloom": lambda: t.BloomForCausalLM(t.BloomConfig(vocab_size=97, hidden_size=64, n_layer=2, n_head=4)),
        "gemma2": lambda: t.Gemma2ForCausalLM(t.Gemma2Config(**grouped)),
        "llama4": lambda: t.Llama4ForCausalLM(t.Llama4TextConfig(**grouped, num_local_experts=2, intermediate_size_mlp=96, pad_token_id=0)),
    }
    with pytest.raises(ModelError) as caught:
        check_packable(small(made[architecture]()))
    assert str(caught.value) == f"rows cannot be packed for this model: {why}; write train.packing: false"


def test_a_model_whose_rows_leak_into_each_other_is_refused() -> None:
    model = model_of("llama")
    layer = model.model.model.layers[1].mlp
    layer.register_forward_hook(lambda module, inputs, output: output + output.cumsum(1).roll(1, 1) / 10)
    with pytest.raises(ModelError, match="the losses of a probe differ"):
        check_packable(model)


def test_a_model_with_a_window_that_its_layers_do_not_tell_is_refused() -> None:
    model = model_of("llama")
    model.model.config.sliding_window = 4096
    with pytest.raises(ModelError, match="layer 0 does not say how far it sees"):
        check_packable(model)


def test_the_attention_runs_only_inside_a_pass() -> None:
    model = random_model()
    check_packable(model)
    model.model.set_attn_implementation(attending.NAME)
    with pytest.raises(RuntimeError, match="only inside one of them"):
        model.model(input_ids=torch.ones(1, 3, dtype=torch.long))


@pytest.mark.gpu
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_are_those_of_each_row_alone_on_a_device(family: str) -> None:
    for dtype, allowed in ((torch.float64, 1e-9), (torch.float32, 1e-3)):
        model = model_of(family, dtype, lora=True, device="cuda")
        check_packable(model)
        own = plain_losses(model, ROWS)
        own.sum().backward()
        expected = gradients(model)
        checkpointing(model)
        losses = packed_losses(model, ROWS)[0]
        losses.sum().backward()
        torch.testing.assert_close(losses, own, rtol=allowed, atol=allowed)
        assert_close(gradients(model), expected, allowed)


@pytest.mark.gpu
@pytest.mark.parametrize("window", [None, 12])
@pytest.mark.parametrize("mixed", [False, True], ids=["bfloat16", "autocast"])
def test_the_kernel_for_unlike_lengths_is_as_near_as_each_row_alone(window: int | None, mixed: bool) -> None:
    torch.manual_seed(0)
    config = t.MistralConfig(num_key_value_heads=2, sliding_window=window, initializer_range=0.1, **SIZES)
    base = wrapped(t.MistralForCausalLM(config).float(), "cuda")
    model = adapted(base)
    plain_losses(model, ROWS).sum().backward()
    exact = gradients(model)
    if not mixed:
        model.model.bfloat16()
    errors = []
    for again in (False, True):
        if again:
            checkpointing(model)
        for losses in (lambda: packed_losses(model, ROWS)[0], lambda: plain_losses(model, ROWS)):
            with torch.autocast("cuda", torch.bfloat16, enabled=mixed):
                found = losses()
            found.sum().backward()
            errors.append(sum(float((gradient.float() - exact[name]).norm()) for name, gradient in gradients(model).items()))
    assert 0 < errors[0] < 1.5 * errors[1] and 0 < errors[2] < 1.5 * errors[3]
