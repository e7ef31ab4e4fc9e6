"""Which attention heads look things up: heads that, on random tokens repeated over and over, attend to what came before.

An echo head attends to earlier copies of the token that it stands at, an induction head to the token after them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from curate.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

    from curate.model import LanguageModel

_ENTRIES = 2**24  # attention weights that are formed at a time


@dataclass(frozen=True)
class Repeated:
    """Random tokens, `copies` times in a row after `start` tokens of another kind."""

    tokens: Sequence[int]
    start: int
    length: int  # of a copy
    copies: int


def repeated_tokens(model: "LanguageModel", length: int, copies: int, seed: int) -> Repeated:
    """Distinct ordinary tokens of the model, `copies` times, after the token that its texts begin with, where it has one.

    A copy is shorter than `length` where the vocabulary or the model's positions do not reach that far.
    """
    special = [*getattr(model.tokenizer, "all_special_ids", ()), *getattr(model.tokenizer, "added_tokens_decoder", ())]
    ordinary = np.setdiff1d(np.arange(_vocabulary(model)), np.asarray(special, np.int64))
    first = getattr(model.tokenizer, "bos_token_id", None)
    start = [] if first is None else [int(first)]
    positions = int(getattr(model.model.config, "max_position_embeddings", None) or 2**31)
    fitting = min(length, len(ordinary), (positions - len(start)) // copies)
    if fitting < 2:
        raise ModelError(
            f"searching for retrieval heads takes {copies} copies of at least 2 ordinary tokens, but this model has {len(ordinary)} of them "
            f"and {positions} positions; ask for fewer copies, or use another press"
        )
    drawn = np.random.Generator(np.random.Philox(seed)).permutation(ordinary)[:fitting]
    return Repeated([*start, *np.tile(drawn, copies).tolist()], len(start), fitting, copies)


def _vocabulary(model: "LanguageModel") -> int:
    """Tokens that have both an embedding and an entry in the tokenizer: embeddings are often padded with rows that were never trained."""
    rows = int(model.model.get_input_embeddings().weight.shape[0])
    try:
        return min(rows, len(model.tokenizer))
    except TypeError:
        return rows


def head_scores(model: "LanguageModel", text: Repeated) -> "tuple[Tensor, Tensor]":
    """((L, Hk), (L, Hk)) float32 echo and induction scores, of a key-value head the largest of its query heads'; run within `ours(model.model)`.

    One prefill; of the attention map only blocks of rows are ever formed.
    """
    import torch

    from curate.compression.prefix import per_head
    from curate.inference.prefill import prefill

    keys: dict[int, Tensor] = {}
    found: dict[int, Tensor] = {}
    groups: dict[int, int] = {}

    def watch(layer: int, query: "Tensor", key: "Tensor", value: "Tensor", scale: float) -> None:
        before = keys[layer].shape[1] if layer in keys else 0
        keys[layer] = torch.cat([keys[layer], key[0]], 1) if before else key[0]
        groups[layer] = query.shape[1] // key.shape[1]
        total = looking_back(query[0], keys[layer], scale, before, text)
        found[layer] = found[layer] + total if layer in found else total

    prefill(model, text.tokens, watch=watch)
    rows = text.length * (text.copies - 1)
    scores = torch.stack([per_head((found[layer] / rows).T, groups[layer], "max") for layer in sorted(found)]).float().cpu()
    return scores[..., 0], scores[..., 1]


def looking_back(queries: "Tensor", keys: "Tensor", scale: float, before: int, text: Repeated) -> "Tensor":
    """(2, Hq) float64: attention of queries (Hq, w, d) at positions `before` on, to earlier copies of their tokens and to the tokens after those.

    Summed over earlier copies and over the queries past the first copy; keys (Hk, n, d) are those of all positions up to the last query.
    """
    import torch

    from curate.compression.prefix import window_attention

    heads, n = queries.shape[0], keys.shape[1]
    block = max(1, _ENTRIES // (heads * n))
    total = torch.zeros((2, heads), dtype=torch.float64, device=queries.device)
    for first in range(max(before, text.start + text.length), before + queries.shape[1], block):
        positions = torch.arange(first, min(first + block, before + queries.shape[1]), device=queries.device)
        attention = window_attention(queries[:, positions - before], keys, scale, positions)
        for lag in range(text.length, text.length * text.copies, text.length):
            earlier = positions - lag
            there = earlier >= text.start
            for kind in (0, 1):
                columns = (earlier + kind).clamp(min=0).expand(heads, -1).unsqueeze(-1)
                total[kind] += (attention.gather(-1, columns).squeeze(-1) * there).double().sum(1)
    return total


def top_heads(scores: "Tensor", share: float) -> "Tensor":
    """(L, Hk) bool: the best `share` of all heads (rounded up), of equal ones the lower layer and then the lower head."""
    import torch

    flat = scores.flatten()
    count = math.ceil(share * len(flat) - 1e-9)
    chosen = torch.zeros_like(flat, dtype=torch.bool)
    chosen[torch.argsort(flat, descending=True, stable=True)[:count]] = True
    return chosen.reshape(scores.shape)
