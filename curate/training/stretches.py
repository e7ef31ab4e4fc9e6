"""Causal attention within stretches that lie one behind the other in a single sequence, without a mask over all of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from curate.batches import sent
from curate.training.attending import Asked


@dataclass
class Stretches:
    """Stretch i of the queries attends to stretch i of the keys, whose last tokens are its own and who come no later than it.

    On CUDA in half precision this is one call of a kernel for stretches of unlike lengths. Elsewhere it is a call of
    scaled_dot_product_attention per stretch, with a mask only where earlier keys or a window make one necessary.
    """

    queries: Sequence[int]  # tokens of each stretch
    keys: Sequence[int]
    _masks: dict[tuple[int, int, int | None], Tensor] = field(default_factory=dict, init=False)  # by queries, keys, window
    _starts: list[Tensor] = field(default_factory=list, init=False)  # (n + 1,) of queries, and of keys: where stretches begin, and where the last one ends

    def attend(self, asked: Asked) -> Tensor:
        """(1, Hq, sum of queries, d)."""
        if _served(asked):
            return self._by_kernel(asked)
        key, value = asked.key, asked.value
        if key.device.type == "cuda":  # whose fused kernels for float32 and for masks want a key for every query head
            groups = asked.query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        parts = zip(asked.query.split(list(self.queries), 2), key.split(list(self.keys), 2), value.split(list(self.keys), 2), strict=True)
        found = [self._alone(asked, *part) for part in parts]
        return found[0] if len(found) == 1 else torch.cat(found, 2)

    def _alone(self, asked: Asked, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        shape = (query.shape[2], key.shape[2], asked.window)  # of a mask that is added: a boolean one would be turned into that, and kept, by every layer
        if shape not in self._masks and (shape[0] != shape[1] or (asked.window is not None and asked.window < shape[1])):
            seen = visible(*shape, query.device)
            self._masks[shape] = torch.zeros(seen.shape, dtype=query.dtype, device=query.device).masked_fill_(~seen, float("-inf"))
        mask, grouped = self._masks.get(shape), query.shape[1] != key.shape[1]
        found: Tensor = nn.functional.scaled_dot_product_attention(
            query, key, value, mask, asked.dropout, is_causal=mask is None, scale=asked.scale, enable_gqa=grouped
        )
        return found

    def _by_kernel(self, asked: Asked) -> Tensor:
        query, key, value = (tensor[0].transpose(0, 1) for tensor in (asked.query, asked.key, asked.value))
        before = -1 if asked.window is None else asked.window - 1
        if not self._starts:
            self._starts = [sent(np.cumsum([0, *lengths], dtype=np.int32), str(query.device)) for lengths in (self.queries, self.keys)]
        longest = (max(self.queries), max(self.keys))
        sight = {"window_size_left": before, "window_size_right": 0}  # whose last query is the last key's
        found: Tensor = kernel()(query, key, value, *self._starts, *longest, 0.0, False, False, scale=asked.scale, **sight)[0]
        return found.transpose(0, 1).unsqueeze(0)


def visible(queries: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    """(queries, keys) whether the last `queries` tokens of the keys see a key: none after their own, and at most `window`."""
    own = torch.arange(keys - queries, keys, device=device).unsqueeze(1)
    key = torch.arange(keys, device=device)
    seen = key <= own
    return seen if window is None else seen & (key > own - window)


def _served(asked: Asked) -> bool:
    """Whether the kernel for stretches of unlike lengths can compute this attention."""
    query, width = asked.query, asked.query.shape[-1]
    if query.device.type != "cuda" or query.dtype not in (torch.float16, torch.bfloat16) or asked.dropout:
        return False
    fits = width == asked.value.shape[-1] and width % 8 == 0 and width <= 256
    return fits and torch.cuda.get_device_capability(query.device) >= (8, 0) and kernel() is not None


@lru_cache(maxsize=1)
def kernel() -> Any:
    """The kernel for stretches of unlike lengths, with windows and with key heads that several query heads share; None where torch has none.

    torch.nn.attention.varlen wraps the same one; it came later, and in torch 2.11 it knows no shared heads.
    """
    found = torch.ops.aten._flash_attention_forward.default
    known = {argument.name for argument in found._schema.arguments}
    return found if {"scale", "window_size_left", "window_size_right"} <= known and torch.backends.cuda.is_flash_attention_available() else None
