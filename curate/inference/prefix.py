"""Key-value caches that many rows share: computed once, forked without copying until a row writes."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def common_prefix(contexts: Sequence[Sequence[int]]) -> int:
    """How many leading tokens all contexts share, leaving each at least one token of its own."""
    if not contexts:
        return 0
    shortest = min(len(context) for context in contexts) - 1
    first = np.asarray(contexts[0][:shortest])
    for context in contexts[1:]:
        differing = np.flatnonzero(np.asarray(context[: len(first)]) != first)
        if len(differing):
            first = first[: differing[0]]
    return max(0, len(first))


def fork(cache: Any, repeats: int | Tensor) -> Any:
    """A cache whose rows are those of `cache`, each `repeats` times; the original stays as it is.

    Layers rebind their tensors when they grow, so a fork of one row costs nothing until then.
    """
    forked = copy.copy(cache)
    forked.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in forked.layers:
        if isinstance(repeats, int) and layer.keys.shape[0] == 1:
            layer.keys = layer.keys.expand(repeats, -1, -1, -1)
            layer.values = layer.values.expand(repeats, -1, -1, -1)
        else:
            layer.keys = layer.keys.repeat_interleave(repeats, 0)
            layer.values = layer.values.repeat_interleave(repeats, 0)
    return forked


def is_forkable(cache: Any) -> bool:
    """Whether every layer keeps all its tokens as plain tensors; windowed and recurrent layers do not."""
    return all(type(layer).__name__ == "DynamicLayer" for layer in cache.layers)


def pad_rows(rows: Sequence[Sequence[int]], pad: int, device: str) -> tuple[Tensor, Tensor]:
    """Right-padded tokens and their mask, both (B, T) int64."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.as_tensor(np.asarray(row, np.int64))
        mask[i, : len(row)] = 1
    return ids.to(device), mask.to(device)
