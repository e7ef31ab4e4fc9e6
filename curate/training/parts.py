"""How a step's rows go through the model: padded together, packed one behind the other, or one long row in chunks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from curate.core import Integers, Row
from curate.model import LanguageModel, micro_batches, row_means, token_losses
from curate.settings import Optimizer
from curate.training.chunked import backward_in_chunks
from curate.training.packed import packed_losses
from curate.training.packs import best_fit_decreasing


@dataclass(frozen=True)
class Part:
    """Some rows of a step, by their place in it, and whether they run in chunks."""

    rows: Integers
    chunked: bool = False


def parts_of(lengths: Integers, settings: Optimizer) -> list[Part]:
    """The parts of a step: rows longer than `chunk_tokens` alone and in chunks, the others packed or padded."""
    long = lengths > settings.chunk_tokens if settings.chunk_tokens else np.zeros(len(lengths), bool)
    short = np.flatnonzero(~long)
    cut = best_fit_decreasing if settings.packing else micro_batches
    parts = [Part(short[chosen]) for chosen in cut(lengths[short], settings.micro_batch_tokens)]
    return parts + [Part(np.array([row]), chunked=True) for row in np.flatnonzero(long)]


def backward(model: LanguageModel, rows: Sequence[Row], weights: Tensor, settings: Optimizer, *, chunked: bool) -> tuple[Tensor, Tensor]:
    """Add the gradient of  sum_r weights_r sum_tokens nll  to the trained parameters.

    Returns that sum, and (B,) the mean nll of each row's supervised tokens in nats, both without gradient.
    """
    if chunked:
        count = int(rows[0].supervised[1:].sum())
        with mixed_precision(model, settings):
            losses = backward_in_chunks(model, rows[0], weights.expand(count), settings.chunk_tokens or count)
        return (losses * weights).sum(), losses.mean().unsqueeze(0)
    losses, row = forward(model, rows, settings)
    total = (losses * weights[row]).sum()
    total.backward()
    return total.detach(), row_means(losses.detach(), row, len(rows))


def forward(model: LanguageModel, rows: Sequence[Row], settings: Optimizer) -> tuple[Tensor, Tensor]:
    """(S,) nats of every supervised token, and its row number."""
    with mixed_precision(model, settings):
        return packed_losses(model, rows) if settings.packing else token_losses(model.model, model.batch(rows))


def mixed_precision(model: LanguageModel, settings: Optimizer) -> torch.autocast:
    """Forward passes in the wanted precision, over weights that stay as they are."""
    return torch.autocast(model.device.split(":")[0], torch.bfloat16, enabled=settings.precision == "bfloat16")
