"""LESS by its formula, row by row, with autograd and the files of a checkpoint: nothing of the code under test."""

import torch
from safetensors.torch import load_file

from curate.core import Checkpoint, Row
from curate.interfaces import ScoringContext
from curate.model import LanguageModel


def gradient(model: LanguageModel, row: Row) -> torch.Tensor:
    """The gradient of the row's mean answer loss over all adapters, concatenated by name, from transformers' own loss."""
    batch = model.batch([row])
    labels = batch.input_ids.masked_fill(~batch.supervised, -100)
    model.model.zero_grad()
    model.model(input_ids=batch.input_ids, attention_mask=batch.mask.long(), labels=labels).loss.backward()
    flat = torch.cat([model.names[name].grad.flatten() for name in sorted(model.names)]).double()  # type: ignore[union-attr]
    model.model.zero_grad(set_to_none=True)
    return flat


def moments(checkpoint: Checkpoint, kind: str) -> torch.Tensor:
    tensors = load_file(str(checkpoint.path / "moments.safetensors"))
    return torch.cat([tensors[name].flatten() for name in sorted(tensors) if name.startswith(kind)]).double()


def direction(gradient: torch.Tensor, checkpoint: Checkpoint, kind: str) -> torch.Tensor:
    m, v = moments(checkpoint, "first"), moments(checkpoint, "second")
    if kind == "sgd":
        return gradient
    first, second = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
    if kind == "adam_less":
        return first / (second + 1e-8).sqrt()
    after = checkpoint.step + 1
    return first / (1 - 0.9**after) / ((second / (1 - 0.999**after)).sqrt() + 1e-8)


def similarity(context: ScoringContext, pool: Row, target: Row, kind: str) -> float:
    """The formula of the docstring, without any projection."""
    assert context.model is not None
    total = sum(checkpoint.learning_rate for checkpoint in context.checkpoints)
    value = 0.0
    for checkpoint in context.checkpoints:
        context.model.use(checkpoint)
        phi = direction(gradient(context.model, pool), checkpoint, kind)
        psi = gradient(context.model, target)
        value += checkpoint.learning_rate / total * float(phi @ psi / (phi.norm() * psi.norm()))
    return value
