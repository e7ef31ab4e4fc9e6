"""One pass over a batch: forward, and backward where somebody reads gradients."""

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from curate.gradients import LayerGradient, trained_layers, watched
from curate.interfaces import Batch
from curate.model import LanguageModel, decoder_of, row_means, token_logits
from curate.passes import Forward, Objective, Reader

Listeners = Sequence[tuple[Reader, int]]


def run_pass(model: LanguageModel, batch: Batch, listeners: Listeners, objective: Objective = "loss") -> None:
    """Show the pass under the model's present weights to every listener.

    Gradients are of the sum over rows of the mean over a row's answer tokens of the loss, or of the margin
    log(p / (1 - p)) = z_y - logsumexp of the other logits.
    """
    if not any(reader.wants - {"hidden"} for reader, _ in listeners):
        with torch.no_grad():
            nothing = torch.zeros(0, device=model.device)
            _show(Forward(batch, model.hidden_states(batch), nothing, nothing, nothing), listeners)
        return
    learners = [(reader, number) for reader, number in listeners if "gradients" in reader.wants]
    if not learners:
        with torch.no_grad():
            _show(_forward(model, batch, listeners), listeners)
        return
    layers: dict[str, nn.Module] = {}
    interested: dict[str, list[tuple[Reader, int]]] = {}
    for reader, number in learners:
        for name, layer in trained_layers(model, reader.modules).items():
            layers[name] = layer
            interested.setdefault(name, []).append((reader, number))

    def receive(layer: LayerGradient) -> None:
        for reader, number in interested[layer.name]:
            reader.take(layer, number)

    alone = {name: readers[0][0].squeeze for name, readers in interested.items() if len(readers) == 1 and readers[0][0].squeezes}
    with watched(model, layers, receive, alone):
        seen = _forward(model, batch, listeners)
        values = seen.losses if objective == "loss" else log_odds(seen.logits, seen.labels)
        shown = Forward(batch, seen.hidden, seen.logits.detach(), seen.labels, seen.row)
        if objective == "loss":
            vars(shown)["losses"] = values.detach()  # taken once for the backward pass and all readers
        with torch.no_grad():
            _show(shown, listeners)
        torch.autograd.backward(row_means(values, seen.row, len(batch.input_ids)).sum())


def log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """(S,) log(p / (1 - p)) of the right token: its logit less the logsumexp of the others'."""
    right = logits.gather(1, labels.unsqueeze(1))
    others = logits.scatter(1, labels.unsqueeze(1), float("-inf"))
    return right.squeeze(1) - others.logsumexp(1)


def _show(seen: Forward, listeners: Listeners) -> None:
    for reader, number in listeners:
        reader.see(seen, number)


def _forward(model: LanguageModel, batch: Batch, listeners: Listeners) -> Forward:
    kept: list[Tensor] = []
    with contextlib.ExitStack() as stack:
        if any("hidden" in reader.wants for reader, _ in listeners):

            def keep(module: nn.Module, inputs: Any, output: Any) -> None:
                kept.append(output.last_hidden_state.detach())

            stack.callback(decoder_of(model.model).register_forward_hook(keep).remove)
        logits, labels, row = token_logits(model.model, batch)
    return Forward(batch, kept[0] if kept else None, logits, labels, row)
