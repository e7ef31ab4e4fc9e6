"""EMS's importance: how much attention a token gets on average from all queries that see it, and how much from the last ones."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from curate.compression.parts import Importance

if TYPE_CHECKING:
    from torch import Tensor

    from curate.compression.prefix import LayerView, Prefix


class GlobalLocal(Importance):
    """The mean attention over all queries and that over the last w, each as a share of the head's largest, added up.

    g_j = sum_{i >= j} A_ij / (n - j) and l_j = mean of A_ij over the last w queries i, both the mean over the query heads of a key-value head;
    s_j = g_j / max g + l_j / max l. The first part, unlike a plain sum, does not favour early tokens; the second is for what is asked now. The last w
    tokens are kept before all others. Costs what `received` does, and w queries more.
    Li et al., "EMS: Adaptive Evict-then-Merge Strategy for Head-wise KV Cache Compression Based on Global-Local Importance", arXiv:2412.08521, 2024; no code
    is published, so that the way the two parts are normalised, and the window's length, are this project's reading.
    """

    name: Literal["global_local"] = Field(default="global_local", description="The importance's name.")
    window: int = Field(16, ge=1, description="Last tokens of the prefix whose queries make the local part; they are kept before all others, and count.")

    def score(self, prefix: "Prefix") -> "list[Tensor]":
        return [self.scored(view) for view in prefix.layers]

    def scored(self, view: "LayerView") -> "Tensor":
        """(Hk, n) float32 for one layer, between 0 and 2."""
        import torch

        from curate.compression.prefix import attention_received, per_head, window_attention

        n = view.keys.shape[1]
        last = torch.arange(max(0, n - self.window), n, device=view.keys.device)
        seen_by = n - torch.arange(n, device=view.keys.device)
        everywhere = per_head(attention_received(view) / seen_by, view.groups)
        lately = per_head(window_attention(view.queries[:, last], view.keys, view.scale, last).mean(1), view.groups)
        return everywhere / everywhere.amax(1, keepdim=True) + lately / lately.amax(1, keepdim=True)

    def protected(self, prefix: "Prefix") -> "Tensor":
        import torch

        return torch.arange(len(prefix)) >= len(prefix) - self.window
