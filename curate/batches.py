"""Rows cut into batches, padded, and sent to a device without waiting for it."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from curate.core import Integers, Row
from curate.interfaces import Batch


def micro_batches(lengths: Integers, tokens: int) -> Iterator[Integers]:
    """Row numbers in batches of at most `tokens` padded tokens, rows of like length together; a longer row goes alone."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, tokens // max(1, int(lengths[order[start]])))
        yield order[start : start + size]
        start += size


def sent(array: NDArray[Any], device: str) -> Tensor:
    """The array on the device.

    To a GPU it goes from pinned memory and in its turn: a plain copy would first wait for all that the GPU still has to do.
    """
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.startswith("cuda") else tensor.to(device)


def rectangle(rows: Sequence[Row], pad: int) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Tokens (B, T) right-padded with the token `pad`, where there is one of a row, and where it is supervised."""
    width = max(len(row.input_ids) for row in rows)
    ids = np.full((len(rows), width), pad, np.int64)
    mask = np.zeros((len(rows), width), bool)
    supervised = np.zeros((len(rows), width), bool)
    for i, row in enumerate(rows):
        ids[i, : len(row.input_ids)] = row.input_ids
        mask[i, : len(row.input_ids)] = True
        supervised[i, : len(row.input_ids)] = row.supervised
    return ids, mask, supervised


def padded(rows: Sequence[Row], pad: int, device: str) -> Batch:
    """Rows right-padded to the longest with the token `pad`."""
    ids, mask, supervised = (sent(array, device) for array in rectangle(rows, pad))
    return Batch(ids, mask, supervised, [row.content for row in rows])
