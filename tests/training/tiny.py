"""Small models, rows and plain full-row losses for the tests of training passes."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import peft
import torch
import transformers as t
from torch import Tensor, nn

from curate.adapters import is_linear
from curate.core import Row
from curate.model import LanguageModel
from curate.testing.random_models import ARCHITECTURES, VOCABULARY, random_model

FAMILIES = (*ARCHITECTURES, "gpt2")
SIZES: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_hidden_layers": 2}


def wrapped(model: Any, device: str = "cpu") -> LanguageModel:
    return LanguageModel(model.eval().to(device), SimpleNamespace(pad_token_id=0), device, dict(model.named_parameters()))


def gpt2(dropout: float = 0.0, device: str = "cpu") -> LanguageModel:
    """Learned absolute positions; dropout after the embeddings, in attention and behind every layer."""
    torch.manual_seed(0)
    drops: dict[str, Any] = {"attn_pdrop": dropout, "resid_pdrop": dropout, "embd_pdrop": dropout}
    ends: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 1}
    config = t.GPT2Config(vocab_size=VOCABULARY, n_embd=64, n_layer=2, n_head=4, n_positions=256, initializer_range=0.1, **drops, **ends)
    return wrapped(t.GPT2LMHeadModel(config), device)


def model_of(family: str, dtype: torch.dtype = torch.float32, *, lora: bool = False, dropout: float = 0.0, device: str = "cpu") -> LanguageModel:
    """A random model; with `lora`, only adapters on all its linear layers are trained, and dropout is theirs."""
    model = gpt2(0.0 if lora else dropout, device) if family == "gpt2" else random_model(family, layers=2, device=device)  # type: ignore[arg-type]
    model.model.to(dtype)
    return adapted(model, dropout) if lora else model


def adapted(model: LanguageModel, dropout: float = 0.0) -> LanguageModel:
    head = model.model.get_output_embeddings()
    chosen = [name for name, module in model.model.named_modules() if is_linear(module) and module is not head]
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = peft.LoraConfig(r=4, target_modules=chosen, init_lora_weights=False, lora_dropout=dropout, task_type="CAUSAL_LM")
        wrapping = peft.get_peft_model(model.model, config).eval()
    return replace(model, model=wrapping, names={name: value for name, value in wrapping.named_parameters() if value.requires_grad})


def checkpointing(model: LanguageModel, *, reentrant: bool = False) -> None:
    """Train mode, with every layer computed again in backward."""
    model.model.train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})


def rows_of(*lengths: int, seed: int = 0) -> list[Row]:
    """Random tokens, about three fifths of them supervised."""
    drawn = np.random.Generator(np.random.Philox(seed))
    return [Row(drawn.integers(2, VOCABULARY, length).astype(np.int32), drawn.random(length) < 0.6) for length in lengths]


def plain_losses(model: LanguageModel, rows: Sequence[Row]) -> Tensor:
    """The definition: each row alone through the whole model, all logits, and the supervised ones picked."""
    found = []
    for row in rows:
        ids = torch.from_numpy(row.input_ids).long().to(model.device)
        logits = model.model(input_ids=ids.unsqueeze(0), use_cache=False).logits[0, :-1]
        logits = logits if logits.dtype == torch.float64 else logits.float()
        found.append(nn.functional.cross_entropy(logits, ids[1:], reduction="none")[torch.from_numpy(row.supervised[1:]).to(model.device)])
    return torch.cat(found)


def factors_for(losses: Tensor) -> Tensor:
    """Unequal weights of tokens."""
    return torch.linspace(0.5, 2, len(losses), dtype=losses.dtype, device=losses.device)


def gradients(model: LanguageModel) -> dict[str, Tensor]:
    """What has been added to the trained parameters since the last call."""
    found = {name: parameter.grad for name, parameter in model.names.items() if parameter.grad is not None}
    for parameter in model.names.values():
        parameter.grad = None
    return found


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], relative: float) -> None:
    """Every parameter's gradient, to `relative` of its norm, or of a hundred-thousandth of the largest: some are zero but for rounding."""
    assert found.keys() == expected.keys() and expected
    least = 1e-5 * max(float(value.norm()) for value in expected.values())
    far = {name: float((found[name] - value).norm() / max(float(value.norm()), least)) for name, value in expected.items()}
    assert {name: ratio for name, ratio in far.items() if not ratio <= relative} == {}
