"""Keep all tokens, and of older keys only the channels that count."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from curate.compression.parts import Action

if TYPE_CHECKING:
    from torch import Tensor

    from curate.compression.prefix import LayerView, Prefix
    from curate.inference.stores import LayerStore


class Think(Action):
    """Stores kept tokens, but of all keys before the last `recent` only the channels that matter, a set per key-value head; values stay whole.

    A channel c is worth mean_t(q_tc^2) * mean_j(k_jc^2), over the last `window` queries of the heads of the group and all kept keys: the squared norm of what
    it adds to their logits. The int(d * drop) least are gone for good, ties the later; logits are scaled by the whole d. Bytes: of n tokens, drop / 2 less,
    but for the `recent`. Tokens that follow are stored whole. Of a pair of rotary channels one may go
    without the other, as in the published code.
    Xu et al., "ThinK: Thinner Key Cache by Query-Driven Pruning", 2024; a set per key-value head as in kvpress.
    """

    name: Literal["think"] = Field(default="think", description="The action's name.")
    drop: float = Field(0.4, ge=0, lt=1, description="Share of the key channels that are dropped (rounded down).")
    recent: int = Field(32, ge=0, le=65536, description="Last kept tokens whose keys keep all channels.")
    window: int = Field(32, ge=1, le=65536, description="Last tokens whose queries say which channels count.")

    def store(self, prefix: "Prefix", layer: int, kept: "Sequence[Tensor]", scores: "Tensor") -> "LayerStore":
        import torch

        from curate.compression.quantised import SlimKeys, stored, taken

        view = prefix.layers[layer]
        left = view.keys.shape[-1] - int(view.keys.shape[-1] * self.drop)
        attention = _squared_queries(view, self.window)

        def of(heads: slice, tokens: "Tensor") -> "LayerStore":
            keys = taken(view.keys[heads], tokens)
            worth = attention[heads] * keys.float().square().mean(1)
            channels = worth.argsort(dim=-1, descending=True, stable=True)[:, :left].sort(-1).values
            old = max(0, keys.shape[1] - self.recent)
            slim = keys[:, :old].gather(-1, channels.unsqueeze(1).expand(-1, old, -1))
            return SlimKeys(slim, channels.to(torch.int16), keys[:, old:].clone(), taken(view.values[heads], tokens))

        return stored(kept, of)


def _squared_queries(view: "LayerView", window: int) -> "Tensor":
    """(Hk, d) float32: the mean of the last queries' squares over tokens and the query heads of the group."""
    queries = view.queries[:, -window:].float()
    return queries.square().reshape(len(view.keys), -1, queries.shape[-1]).mean(1)
