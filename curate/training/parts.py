"""How a step's rows go through the model: padded together, packed one behind the other, or one long row in chunks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from curate.batches import sent
from curate.core import Integers, Row
from curate.model import LanguageModel, row_sums
from curate.settings import Optimizer
from curate.training.chunked import backward_in_chunks
from curate.training.packed import packed_losses
from curate.training.packs import best_fit_decreasing
from curate.training.padded import padded_losses
from curate.training.passes import least_padding


@dataclass(frozen=True)
class Part:
    """Some rows of a step, by their place in it, and whether they run in chunks."""

    rows: Integers
    chunked: bool = False


def parts_of(lengths: Integers, settings: Optimizer, start: int) -> list[Part]:
    """The parts of a step: rows longer than `chunk_tokens` alone and in chunks, the others packed or padded.

    `start` is what a padded pass costs beyond its tokens, in tokens.
    """
    long = lengths > settings.chunk_tokens if settings.chunk_tokens else np.zeros(len(lengths), bool)
    short = np.flatnonzero(~long)
    if settings.packing:
        cut = best_fit_decreasing(lengths[short], settings.micro_batch_tokens)
    else:
        cut = least_padding(lengths[short], settings.micro_batch_tokens, start)
    parts = [Part(short[chosen]) for chosen in cut]
    return parts + [Part(np.array([row]), chunked=True) for row in np.flatnonzero(long)]


def backward(model: LanguageModel, rows: Sequence[Row], weights: NDArray[np.float32], settings: Optimizer, *, chunked: bool) -> tuple[Tensor, Tensor]:
    """Add the gradient of  sum_r weights_r sum_tokens nll  to the trained parameters.

    Returns that sum, and (B,) the mean nll of each row's supervised tokens in nats, both without gradient. What is asked of the device is
    queued there and not waited for, so that it never stands idle while the next part is made ready.
    """
    counts = np.array([np.count_nonzero(row.supervised[1:]) for row in rows])
    factors = sent(np.repeat(weights, counts), model.device)
    if chunked:
        with mixed_precision(model, settings):
            losses = backward_in_chunks(model, rows[0], factors, settings.chunk_tokens or int(counts[0]))
        return (losses * factors).sum(), losses.mean().unsqueeze(0)
    losses = forward(model, rows, settings)
    total = (losses * factors).sum()
    total.backward()
    row = sent(np.repeat(np.arange(len(rows)), counts), model.device)
    return total.detach(), row_sums(losses.detach(), row, len(rows)) / sent(np.maximum(counts, 1), model.device)


def forward(model: LanguageModel, rows: Sequence[Row], settings: Optimizer) -> Tensor:
    """(S,) nats of every supervised token, row by row."""
    with mixed_precision(model, settings):
        return packed_losses(model, rows)[0] if settings.packing else padded_losses(model, rows)


def mixed_precision(model: LanguageModel, settings: Optimizer) -> torch.autocast:
    """Forward passes in the wanted precision, over weights that stay as they are."""
    return torch.autocast(model.device.split(":")[0], torch.bfloat16, enabled=settings.precision == "bfloat16")
