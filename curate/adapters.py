"""Low-rank adapters on a model's linear layers, and the names that their weights are saved under."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from curate.errors import ModelError
from curate.settings import Lora

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj", "out_proj", "c_attn", "query_key_value", "attention.dense", "attn.c_proj", "Wqkv", "qkv_proj")


def attach_adapters(model: Any, lora: Lora, seed: int) -> tuple[Any, dict[str, nn.Parameter]]:
    """The model with low-rank adapters drawn from `seed` on its linear layers, and their weights by saved name."""
    import peft

    linear = [name for name, module in model.named_modules() if is_linear(module) and not _is_head(model, module)]
    endings = ATTENTION if lora.targets == "attention" else ("",) if lora.targets == "all" else tuple(lora.targets)
    chosen = [name for name in linear if name.endswith(endings)]
    if not chosen:
        kinds = sorted({name.rsplit(".", 1)[-1] for name in linear})
        raise ModelError(f"lora.targets {list(endings)} match no linear layer; this model has {', '.join(kinds)}")
    config = peft.LoraConfig(
        r=lora.r, lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft divides it, whole or not
        lora_dropout=lora.dropout, target_modules=chosen, task_type="CAUSAL_LM", fan_in_fan_out=_has_conv1d(model),
        use_rslora=lora.rslora, use_dora=lora.dora
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers for a name that is about to change
        torch.manual_seed(seed)
        adapted = peft.get_peft_model(model, config)
    return adapted, {_saved_name(name): parameter for name, parameter in adapted.named_parameters() if parameter.requires_grad}


@contextmanager
def inputs_as_they_are(model: Any) -> Iterator[None]:
    """Within it, adapters do not turn their inputs into their weights' numbers: under autocast the product turns them back at once.

    Those are two copies of the activations for every adapted layer and direction that change no bit. DoRA, which reads the inputs' numbers
    for more than products, keeps them.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers: list[Any] = [module for module in model.modules() if isinstance(module, BaseTunerLayer) and not any(getattr(module, "use_dora", {}).values())]
    before = [module.cast_input_dtype_enabled for module in layers]
    for module in layers:
        module.cast_input_dtype_enabled = False
    try:
        yield
    finally:
        for module, enabled in zip(layers, before, strict=True):
            module.cast_input_dtype_enabled = enabled


def is_linear(module: nn.Module) -> bool:
    """Whether the module is y = W x + b, in either of the two layouts in use."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def _has_conv1d(model: nn.Module) -> bool:
    return any(type(module).__name__ == "Conv1D" for module in model.modules())


def _is_head(model: Any, module: nn.Module) -> bool:
    return module is model.get_output_embeddings()


def _saved_name(name: str) -> str:
    for part in ("lora_A", "lora_B", "lora_magnitude_vector"):
        name = name.replace(f".{part}.default.", f".{part}.")
    return name
