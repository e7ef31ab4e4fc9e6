"""Attention that a training pass decides: one function, registered with transformers, that asks the pass that is running.

While a pass runs, the model builds no masks, and every layer hands its queries, keys and values to the pass. A layer under
gradient checkpointing runs again inside backward, when the pass is over: what it is checkpointed as carries the pass with it,
in whichever thread backward runs. That holds for checkpointing that transformers switched on, not for wrappers put around layers.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from curate.errors import ModelError
from curate.model import LanguageModel, decoder_of

NAME = "curate_training"
_CHANGES = ("softcap", "s_aux", "sinks", "position_bias", "indices", "block_indices")  # what a layer may ask of attention that is not computed here


@dataclass(frozen=True)
class Asked:
    """One layer's attention: query (1, Hq, T, d), key and value (1, Hk, T, d), with their positions already in."""

    layer: int
    query: Tensor
    key: Tensor
    value: Tensor
    scale: float
    window: int | None  # how many tokens a query sees, itself included; None for all
    dropout: float


class Pass(Protocol):
    """What the tokens of one forward pass attend to."""

    def attend(self, asked: Asked) -> Tensor:
        """(1, Hq, T, d)."""


_running: ContextVar[Pass | None] = ContextVar("the training pass that is running", default=None)


def _registered(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Any = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    step = _running.get()
    if step is None:
        raise RuntimeError("the attention of curate's training passes runs only inside one of them")
    odd = [name for name in _CHANGES if others.get(name) is not None]
    if odd:
        raise ModelError(f"its attention takes {odd[0]}")
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    kind = query.device.type
    if torch.is_autocast_enabled(kind):  # some layers turn keys in float32; the attention functions of torch would cast them
        query, key, value = (tensor.to(torch.get_autocast_dtype(kind)) if tensor.dtype == torch.float32 else tensor for tensor in (query, key, value))
    asked = Asked(int(module.layer_idx), query, key, value, scale, sliding_window or None, float(dropout))
    return step.attend(asked).transpose(1, 2), None


@contextmanager
def attending(model: LanguageModel, step: Pass) -> Iterator[None]:
    """Within it, the model attends through the pass; afterwards as before, but for what backward recomputes of this pass."""
    parts = _parts(model.model)
    switch = _Switch(step, parts.configs)
    with _carried(parts.layers, switch), switch.on():
        yield


@dataclass(frozen=True)
class _Parts:
    """What of a model is switched: the configurations that its layers read, and the modules that may be checkpointed. Finding them takes long."""

    configs: Sequence[Any]
    layers: Sequence["ref[Any]"]  # which a model's own entry must not keep alive


_known: "WeakKeyDictionary[nn.Module, _Parts]" = WeakKeyDictionary()


def _parts(causal: Any) -> _Parts:
    if causal not in _known:
        from transformers import AttentionInterface

        AttentionInterface.register(NAME, _registered)
        before = causal.config._attn_implementation
        causal.set_attn_implementation(NAME)
        try:
            modules = list(causal.modules())
            configs = {id(found): found for module in modules if _implementation(found := getattr(module, "config", None)) == NAME}
        finally:
            causal.set_attn_implementation(before)
        _known[causal] = _Parts(list(configs.values()), [ref(module) for module in modules if hasattr(module, "gradient_checkpointing")])
    return _known[causal]


def _implementation(config: Any) -> str | None:
    return getattr(config, "_attn_implementation", None)


@dataclass(frozen=True)
class _Switch:
    step: Pass
    configs: Sequence[Any]

    @contextmanager
    def on(self) -> Iterator[None]:
        token = _running.set(self.step)
        before = [config._attn_implementation for config in self.configs]
        for config in self.configs:
            config._attn_implementation = NAME
        try:
            yield
        finally:
            for config, implementation in zip(self.configs, before, strict=True):
                config._attn_implementation = implementation
            _running.reset(token)

    def within(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            with self.on():
                return function(*arguments, **named)

        return run


@contextmanager
def _carried(layers: Sequence["ref[Any]"], switch: _Switch) -> Iterator[None]:
    """Within it, whatever layers are checkpointed as switches our attention on for itself, now and when it is computed again."""
    there = [module for layer in layers if (module := layer()) is not None]
    checkpointed = [module for module in there if module.gradient_checkpointing and hasattr(module, "_gradient_checkpointing_func")]
    before = [module._gradient_checkpointing_func for module in checkpointed]

    def carrying(checkpoint: Callable[..., Any]) -> Callable[..., Any]:
        return lambda function, *arguments, **named: checkpoint(switch.within(function), *arguments, **named)

    for module, checkpoint in zip(checkpointed, before, strict=True):
        module._gradient_checkpointing_func = carrying(checkpoint)
    try:
        yield
    finally:
        for module, checkpoint in zip(checkpointed, before, strict=True):
            module._gradient_checkpointing_func = checkpoint


def losses_at(model: LanguageModel, ids: Tensor, positions: Tensor, places: Tensor, labels: Tensor) -> Tensor:
    """(S,) nats of the tokens `labels` after places `places` of tokens (1, T) at explicit positions; the head reads these places only."""

    def pick(module: nn.Module, inputs: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state[:, places]
        return output

    hook = decoder_of(model.model).register_forward_hook(pick)
    try:
        logits = model.model(input_ids=ids, position_ids=positions, use_cache=False).logits[0]
    finally:
        hook.remove()
    return nn.functional.cross_entropy(logits if logits.dtype == torch.float64 else logits.float(), labels, reduction="none")
