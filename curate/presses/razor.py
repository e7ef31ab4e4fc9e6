"""RazorAttention: heads that look things up keep every token, the others sinks, recent tokens and the mean of the rest."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from curate.compression.calibration import calibrated
from curate.compression.retrieval import head_scores, repeated_tokens, top_heads
from curate.interfaces import Press, State

if TYPE_CHECKING:
    from torch import Tensor

    from curate.compression.prefix import LayerView, Prefix
    from curate.inference.stores import DecodeCache, LayerStore, Memory, Plain
    from curate.model import LanguageModel

ECHO, INDUCTION = "razor_echo", "razor_induction"


class Razor(Press):
    """Retrieval heads keep all tokens; other key-value heads keep N0 first and max(S0, n / C) last ones, and one token that stands for those between.

    Retrieval heads are found once, on the base model: on random tokens repeated over and over they attend to earlier copies of the token (echo) or to the
    token after those (induction). A key-value head is one if any of its query heads is. The N_d tokens that another head drops become their mean key k and
    mean value v, which counts N_d times: with `weight: count`,

        o = (N_d e^{q k} v + sum_j e^{q k_j} v_j) / (N_d e^{q k} + sum_j e^{q k_j}),

    exact where all dropped tokens are equal. Keys keep their positions, so their mean is taken over turned keys: for channels that turn fast it is short.

    Bytes: with a share s of retrieval heads, s n + (1 - s)(N0 + 1 + max(S0, n / C)) tokens per head. Reads no query of the prefix, so it serves prefixes
    whose question is not seen yet. It saves nothing while N0 + S0 >= n. While a sequence is generated, the number of recent tokens stays that of the
    prefix, and each token that leaves them is taken into the mean. The weight N_d is our reading of the paper, whose authors publish no code; the search is
    that of a public implementation, made causal. A copy longer than the stretches that the model was trained on finds no head, and then any are taken:
    lower `length` for a model whose best scores are near 0.
    Tang et al., "RazorAttention: Efficient KV Cache Compression Through Retrieval Heads", 2024.
    """

    whole: ClassVar[Mapping[str, Any]] = {"divisor": 1.0}  # fields with which it keeps everything
    merges: ClassVar[bool] = True  # stores entries that are no token's own

    name: Literal["razor"] = Field(default="razor", description="The press's name.")
    echo: float = Field(0.01, ge=0, le=1, description="Share of all key-value heads that are kept whole because they score best as echo heads (rounded up).")
    induction: float = Field(0.14, ge=0, le=1, description="Share of all key-value heads that are kept whole as induction heads (rounded up).")
    sinks: int = Field(4, ge=0, description="First tokens that every head keeps (N0).")
    recent: int = Field(256, ge=1, description="Last tokens that every head keeps at least (S0).")
    divisor: float = Field(5.0, ge=1, description="Every head keeps at least the prefix's length divided by this as last tokens (C); 1 keeps everything.")
    weight: Literal["count", "one", "none"] = Field(
        "count", description="What the mean of dropped tokens counts for: as many tokens as it stands for, as one token, or nothing (it is not stored)."
    )
    length: int = Field(2500, ge=2, description="Random tokens in a copy, for the search of retrieval heads.")
    copies: int = Field(4, ge=2, description="How often they are repeated.")

    def compress(self, prefix: "Prefix") -> "Memory":
        from curate.inference.stores import Memory

        whole = self.retrieval_heads(prefix)
        return Memory([self._stored(view, own) for view, own in zip(prefix.layers, whole, strict=True)], len(prefix))

    def calibrate(self, model: "LanguageModel", texts: Sequence[Sequence[int]], seed: int) -> State | None:
        """Echo and induction scores as {name: (L, Hk)} float32; reads no text, but one prefill of `copies` times `length` random tokens."""
        import torch

        from curate.inference.attention import ours

        with torch.inference_mode(), ours(model.model):
            echo, induction = head_scores(model, repeated_tokens(model, self.length, self.copies, seed))
        return {ECHO: echo.contiguous(), INDUCTION: induction.contiguous()}

    def decoder(self, prefix: "Prefix", layer: int) -> "DecodeCache | None":
        view = prefix.layers[layer]
        whole = self.retrieval_heads(prefix)[layer]
        kept, thinned = [i for i, own in enumerate(whole) if own], [i for i, own in enumerate(whole) if not own]
        grown = Grown(view.keys[kept], view.values[kept]) if kept else None
        window = Sliding(view.keys[thinned], view.values[thinned], self.sinks, self._last(len(prefix)), self.weight) if thinned else None
        return Razored(kept, grown, thinned, window)

    def retrieval_heads(self, prefix: "Prefix") -> list[list[bool]]:
        """Which heads are kept whole, by layer; ModelError where the search was not made, or on another model."""
        shape = (len(prefix.layers), prefix.layers[0].keys.shape[0])
        echo, induction = (calibrated(prefix, name, shape, "razor") for name in (ECHO, INDUCTION))
        found: list[list[bool]] = (top_heads(echo, self.echo) | top_heads(induction, self.induction)).tolist()
        return found

    def _last(self, tokens: int) -> int:
        return max(self.recent, math.ceil(tokens / self.divisor))

    def _stored(self, view: "LayerView", whole: Sequence[bool]) -> "LayerStore":
        from curate.inference.stores import Plain, Ragged

        if all(whole):
            return Plain(view.keys, view.values)
        last = self._last(view.keys.shape[1])
        if not any(whole):
            return thinned(view.keys, view.values, self.sinks, last, self.weight)
        heads = zip(whole, view.keys.split(1), view.values.split(1), strict=True)
        return Ragged([Plain(k.clone(), v.clone()) if own else thinned(k, v, self.sinks, last, self.weight) for own, k, v in heads])


def thinned(keys: "Tensor", values: "Tensor", sinks: int, last: int, weight: str) -> "Plain":
    """The first `sinks` and the `last` tokens of keys and values (H, n, d), and between them one that stands for all others, if there are any."""
    import torch

    from curate.inference.stores import Plain

    n = keys.shape[1]
    start, end = min(sinks, n), max(min(sinks, n), n - last)
    folded = weight != "none" and start < end

    def joined(states: "Tensor") -> "Tensor":
        mean = [states[:, start:end].float().mean(1, keepdim=True).to(states.dtype)] if folded else []
        return torch.cat([states[:, :start], *mean, states[:, end:]], 1)

    bias = None
    if folded and weight == "count":
        bias = torch.zeros((len(keys), start + 1 + n - end), device=keys.device)
        bias[:, start] = math.log(end - start)
    return Plain(joined(keys), joined(values), bias)


class Razored:
    """One layer of a sequence that is being generated: retrieval heads grow, the others slide."""

    def __init__(self, kept: Sequence[int], grown: "Grown | None", thinned: Sequence[int], window: "Sliding | None") -> None:
        self._parts = [(list(heads), part) for heads, part in ((kept, grown), (thinned, window)) if part is not None]

    def attend(self, query: "Tensor", key: "Tensor", value: "Tensor", position: int, scale: float) -> "Tensor":
        output = query.new_empty((*query.shape[:2], value.shape[-1]))
        for heads, part in self._parts:
            output[heads] = part.attend(query[heads], key[heads], value[heads], position, scale)
        return output

    @property
    def tensors(self) -> "list[Tensor]":
        return [tensor for _, part in self._parts for tensor in part.tensors]


class Grown:
    """Heads that keep everything: what they have of the prefix, and what came after."""

    def __init__(self, keys: "Tensor", values: "Tensor") -> None:
        self._before, self._after = (keys, values), (keys[:, :0], values[:, :0])

    def attend(self, query: "Tensor", key: "Tensor", value: "Tensor", position: int, scale: float) -> "Tensor":
        import torch

        from curate.inference.attention import merge
        from curate.inference.stores import Plain

        self._after = torch.cat([self._after[0], key], 1), torch.cat([self._after[1], value], 1)
        return merge([Plain(*self._before).attend(query, scale), Plain(*self._after).attend(query, scale)])[0]

    @property
    def tensors(self) -> "list[Tensor]":
        return [*self._before, *self._after]


class Sliding:
    """Heads that keep sinks, the newest tokens and a mean: entry 0 is the mean, then come the sinks, then a ring of one more than the newest tokens.

    The token that leaves the ring is taken into the mean when another takes its place, before that one attends; the mean is kept in float32.
    """

    def __init__(self, keys: "Tensor", values: "Tensor", sinks: int, last: int, weight: str) -> None:
        import torch

        heads, n, _ = keys.shape
        self._sinks, self._ring, self._weight = sinks, last + 1, weight
        gone = slice(min(sinks, n), max(min(sinks, n), n - self._ring))
        self._dropped = gone.stop - gone.start
        room = (heads, 1 + sinks + self._ring)
        self._bias = torch.zeros(room, device=keys.device)
        self._bias[:, 0] = float("-inf")
        self._means = [states[:, gone].float().mean(1) if self._dropped else states.new_zeros((heads, states.shape[-1])).float() for states in (keys, values)]
        self._held = [states.new_zeros((*room, states.shape[-1])) for states in (keys, values)]
        kept = [*range(gone.start), *range(gone.stop, n)]
        for held, states in zip(self._held, (keys, values), strict=True):
            held[:, [self._place(position) for position in kept]] = states[:, kept]
        self._tell()

    def attend(self, query: "Tensor", key: "Tensor", value: "Tensor", position: int, scale: float) -> "Tensor":
        from curate.inference.stores import Plain

        place = self._place(position)
        if position - self._ring >= self._sinks:
            self._dropped += 1
            for held, mean in zip(self._held, self._means, strict=True):
                mean += (held[:, place].float() - mean) / self._dropped
            self._tell()
        for held, new in zip(self._held, (key, value), strict=True):
            held[:, place] = new[:, 0]
        filled = 1 + min(position + 1, self._sinks + self._ring)
        return Plain(self._held[0][:, :filled], self._held[1][:, :filled], self._bias[:, :filled]).attend(query, scale)[0]

    @property
    def tensors(self) -> "list[Tensor]":
        return [*self._held, *self._means, self._bias]

    def _place(self, position: int) -> int:
        return 1 + position if position < self._sinks else 1 + self._sinks + (position - self._sinks) % self._ring

    def _tell(self) -> None:
        """Put the mean where queries see it, for as much as it counts."""
        if self._weight == "none" or not self._dropped:
            return
        for held, mean in zip(self._held, self._means, strict=True):
            held[:, 0] = mean.to(held.dtype)
        self._bias[:, 0] = math.log(self._dropped) if self._weight == "count" else 0.0
