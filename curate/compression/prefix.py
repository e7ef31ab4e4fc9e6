"""One prefilled prefix as presses see it: everything that the model computed for its tokens, exactly."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from curate.interfaces import State
from curate.model import LanguageModel


@dataclass(frozen=True)
class LayerView:
    """One layer's part: n tokens, Hq query heads, Hk key-value heads of d numbers, query head h reading key-value head h // (Hq / Hk)."""

    queries: Tensor  # (Hq, n, d) with their positions in
    keys: Tensor  # (Hk, n, d) with their positions in
    values: Tensor  # (Hk, n, d)
    scale: float  # what logits are multiplied by
    inputs: Tensor | None = None  # (n, H) what the layer's attention was given, after its norm; where it was asked for

    @property
    def groups(self) -> int:
        """Query heads that share a key-value head."""
        return self.queries.shape[0] // self.keys.shape[0]


@dataclass(frozen=True)
class Prefix:
    """A sequence of n tokens at positions 0 to n - 1, prefilled with full attention."""

    tokens: Sequence[int]
    layers: Sequence[LayerView]
    model: LanguageModel
    follow: Callable[[Sequence[int]], list[Tensor]]  # queries (Hq, m, d) per layer of m tokens that would follow; nothing of them is kept
    state: State | None = None  # what the press's `calibrate` returned
    seed: int = 0

    def __len__(self) -> int:
        return len(self.tokens)


def window_attention(queries: Tensor, keys: Tensor, scale: float, positions: Tensor) -> Tensor:
    """(Hq, w, n) float32: attention of queries (Hq, w, d) at `positions` (w,) to the keys (Hk, n, d) of tokens 0 to n - 1 that are not after them."""
    heads, own, n = keys.shape[0], queries.shape[0], keys.shape[1]
    grouped = queries.reshape(heads, -1, queries.shape[-1]).float()
    logits = (grouped @ keys.float().transpose(-1, -2)).reshape(own, -1, n) * scale
    later = torch.arange(n, device=keys.device) > positions.unsqueeze(-1)
    return logits.masked_fill(later, float("-inf")).softmax(-1)


def attention_received(view: LayerView, block: int = 256) -> Tensor:
    """(Hq, n) float32: how much attention every token gets from all n queries together, in blocks of queries, never n x n at once."""
    n = view.keys.shape[1]
    total = torch.zeros(view.queries.shape[0], n, device=view.keys.device)
    for start in range(0, n, block):
        rows = torch.arange(start, min(start + block, n), device=view.keys.device)
        total += window_attention(view.queries[:, rows], view.keys, view.scale, rows).sum(1)
    return total


def per_head(values: Tensor, groups: int, reduce: str = "mean") -> Tensor:
    """(Hk, ...) of (Hq, ...): the query heads of each key-value head together, by mean, sum or max."""
    split = values.reshape(len(values) // groups, groups, *values.shape[1:])
    if reduce == "max":
        return split.amax(1)
    return split.sum(1) if reduce == "sum" else split.mean(1)
