"""Keep important tokens as they are, and all others in few bits."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from curate.compression.parts import Action

if TYPE_CHECKING:
    from torch import Tensor

    from curate.compression.prefix import LayerView, Prefix
    from curate.compression.quantised import Decodes
    from curate.inference.stores import LayerStore

_LEAST = 1e-6


class Mikv(Action):
    """Stores the kept tokens as they are and the others at `bits`, per token, in groups of half the channels: nothing is forgotten.

    Low keys are stored multiplied by the balancer b_c = sqrt(max_i |q_ic| / max_i |k_ic|) of their head and channel, so that the channels that queries look at
    get the finer steps; queries are those of the whole prefix, over all heads of the group, with their positions in, and b is frozen. With a share r of kept
    tokens, bytes are r + (1 - r) (b + 32 / g) / 16 of 16-bit numbers (32.5 % at r = 0.2, b = 2, g = 64), plus a bit per head and token. The balancer knows
    only the prefix's queries. Generated tokens: see the press.
    Yang et al., "No Token Left Behind: Reliable KV Cache Compression via Importance-Aware Mixed Precision Quantization", 2024.
    """

    name: Literal["mikv"] = Field(default="mikv", description="The action's name.")
    bits: Literal[2, 3, 4, 8, 16] = Field(2, description="Bits of a number of the other tokens: 2, 3, 4 or 8; 16 leaves them as they are.")
    group: int | None = Field(None, ge=1, le=1024, description="Channels of a token that share a scale (at most all); null for half of the head's.")

    def store(self, prefix: "Prefix", layer: int, kept: "Sequence[Tensor]", scores: "Tensor") -> "LayerStore":
        import torch

        from curate.compression.codec import pack
        from curate.compression.quantised import Tiers, balanced, stored, taken

        view = prefix.layers[layer]
        numbers = None if self.bits == 16 else balancer(view)

        def of(heads: slice, tokens: "Tensor") -> "LayerStore":
            keys, values = view.keys[heads], view.values[heads]
            own = None if numbers is None else numbers[heads].clone()
            high = torch.zeros(keys.shape[:2], dtype=torch.bool, device=keys.device).scatter_(1, tokens, True)
            others = (~high).nonzero()[:, 1].view(len(keys), -1)
            low_keys = taken(keys, others)
            if own is not None:
                low_keys = balanced(low_keys, own.unsqueeze(1))
            low_values = self._low(taken(values, others))
            return Tiers(taken(keys, tokens), taken(values, tokens), self._low(low_keys), low_values, own, pack(high.to(torch.uint8), 1))

        return stored(kept, of)

    def _low(self, numbers: "Tensor") -> "Decodes":
        from curate.compression.codec import coded
        from curate.compression.quantised import Whole

        if self.bits == 16:
            return Whole(numbers)
        return coded(numbers, self.bits, self.group or max(1, numbers.shape[-1] // 2))


def balancer(view: "LayerView") -> "Tensor":
    """(Hk, d) in the dtype of the keys: sqrt(max |q| / max |k|) per head and channel, over all tokens and the query heads of the group."""
    queries = view.queries.abs().reshape(len(view.keys), -1, view.keys.shape[-1]).amax(1).float()
    return (queries.clamp(min=_LEAST) / view.keys.abs().amax(1).float().clamp(min=_LEAST)).sqrt().to(view.keys.dtype)
