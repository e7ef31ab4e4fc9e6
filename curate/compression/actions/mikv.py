"""Keep important tokens as they are or in some bits, and all others in few."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from curate.compression.parts import Action
from curate.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from curate.compression.prefix import LayerView, Prefix
    from curate.compression.quantised import Decodes
    from curate.inference.stores import LayerStore

_LEAST = 1e-6


class Mikv(Action):
    """Stores the kept tokens as they are, or at `important_bits`, and the others at `bits`, per token, in groups of half the channels: nothing is forgotten.

    Coded keys are multiplied by the balancer b_c = sqrt(max_i |q_ic| / max_i |k_ic|) of their head and channel, so that the channels that queries look at
    get the finer steps; queries are those of the whole prefix, over all heads of the group, with their positions in, and b is frozen. With a share r of kept
    tokens, bytes are (r h + (1 - r) (b + 32 / g)) / 16 of 16-bit numbers, plus a bit per head and token: h = 16 for kept tokens as they are (32.5 % at
    r = 0.2, b = 2, g = 64), else h = important_bits + 32 / g (23.1 % at 8, 18.1 % at 4, 15.6 % at 2, as in the paper). The paper does not say whether
    important keys are balanced; here all coded ones are. The balancer knows only the prefix's queries. Generated tokens: see the press.
    Yang et al., "No Token Left Behind: Reliable KV Cache Compression via Importance-Aware Mixed Precision Quantization", 2024.
    """

    name: Literal["mikv"] = Field(default="mikv", description="The action's name.")
    bits: Literal[2, 3, 4, 8, 16] = Field(2, description="Bits of a number of the other tokens: 2, 3, 4 or 8; 16 leaves them as they are.")
    important_bits: Literal[2, 3, 4, 8, 16] = Field(
        16, description="Bits of a number of the kept tokens: 2, 3, 4 or 8, and not fewer than of the others; 16 leaves them as they are."
    )
    group: int | None = Field(None, ge=1, le=1024, description="Channels of a token that share a scale (at most all); null for half of the head's.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.important_bits < self.bits:
            raise ConfigError(f"important_bits {self.important_bits} are fewer than bits {self.bits} of the other tokens; use at least {self.bits}")
        return self

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
            others, bit = (~high).nonzero()[:, 1].view(len(keys), -1), pack(high.to(torch.uint8), 1)
            scaled = keys if own is None else balanced(keys, own.unsqueeze(1))
            coded = self.important_bits < 16
            high_keys, high_values = (self._few(taken(states, tokens), self.important_bits) for states in (scaled if coded else keys, values))
            low_keys, low_values = (self._few(taken(states, others), self.bits) for states in (scaled, values))
            return Tiers(high_keys, high_values, low_keys, low_values, own, coded, bit)

        return stored(kept, of)

    def _few(self, numbers: "Tensor", bits: int) -> "Decodes":
        from curate.compression.codec import coded
        from curate.compression.quantised import Whole

        return Whole(numbers) if bits == 16 else coded(numbers, bits, self.group or max(1, numbers.shape[-1] // 2))


def balancer(view: "LayerView") -> "Tensor":
    """(Hk, d) in the dtype of the keys: sqrt(max |q| / max |k|) per head and channel, over all tokens and the query heads of the group."""
    queries = view.queries.abs().reshape(len(view.keys), -1, view.keys.shape[-1]).amax(1).float()
    return (queries.clamp(min=_LEAST) / view.keys.abs().amax(1).float().clamp(min=_LEAST)).sqrt().to(view.keys.dtype)
