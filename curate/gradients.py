"""Per-sample gradients of linear layers at any batch size, without a backward pass per row.

For y = W x the gradient of row i is G_i = sum over tokens t of delta_t x_t^T, where delta is the gradient of the
loss at y. Hooks keep x on the way forward and receive delta on the way back; one backward pass of the sum of the
rows' losses then serves every row. Weights stay frozen, so only the two products that gradients need are computed.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from curate.errors import ModelError
from curate.interfaces import Batch
from curate.model import LanguageModel, is_linear, row_means, token_losses

Receive = Callable[[str, Tensor], None]  # parameter name, gradients (B, *weight.shape)


def per_sample_gradients(model: LanguageModel, batch: Batch, receive: Receive) -> Tensor:
    """Hand `receive` each trained weight's gradient of each row's mean loss; returns those losses (B,) in nats per token.

    Layers arrive in the order of the backward pass and their gradients are dropped after the call, so that memory
    holds one layer's (B, out, in) at a time.
    """
    with _frozen(model), torch.enable_grad():
        with _hooks(model, receive):
            losses, row = token_losses(model.model, batch)
            means = row_means(losses, row, len(batch.input_ids))
            torch.autograd.backward(means.sum())
    return means.detach()


def trained_layers(model: LanguageModel) -> dict[str, nn.Module]:
    """The linear layers whose weights training changes, by the saved name of the weight.

    The output head is left out: tied to the embedding, its gradient has a second part that no linear layer sees.
    """
    owner = {id(parameter): name for name, parameter in model.names.items()}
    head = model.model.get_output_embeddings()
    modules = [module for module in model.model.modules() if is_linear(module) and module is not head]
    layers = {owner[id(module.weight)]: module for module in modules if id(module.weight) in owner}
    if not layers:
        raise ModelError("the model has no trained linear layer to take gradients of; give it adapters (lora:)")
    return layers


def sums_of_outer_products(left: Tensor, right: Tensor) -> Tensor:
    """sum_t left[b, t] right[b, t]^T: (B, T, O) and (B, T, I) to (B, O, I).

    The narrow side goes first: with a LoRA factor's few columns as rows the product is four times as fast on a CPU.
    """
    if left.shape[2] <= right.shape[2]:
        return torch.bmm(left.transpose(1, 2), right)
    return torch.bmm(right.transpose(1, 2), left).transpose(1, 2)


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
def _hooks(model: LanguageModel, receive: Receive) -> Iterator[None]:
    def watch(name: str, layer: nn.Module) -> Any:
        transposed = type(layer).__name__ == "Conv1D"

        def forward(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            given = inputs[0].detach()

            def backward(delta: Tensor) -> None:
                left, right = (given, delta) if transposed else (delta, given)
                receive(name, sums_of_outer_products(left.float(), right.float()))

            if not output.requires_grad:  # the lowest layers: nothing below them wants a gradient
                output.requires_grad_(True)
            output.register_hook(backward)

        return layer.register_forward_hook(forward)

    handles = [watch(name, layer) for name, layer in trained_layers(model).items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
