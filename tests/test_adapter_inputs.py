"""Adapters that leave their inputs as they are change no bit under autocast, and copy less."""

import warnings
from typing import Any

import peft
import pytest
import torch
import transformers as t
from torch.profiler import ProfilerActivity, profile

from curate.adapters import inputs_as_they_are

IDS = torch.arange(2 * 11).reshape(2, 11)


def adapted(dtype: torch.dtype, *, dora: bool = False, dropout: float = 0.0) -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    model = t.LlamaForCausalLM(t.LlamaConfig(vocab_size=50, **sizes)).to(dtype)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False, use_dora=dora, lora_dropout=dropout, task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return peft.get_peft_model(model, config).train()


def trained(model: Any) -> tuple[list[torch.Tensor], int]:
    """Losses and gradients of a pass in bfloat16 with the same dropout, and how many tensors were turned into other numbers."""
    model.zero_grad()
    torch.manual_seed(3)
    with profile(activities=[ProfilerActivity.CPU]) as seen, torch.autocast("cpu", torch.bfloat16):
        loss = model(input_ids=IDS, labels=IDS, use_cache=False).loss
        loss.backward()
    copies = sum(event.count for event in seen.key_averages() if event.key == "aten::_to_copy")
    return [loss.detach(), *(parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None)], copies


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_the_same_bits_with_fewer_copies(dtype: torch.dtype, dropout: float) -> None:
    model = adapted(dtype, dropout=dropout)
    expected, before = trained(model)
    with inputs_as_they_are(model):
        found, after = trained(model)
    assert len(found) == len(expected) > 4
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert after < before if dtype == torch.bfloat16 else after <= before
    assert trained(model)[1] == before


def test_dora_keeps_its_inputs() -> None:
    model = adapted(torch.bfloat16, dora=True)
    expected, before = trained(model)
    with inputs_as_they_are(model):
        found, after = trained(model)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert after == before


def test_it_ends_with_an_error_too() -> None:
    model = adapted(torch.bfloat16)
    with pytest.raises(ZeroDivisionError), inputs_as_they_are(model):
        raise ZeroDivisionError
    assert all(getattr(module, "cast_input_dtype_enabled", True) for module in model.modules())


def test_a_model_without_adapters_is_none_of_its_business() -> None:
    with inputs_as_they_are(torch.nn.Linear(2, 2)):
        pass
