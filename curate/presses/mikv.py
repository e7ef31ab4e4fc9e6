"""MiKV: important tokens as they are or in some bits, all others in few."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from curate.compression.actions.mikv import Mikv as MixedPrecision
from curate.compression.allocators.uniform import Uniform
from curate.compression.importances.received import Received
from curate.compression.parts import AnyAction, AnyImportance
from curate.compression.recent_press import RecentPress
from curate.compression.token_press import best, budget_of

if TYPE_CHECKING:
    from curate.compression.prefix import Prefix
    from curate.inference.stores import DecodeCache


class Mikv(RecentPress):
    """No token left behind: a fifth of the tokens, half of them the newest and half H2O's heavy hitters, stay whole, and the others are kept at 2 bits.

    Bytes: r + (1 - r) (b + 32 / g) / 16 of 16-bit numbers, 32.5 % with heads of 128 channels. Nothing is evicted, so what no query has asked for yet is still
    there, in few bits: fit for a prefix that many questions share. With `action: {name: mikv, important_bits: h}` the fifth is coded too, the newest tokens
    among it: (r (h + 32 / g) + (1 - r) (b + 32 / g)) / 16, 23.1 % at 8 bits, 18.1 % at 4, 15.6 % at 2; keeping everything is then no longer exact.

    Behind a whole prompt (`covers: prompt`), with the press's own parts, generated tokens enter as important, whole or at h bits, and when more than the share
    of all tokens so far are important, the lightest that is not recent goes to few bits for good, coded once, from its h bits where it has no more; in all
    other cases generated tokens stay whole. From 4 or 8 bits to 2, and from 8 to 4, this gives the codes of the original, up to rounding: their levels nest.
    Bad where keys lose too much at 2 bits (small heads, small models): use 3 or 4.
    Yang et al., "No Token Left Behind: Reliable KV Cache Compression via Importance-Aware Mixed Precision Quantization", 2024.
    """

    name: Literal["mikv"] = Field(default="mikv", description="The press's name.")
    keep: float = Field(0.2, gt=0, le=1, description="Share of the prefix's tokens that are important, on average over layers and heads (rounded up).")
    importance: AnyImportance = Field(default=Received(), description="What tokens are worth: a name, or a mapping with its fields.")
    action: AnyAction = Field(default=MixedPrecision(), description="What becomes of the tokens: a name, or a mapping with its fields.")

    def decoder(self, prefix: "Prefix", layer: int) -> "DecodeCache | None":
        import torch

        from curate.compression.actions.mikv import balancer
        from curate.compression.demotion import Demoting, Tier
        from curate.compression.quantised import taken

        action = self.action
        if not isinstance(action, MixedPrecision) or (self.importance, self.allocator) != (Received(), Uniform()):
            return None
        view, n = prefix.layers[layer], len(prefix)
        sums, (many, recent) = Received().scored(view), self._sizes(n)
        newest = torch.arange(n, device=sums.device) >= n - recent
        high = torch.stack([best(row, newest, many) for row in sums])
        rest = torch.ones_like(sums, dtype=torch.bool).scatter_(1, high, False)
        low_keys, low_values = (states[rest].view(len(states), -1, states.shape[-1]) for states in (view.keys, view.values))
        numbers, group = None if action.bits == 16 else balancer(view), action.group or max(1, view.keys.shape[-1] // 2)
        important = Tier(taken(view.keys, high), taken(view.values, high), numbers, action.important_bits, group)
        return Demoting(important, high, sums.gather(1, high), Tier(low_keys, low_values, numbers, action.bits, group), self._sizes)

    def _sizes(self, tokens: int) -> tuple[int, int]:
        """(how many of so many tokens are important, how many of these are the newest)."""
        many = min(budget_of(self.keep, self.tokens, tokens), tokens)
        return many, int(many * self.recent)
