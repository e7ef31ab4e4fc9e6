"""TriAttention: keys ranked by the logits that an average query would give them at the distances to come."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from curate.compression.actions.evict import Evict
from curate.compression.allocators.uniform import Uniform
from curate.compression.importances.trigonometric import Trigonometric, averages
from curate.compression.parts import AnyImportance
from curate.compression.rotary import Rotary, rotary_of
from curate.compression.token_press import TokenPress, best

if TYPE_CHECKING:
    from torch import Tensor

    from curate.compression.prefix import Prefix
    from curate.inference.stores import DecodeCache

GROW = 64  # tokens by which room for generated ones is added


class Triattention(TokenPress):
    """Keeps the tokens that score best by `trigonometric`, at their own positions; the others are gone.

    Bytes: the share `keep` of the prefix, exactly. While a sequence is generated, a head that came to hold `live` + `slack` tokens is cut back to `live`
    by the same score, so that its memory stays bounded; what of the prefix was kept is counted in and, if pinned, stays, and so do the newest tokens.
    Where these alone are more than `live`, that many are held instead (the published code then forgets what was generated). Generated tokens are only
    evicted with `selection: per_layer_head`, the uniform allocator and plain eviction: a ranking over all layers is not known while one of them attends.

    Not lossless: the authors report 57.1 to 42.1 on AIME24 for Qwen3-8B at 2,048 live tokens. It needs to be calibrated on the base model.
    Mao et al., "TriAttention: Efficient Long Reasoning with Trigonometric KV Compression", 2026.
    """

    name: Literal["triattention"] = Field(default="triattention", description="The press's name.")
    importance: AnyImportance = Field(default=Trigonometric(), description="What a token is worth: a name, or a mapping with its fields.")
    live: int = Field(2048, ge=1, description="Tokens that a key-value head holds while a sequence is generated, those of the prefix among them.")
    slack: int = Field(128, ge=1, description="Tokens beyond `live` that may gather before the head is cut back to it.")
    pinned: bool = Field(True, description="Whether what was kept of the prefix stays for as long as the sequence is generated.")

    def decoder(self, prefix: "Prefix", layer: int) -> "DecodeCache | None":
        kind = self.importance
        if not isinstance(kind, Trigonometric) or kind.selection != "per_layer_head":
            return None
        if not isinstance(self.allocator, Uniform) or not isinstance(self.action, Evict):
            return None
        rotary = rotary_of(prefix.model)
        mean, norm = (values[layer].clone() for values in averages(prefix, rotary))
        return Live(self, kind, *self._start(prefix, layer, kind.ranking(prefix, layer, mean, norm, rotary)), mean, norm, rotary)

    def _start(self, prefix: "Prefix", layer: int, scores: "Tensor") -> "tuple[Tensor, Tensor]":
        """What `compress` keeps of one layer, by scores (Hk, n)."""
        import torch

        view, protected = prefix.layers[layer], self.importance.protected(prefix)
        kept = torch.stack([best(values, protected, self.budget(prefix)) for values in scores])
        rows = kept.unsqueeze(-1).expand(-1, -1, view.keys.shape[-1])
        return view.keys.gather(1, rows), view.values.gather(1, rows)


class Live:
    """One layer's keys and values of a sequence that is being generated, in order of position, in room that grows until it is cut back."""

    def __init__(self, press: Triattention, kind: Trigonometric, keys: "Tensor", values: "Tensor", mean: "Tensor", norm: "Tensor", rotary: Rotary) -> None:
        self._count = keys.shape[1]
        self._kind, self._mean, self._norm, self._rotary = kind, mean, norm, rotary
        self._pinned = self._count if press.pinned else 0
        self._target = max(press.live, self._pinned + kind.recent)
        self._full = self._target + press.slack
        self._keys, self._values = keys, values

    def attend(self, query: "Tensor", key: "Tensor", value: "Tensor", position: int, scale: float) -> "Tensor":
        import torch

        from curate.inference.stores import Plain

        if self._count == self._keys.shape[1]:
            more = min(GROW, max(1, self._full - self._count))
            self._keys, self._values = (torch.cat([kept, kept.new_empty((len(kept), more, kept.shape[-1]))], 1) for kept in (self._keys, self._values))
        self._keys[:, self._count], self._values[:, self._count] = key[:, 0], value[:, 0]
        self._count += 1
        output = Plain(self._keys[:, : self._count], self._values[:, : self._count]).attend(query, scale)[0]
        if self._count >= self._full:
            self._cut(position + 1)
        return output

    @property
    def tensors(self) -> "list[Tensor]":
        return [self._keys, self._values, self._mean, self._norm]

    def _cut(self, seen: int) -> None:
        import torch

        keys, values = self._keys[:, : self._count], self._values[:, : self._count]
        places = torch.arange(self._count, device=keys.device)
        candidates = (places >= self._pinned) & (places < self._count - self._kind.recent)
        scores = self._kind.standing(keys, seen, self._mean, self._norm, self._rotary, candidates)
        kept = torch.stack([best(own, ~candidates, self._target) for own in scores]).unsqueeze(-1)
        self._keys[:, : self._target] = keys.gather(1, kept.expand(-1, -1, keys.shape[-1]))
        self._values[:, : self._target] = values.gather(1, kept.expand(-1, -1, values.shape[-1]))
        self._count = self._target
