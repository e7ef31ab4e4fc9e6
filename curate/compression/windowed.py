"""One scorer for all methods that ask a window of queries which tokens of the prefix they attend to.

Always in this order: softmax over the tokens -> together over the queries of the window -> together over the query heads that share a set ->
pooled along the tokens. With the methods' own windows and settings it is SnapKV, DapQ, CompressKV, FastKV and WindowKV.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from curate.compression.parts import Importance
from curate.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from curate.compression.prefix import LayerView, Prefix

Reduce = Literal["sum", "mean", "max"]
Pool = Literal["none", "avg", "max"]
Share = Literal["head", "layer"]


class Windowed(Importance):
    """What the queries of a window attend to, smoothed along the tokens; a subclass says whose queries they are.

    s = pool(group_h(reduce_q(softmax_j(scale q_h k_j)))), (Hk, n) for queries (Hq, w, d) and keys (Hk, n, d). A layer costs Hq w n multiplications
    of d numbers, and 4 Hq w n bytes for as long as it is scored. Chunks stand in for the pooling; each query head values them before heads come together.
    """

    reduce: Reduce = Field("mean", description="How the queries of the window become one number per token and query head: sum, mean or max.")
    group: Reduce = Field("mean", description="How the query heads that share one set of tokens become one number: sum, mean or max.")
    pool: Pool = Field("avg", description="Smoothing along the tokens, so that neighbours of an attended token are kept too: none, avg or max.")
    kernel: int = Field(5, ge=1, le=4095, description="Tokens that the pooling spans, an odd number.")
    count_padding: bool = Field(True, description="Whether avg counts zeros beyond both ends, as all public code does: it lowers the tokens there.")
    chunk: int = Field(1, ge=1, le=65536, description="Neighbouring tokens, counted from the first, that are kept or dropped together; 1 for each by itself.")
    chunk_top: int | None = Field(None, ge=1, description="A chunk is worth the mean of its so many largest tokens, per query head; null for all of them.")
    share: Share = Field("head", description="Whose query heads decide together: a key-value head's, or all of the layer's, whose heads then keep the same.")
    layer_groups: int = Field(1, ge=1, description="Neighbouring layers of which the first decides for all.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kernel % 2 == 0:
            raise ConfigError(f"kernel {self.kernel} has no middle token; use an odd one such as {self.kernel + 1}")
        if self.chunk > 1 and self.pool != "none":
            raise ConfigError(f"chunks of {self.chunk} are not pooled; set pool: none, or chunk: 1")
        return self

    @abstractmethod
    def window_of(self, prefix: "Prefix") -> "tuple[Sequence[Tensor], Tensor, int]":
        """(queries (Hq, w, d) per layer, their positions (w,), how many tokens, from the first on, they choose from)."""

    def asked(self, prefix: "Prefix", layer: int) -> "Tensor | None":
        """The query heads of a layer that are asked, ascending; None for all."""
        return None

    def score(self, prefix: "Prefix") -> "list[Tensor]":
        queries, positions, candidates = self.window_of(prefix)
        found: list[Tensor] = []
        for layer, view in enumerate(prefix.layers):
            first = layer - layer % self.layer_groups
            found.append(found[first] if first < layer else self.scored(view, queries[layer], positions, candidates, self.asked(prefix, layer)))
        return found

    def scored(self, view: "LayerView", queries: "Tensor", positions: "Tensor", candidates: int, heads: "Tensor | None" = None) -> "Tensor":
        """(Hk, n) float32: the first `candidates` tokens as the window sees them, all others as much as the best of these."""
        import torch

        from curate.compression.prefix import per_head

        own, n = view.keys.shape[:2]
        if not candidates:
            return torch.zeros(own, n, device=view.keys.device)
        rows = window_rows(view, queries, positions, self.reduce, heads)[:, :candidates]
        together = len(rows) if self.share == "layer" else view.groups
        if self.chunk > 1:
            values = per_head(chunked(rows, self.chunk, self.chunk_top), together, self.group)
        else:
            values = pooled(per_head(rows, together, self.group), self.pool, self.kernel, count_padding=self.count_padding)
        rest = values.amax(-1, keepdim=True).expand(-1, n - candidates)
        return torch.cat([values, rest], 1).expand(own, -1)


class LastWindow(Windowed):
    """The last w real queries score all tokens before them, and are themselves kept before all others."""

    window: int = Field(64, ge=1, description="Last tokens of the prefix whose queries are asked; they are kept before all others, and count.")

    def window_of(self, prefix: "Prefix") -> "tuple[Sequence[Tensor], Tensor, int]":
        import torch

        n = len(prefix)
        first = max(0, n - self.window)
        return [view.queries[:, first:] for view in prefix.layers], torch.arange(first, n, device=prefix.layers[0].keys.device), first

    def protected(self, prefix: "Prefix") -> "Tensor":
        import torch

        return torch.arange(len(prefix)) >= len(prefix) - self.window


def window_rows(view: "LayerView", queries: "Tensor", positions: "Tensor", reduce: Reduce, heads: "Tensor | None" = None) -> "Tensor":
    """(Hq, n) float32, or (len(heads), n): what the queries (Hq, w, d) at `positions` together attend to, causally, normalised over all n tokens."""
    from curate.compression.prefix import per_head, window_attention

    keys = view.keys
    if heads is not None:
        queries, keys = queries[heads], keys[heads // view.groups]
    weights = window_attention(queries, keys, view.scale, positions)
    return per_head(weights.flatten(0, 1), queries.shape[1], reduce)


def pooled(rows: "Tensor", pool: Pool, kernel: int, *, count_padding: bool = True) -> "Tensor":
    """(R, c) of rows (R, c): mean or maximum over `kernel` (odd) tokens around each; `count_padding` divides by the kernel at the ends too."""
    from torch.nn.functional import avg_pool1d, max_pool1d

    if pool == "none":
        return rows
    if pool == "max":
        return max_pool1d(rows.unsqueeze(1), kernel, 1, kernel // 2).squeeze(1)
    return avg_pool1d(rows.unsqueeze(1), kernel, 1, kernel // 2, count_include_pad=count_padding).squeeze(1)


def chunked(rows: "Tensor", chunk: int, top: int | None) -> "Tensor":
    """(R, c) of rows (R, c): every token has the mean of the `top` largest tokens of its chunk; the last chunk may be short."""
    import torch

    length = rows.shape[-1]
    padded = torch.nn.functional.pad(rows, (0, -length % chunk), value=float("-inf"))
    largest = padded.reshape(len(rows), -1, chunk).topk(min(chunk, top or chunk), -1).values
    real = largest.isfinite()
    means = largest.where(real, 0).sum(-1) / real.sum(-1)
    return means.repeat_interleave(chunk, 1)[:, :length]
