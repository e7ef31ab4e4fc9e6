"""Rows packed one behind the other into a single sequence: the losses and gradients of each row alone, without padding."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from curate.batches import sent
from curate.core import Row
from curate.errors import ModelError
from curate.model import LanguageModel
from curate.training.attending import attending, losses_at
from curate.training.fitness import own_losses, probe_rows, unfit
from curate.training.stretches import Stretches


def packed_losses(model: LanguageModel, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood in nats of every supervised token given those before it in its row, and its row number, both (S,).

    The contract of `curate.model.token_losses`: the first token of a row carries no loss, and the losses carry gradient. All rows
    are one sequence of sum_r T_r tokens; positions begin anew with each row, and attention stays within it. Dropout draws
    other masks than it would for padded rows. `check_packable` says whether a model allows this.
    """
    lengths = [len(row.input_ids) for row in rows if len(row.input_ids)]
    ids = np.concatenate([row.input_ids for row in rows]).astype(np.int64)
    positions = np.concatenate([np.arange(length) for length in lengths])
    supervised = np.concatenate([row.supervised for row in rows]).astype(bool) & (positions > 0)
    row = np.repeat(np.arange(len(rows)), [len(row.input_ids) for row in rows])[supervised]
    place = np.flatnonzero(supervised)
    tensors = [sent(array, model.device) for array in (ids[None], positions[None], place - 1, ids[place], row)]
    with attending(model, Stretches(lengths, lengths)):
        return losses_at(model, *tensors[:4]), tensors[4]


def check_packable(model: LanguageModel) -> None:
    """ModelError if the model does not give two packed rows the losses of each alone (float32: to 1e-4, relative to 1 + nats)."""
    rows = probe_rows(model, [9, 16])
    why = unfit(model, lambda: packed_losses(model, rows)[0], lambda: torch.cat([own_losses(model, row) for row in rows]))
    if why:
        raise ModelError(f"rows cannot be packed for this model: {why}; write train.packing: false")
