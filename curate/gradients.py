"""Per-sample gradients of linear layers at any batch size, without a backward pass per row.

For y = W x the gradient of row i is G_i = sum over tokens t of delta_t x_t^T, where delta is the gradient of the
objective at y. Hooks keep x on the way forward and receive delta on the way back; one backward pass of the sum of the
rows' objectives then serves every row. Weights stay frozen, so only the two products that gradients need are computed.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from curate.adapters import ATTENTION, is_linear
from curate.errors import ModelError
from curate.interfaces import Batch
from curate.model import LanguageModel, row_means, token_losses


@dataclass(frozen=True)
class LayerGradient:
    """The gradients of one layer's weight for every row, as the two factors that they are products of."""

    name: str  # of the weight
    inputs: Tensor  # (B, T, I), or what was made of them on the way forward
    deltas: Tensor  # (B, T, O)
    transposed: bool = False  # whether the weight is (I, O), as in GPT-2
    squeezed: bool = False  # whether `inputs` are what was made of them

    @cached_property
    def dense(self) -> Tensor:
        """(B, *weight.shape) float32."""
        return sums_of_outer_products(*self.factors)

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        """What the gradient is the sum of outer products of: (B, T, rows of the weight) and (B, T, its columns)."""
        return (self.inputs, self.deltas) if self.transposed else (self.deltas, self.inputs)

    @cached_property
    def squared_norms(self) -> Tensor:
        """(B,) float64 squared Frobenius norm of each row's gradient, by the cheaper of two ways.

        |sum_t delta_t x_t^T|^2 = sum_{s,t} (delta_s . delta_t)(x_s . x_t) needs no gradient, and 2 T^2 (I + O) operations.
        """
        tokens, wide, high = self.inputs.shape[1], self.inputs.shape[2], self.deltas.shape[2]
        if tokens * (wide + high) < wide * high:  # whoever else has formed the gradient: the bits are not to depend on it
            pairs = _float_bmm(self.inputs, self.inputs.transpose(1, 2)) * _float_bmm(self.deltas, self.deltas.transpose(1, 2))
            squares: Tensor = pairs.sum((1, 2), dtype=torch.float64).clamp(min=0)
            return squares
        norms: Tensor = torch.linalg.vector_norm(self.dense.flatten(1), dim=1, dtype=torch.float64)
        return norms.square()


ReceiveLayer = Callable[[LayerGradient], None]
Squeeze = Callable[[str, Tensor], Tensor]  # parameter name, a layer's inputs (B, T, I): what to keep of them
Receive = Callable[[str, Tensor], None]  # parameter name, gradients (B, *weight.shape)


def per_sample_gradients(model: LanguageModel, batch: Batch, receive: Receive) -> Tensor:
    """Hand `receive` each trained weight's gradient of each row's mean loss; returns those losses (B,) in nats per token.

    Layers arrive in the order of the backward pass and their gradients are dropped after the call, so that memory
    holds one layer's (B, out, in) at a time.
    """
    with watched(model, trained_layers(model), lambda layer: receive(layer.name, layer.dense)):
        losses, row = token_losses(model.model, batch)
        means = row_means(losses, row, len(batch.input_ids))
        torch.autograd.backward(means.sum())
    return means.detach()


@contextlib.contextmanager
def watched(model: LanguageModel, layers: dict[str, nn.Module], receive: ReceiveLayer, squeeze: Mapping[str, Squeeze] | None = None) -> Iterator[None]:
    """A forward and a backward pass inside hand `receive` each layer's gradients; no weight gets a gradient of its own.

    Of the layers named in `squeeze` only that function of their inputs is kept, while these are still in the cache.
    """
    with _frozen(model), torch.enable_grad(), _hooks(layers, receive, squeeze or {}):
        yield


def trained_layers(model: LanguageModel, modules: str | Sequence[str] = "all") -> dict[str, nn.Module]:
    """The linear layers whose weights training changes, by the saved name of the weight: all, attention, or those with these endings.

    The output head is left out: tied to the embedding, its gradient has a second part that no linear layer sees.
    """
    owner = {id(parameter): name for name, parameter in model.names.items()}
    head = model.model.get_output_embeddings()
    linear = [module for module in model.model.modules() if is_linear(module) and module is not head]
    layers = {owner[id(module.weight)]: module for module in linear if id(module.weight) in owner}
    if not layers:
        raise ModelError("the model has no trained linear layer to take gradients of; give it adapters (lora:)")
    endings = ("",) if modules == "all" else ATTENTION if modules == "attention" else tuple(modules)
    chosen = {name: module for name, module in layers.items() if module_name(name).endswith(endings)}
    if not chosen:
        kinds = sorted({module_name(name).rsplit(".", 1)[-1] for name in layers})
        raise ModelError(f"modules {list(endings)} match no trained linear layer; this model trains {', '.join(kinds)}")
    return chosen


def module_name(weight: str) -> str:
    """The name of the layer that a saved weight belongs to, adapters counted to the layer that they adapt."""
    return weight.removesuffix(".weight").removesuffix(".lora_A").removesuffix(".lora_B")


def sums_of_outer_products(left: Tensor, right: Tensor) -> Tensor:
    """sum_t left[b, t] right[b, t]^T: (B, T, O) and (B, T, I) to (B, O, I) float32.

    The narrow side goes first: with a LoRA factor's few columns as rows the product is four times as fast on a CPU.
    """
    if left.shape[2] <= right.shape[2]:
        return _float_bmm(left.transpose(1, 2), right)
    return _float_bmm(right.transpose(1, 2), left).transpose(1, 2)


def _float_bmm(left: Tensor, right: Tensor) -> Tensor:
    """The batched product in float32; half precision is multiplied as it is and summed in float32 where the device can."""
    if left.is_cuda and left.dtype == torch.bfloat16:
        product: Tensor = torch.bmm(left, right, out_dtype=torch.float32)
        return product
    return torch.bmm(left.float(), right.float())


@contextlib.contextmanager
def _frozen(model: LanguageModel) -> Iterator[None]:
    """No weight wants a gradient: autograd then forms only what the layers' outputs need."""
    wanted = [parameter for parameter in model.model.parameters() if parameter.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)


@contextlib.contextmanager
def _hooks(layers: dict[str, nn.Module], receive: ReceiveLayer, squeeze: Mapping[str, Squeeze]) -> Iterator[None]:
    def watch(name: str, layer: nn.Module) -> Any:
        transposed = type(layer).__name__ == "Conv1D"

        def forward(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            given = inputs[0].detach()
            if name in squeeze:
                given = squeeze[name](name, given)
            if not output.requires_grad:  # the lowest layers: nothing below them wants a gradient
                output.requires_grad_(True)
            output.register_hook(lambda delta: receive(LayerGradient(name, given, delta, transposed, name in squeeze)))

        return layer.register_forward_hook(forward)

    handles = [watch(name, layer) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
