"""FastKV: all tokens run through the lower layers, the most attended ones through the rest, and each layer keeps its own best of what it saw."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from curate.compression.windowed import Pool, pooled, window_rows
from curate.errors import ConfigError
from curate.interfaces import Press

if TYPE_CHECKING:
    from torch import Tensor

    from curate.compression.prefix import LayerView, Prefix
    from curate.inference.stores import Memory, Plain
    from curate.model import LanguageModel


class Fastkv(Press):
    """Cuts the work of the prefill as well as what is stored: only a share `propagate` of the tokens goes on after layer t.

    In every layer a token's score is the attention that the last w queries of the layer's tokens give it, averaged over the window, summed over the query
    heads of a key-value head and pooled over neighbours; a head keeps its best tokens and the window, `keep` times n in all, the same number in every layer.
    At layer t the scores are also summed over heads: the best r - w tokens and the window, r = `propagate` times n, pass their hidden states and their
    positions on. Layers above have no more than r tokens to choose from.

    Bytes: keep n tokens per layer and head, above layer t at most r. The prefill costs (t + 1) / L + propagate (1 - (t + 1) / L) of the full one, besides
    attention. Unlike all other presses it changes the prefill itself: the hidden state of the last token is not the exact one, and other tokens have
    none, so that a prefix's own log-likelihood cannot be read. The window takes the last tokens for a question; a prefix that ends otherwise is the bad
    case. The defaults are the published ones for a model of 32 layers.
    Jo et al., "FastKV: KV Cache Compression for Fast Long-Context Processing with Token-Selective Propagation", 2025.
    """

    whole: ClassVar[Mapping[str, Any]] = {"keep": 1.0, "propagate": 1.0}  # fields with which it keeps everything

    name: Literal["fastkv"] = Field(default="fastkv", description="The press's name.")
    keep: float = Field(0.1, gt=0, le=1, description="Share of the prefix's tokens that each layer and head keeps, the window among them (rounded up).")
    propagate: float = Field(0.2, gt=0, le=1, description="Share of the prefix's tokens that go on after layer t, the window among them (rounded up).")
    tokens: int | None = Field(None, ge=1, description="Tokens that each layer and head keeps, in place of the share `keep`: the published constant mode.")
    propagated: int | None = Field(None, ge=1, description="Tokens that go on after layer t, in place of the share `propagate`; the published code has 2048.")
    layer: int | None = Field(None, ge=0, description="Layer t, from 0, the last that all tokens run through; by default the last of the lower half.")
    window: int = Field(8, ge=1, description="Last tokens, whose queries judge the others and which are always kept (w).")
    pool: Pool = Field("avg", description="Smoothing along the tokens, so that neighbours of an attended token are kept too: none, avg or max.")
    kernel: int = Field(7, ge=1, le=4095, description="Tokens that the pooling spans, an odd number.")
    count_padding: bool = Field(True, description="Whether avg counts zeros beyond both ends, as published: it lowers the tokens there.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kernel % 2 == 0:
            raise ConfigError(f"kernel {self.kernel} has no middle token; use an odd one such as {self.kernel + 1}")
        return self

    def compress(self, prefix: "Prefix") -> "Memory":
        """What `prefill` stores, at the cost of that prefill: an exact one does not know what layers above t see."""
        from curate.inference.attention import ours

        with ours(prefix.model.model):
            return self.prefill(prefix.model, prefix.tokens)[0]

    def prefill(self, model: "LanguageModel", tokens: Sequence[int]) -> "tuple[Memory, Tensor]":
        """(what is stored of the tokens, the last one's hidden state (1, H)); run within `ours(model.model)`."""
        from curate.inference.passes import attention_modules
        from curate.inference.propagation import Narrowing, narrowed

        layers = len(attention_modules(model))
        after = self.layer if self.layer is not None else max(0, layers // 2 - 1)
        if after >= layers:
            raise ConfigError(f"fastkv.layer {after} is not one of the model's layers, 0 to {layers - 1}; lower it")
        going = share(self.propagate, len(tokens)) if self.propagated is None else min(self.propagated, len(tokens))
        step = Narrowing(after, lambda view: self._going_on(view, going), lambda view: self._kept(view, self._tokens(len(tokens))))
        memory, hidden = narrowed(model, tokens, step)
        return memory, hidden[-1:]

    def budget(self, prefix: "Prefix") -> int:
        """Tokens that a layer and head keep at most."""
        return self._tokens(len(prefix))

    def _tokens(self, n: int) -> int:
        return share(self.keep, n) if self.tokens is None else min(self.tokens, n)

    def _going_on(self, view: "LayerView", count: int) -> "Tensor":
        """(r,) places of the tokens that go on, ascending."""
        n = view.keys.shape[1]
        window = min(self.window, n)
        return chosen(self._scores(view).sum(0, keepdim=True), n, window, max(count, window))[0]

    def _kept(self, view: "LayerView", count: int) -> "Plain":
        from curate.inference.stores import Plain

        n = view.keys.shape[1]
        rows = chosen(self._scores(view), n, min(self.window, n), count).unsqueeze(-1)
        return Plain(view.keys.gather(1, rows.expand(-1, -1, view.keys.shape[-1])), view.values.gather(1, rows.expand(-1, -1, view.values.shape[-1])))

    def _scores(self, view: "LayerView") -> "Tensor":
        """(Hk, n - w) float32: what the tokens before the window are worth."""
        import torch

        from curate.compression.prefix import per_head

        n = view.keys.shape[1]
        first = max(0, n - self.window)
        rows = window_rows(view, view.queries[:, first:], torch.arange(first, n, device=view.keys.device), "mean")
        scores = per_head(rows, view.groups, "sum")[:, :first]
        return pooled(scores, self.pool, self.kernel, count_padding=self.count_padding) if first else scores


def share(part: float, n: int) -> int:
    """A share of n tokens, rounded up, at least one."""
    return max(1, min(-int(-part * n // 1), n))


def chosen(scores: "Tensor", n: int, window: int, count: int) -> "Tensor":
    """(H, min(count, n)) of n tokens, ascending: the last `window` (the later first, if not even they fit) and the best by scores (H, n - window)."""
    import torch

    last = torch.arange(max(n - window, n - count), n, device=scores.device).expand(len(scores), -1)
    order = torch.argsort(scores, dim=1, descending=True, stable=True)[:, : max(0, count - window)]
    return torch.cat([order.sort(1).values, last], 1)
