"""H2O's importance: how much attention a token gets from all queries of the prefix together."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from curate.compression.parts import Importance

if TYPE_CHECKING:
    from torch import Tensor

    from curate.compression.prefix import LayerView, Prefix


class Received(Importance):
    """The column sums of the causal attention matrix, of the heads that decide together.

    s_j = sum over queries i >= j and query heads h of the group of softmax(scale q_h,i k)_j, so a head's sum to G n; with `share: layer` the mean over
    all query heads of the layer, which sums to n. The matrix is computed again from queries and keys in blocks of 256 queries: Hq n^2 d / 2
    multiplications and 1 KiB Hq n per layer, never n x n. Early tokens are seen by more queries and get more, as published.
    Zhang et al., "H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large Language Models", NeurIPS 2023.
    """

    name: Literal["received"] = Field(default="received", description="The importance's name.")
    share: Literal["head", "layer"] = Field("head", description="Whose query heads decide together: those of a key-value head, or all of the layer.")
    first: int = Field(0, ge=0, description="First tokens of the prefix that are kept before others.")
    recent: int = Field(0, ge=0, description="Last tokens of the prefix that are kept before all others.")

    def score(self, prefix: "Prefix") -> "list[Tensor]":
        return [self.scored(view) for view in prefix.layers]

    def scored(self, view: "LayerView") -> "Tensor":
        """(Hk, n) float32 for one layer."""
        from curate.compression.prefix import attention_received, per_head

        received = attention_received(view)
        if self.share == "layer":
            return received.mean(0).expand(len(view.keys), -1)
        return per_head(received, view.groups, "sum")

    def protected(self, prefix: "Prefix") -> "Tensor":
        import torch

        tokens = torch.arange(len(prefix))
        return (tokens < self.first) | (tokens >= len(prefix) - self.recent)
