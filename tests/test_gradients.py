"""Per-sample gradients from hooks equal autograd, row by row, whatever the architecture, batch or padding."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    Qwen2Config,
)

from curate.core import Row
from curate.errors import ModelError
from curate.gradients import per_sample_gradients, trained_layers
from curate.model import LanguageModel, attach_adapters, token_losses
from curate.settings import Lora

VOCABULARY = 97
SMALL = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
CONFIGS = {
    "llama": LlamaConfig(**SMALL, intermediate_size=64, num_key_value_heads=2),
    "qwen2": Qwen2Config(**SMALL, intermediate_size=64, num_key_value_heads=2),
    "gpt_neox": GPTNeoXConfig(**SMALL, intermediate_size=64),
    "gpt2": GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4),
}


def language_model(kind: str, lora: Lora | None) -> LanguageModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[kind], attn_implementation="sdpa")
    names = dict(model.named_parameters())
    if lora:
        model, names = attach_adapters(model, lora, seed=0)
        for name, parameter in names.items():
            if "lora_B" in name:  # B starts at zero, where the gradient of A is zero too and proves nothing
                torch.nn.init.normal_(parameter, std=0.1)
    model.eval()
    return LanguageModel(model, SimpleNamespace(pad_token_id=0), "cpu", names)


def rows(count: int = 6) -> list[Row]:
    generator = np.random.default_rng(1)
    made = []
    for i in range(count):
        length = int(generator.integers(4, 24))
        supervised = np.zeros(length, bool)
        supervised[max(1, length // 2) :] = True
        if i == 0:
            supervised[1] = True  # more than one run of supervised tokens
        made.append(Row(generator.integers(0, VOCABULARY, length).astype(np.int32), supervised))
    return made


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("lora", [Lora(r=4), None], ids=["lora", "full"])
def test_hooks_give_the_gradient_that_autograd_gives_for_each_row(kind: str, lora: Lora | None) -> None:
    model = language_model(kind, lora)
    batch_rows = rows()
    got: dict[str, torch.Tensor] = {}
    losses = per_sample_gradients(model, model.batch(batch_rows), lambda name, value: got.__setitem__(name, value.clone()))
    for i, row in enumerate(batch_rows):
        model.model.zero_grad()
        alone, _ = token_losses(model.model, model.batch([row]))
        alone.mean().backward()
        assert losses[i].item() == pytest.approx(alone.mean().item(), rel=1e-5)
        for name in trained_layers(model):
            wanted = model.names[name].grad
            assert wanted is not None
            # a gradient of about zero (the last layer's keys, say) has no relative error to speak of
            scale = max(wanted.norm().item(), 1e-4)
            assert (got[name][i] - wanted).norm().item() <= 1e-5 * scale, name


def test_the_gradient_of_a_row_does_not_depend_on_its_neighbours() -> None:
    model = language_model("llama", Lora(r=4))
    batch_rows = rows()
    together: dict[str, torch.Tensor] = {}
    per_sample_gradients(model, model.batch(batch_rows), lambda name, value: together.__setitem__(name, value.clone()))
    alone: dict[str, torch.Tensor] = {}
    per_sample_gradients(model, model.batch(batch_rows[2:3]), lambda name, value: alone.__setitem__(name, value.clone()))
    for name, value in alone.items():
        torch.testing.assert_close(together[name][2], value[0], rtol=1e-4, atol=1e-6)


def test_weights_and_their_gradients_stay_as_they_were() -> None:
    model = language_model("llama", Lora(r=4))
    before = {name: parameter.detach().clone() for name, parameter in model.model.named_parameters()}
    wanted = {name for name, parameter in model.model.named_parameters() if parameter.requires_grad}
    per_sample_gradients(model, model.batch(rows()), lambda name, value: None)
    for name, parameter in model.model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None
        assert parameter.requires_grad == (name in wanted)


def test_adapters_that_match_no_layer_are_refused_with_the_layers_there_are() -> None:
    with pytest.raises(ModelError, match="match no linear layer.*q_proj"):
        language_model("llama", Lora(targets=["query"]))
