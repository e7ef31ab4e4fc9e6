"""MiKV: important tokens as they are, all others in few bits."""

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
    there, in few bits: fit for a prefix that many questions share. Behind a whole prompt (`covers: prompt`), with the press's own parts, generated tokens
    enter whole, and when more than the share of all tokens so far are whole, the lightest that is not recent goes to few bits for good, coded once; in all
    other cases generated tokens stay whole. Bad where keys lose too much at 2 bits (small heads, small models): use 3 or 4.
    Yang et al., "No Token Left Behind: Reliable KV Cache Compression via Importance-Aware Mixed Precision Quantization", 2024.
    """

    name: Literal["mikv"] = Field(default="mikv", description="The press's name.")
    keep: float = Field(0.2, gt=0, le=1, description="Share of the prefix's tokens that stay as they are, on average over layers and heads (rounded up).")
    importance: AnyImportance = Field(default=Received(), description="What tokens are worth: a name, or a mapping with its fields.")
    action: AnyAction = Field(default=MixedPrecision(), description="What becomes of the tokens: a name, or a mapping with its fields.")

    def decoder(self, prefix: "Prefix", layer: int) -> "DecodeCache | None":
        import torch

        from curate.compression.actions.mikv import balancer
        from curate.compression.demotion import Demoting, Low

        action = self.action
        if not isinstance(action, MixedPrecision) or (self.importance, self.allocator) != (Received(), Uniform()):
            return None
        view, n = prefix.layers[layer], len(prefix)
        sums, (whole, recent) = Received().scored(view), self._sizes(n)
        newest = torch.arange(n, device=sums.device) >= n - recent
        high = torch.stack([best(row, newest, whole) for row in sums])
        rest = torch.ones_like(sums, dtype=torch.bool).scatter_(1, high, False)
        low_keys, low_values = (states[rest].view(len(states), -1, states.shape[-1]) for states in (view.keys, view.values))
        low = Low(low_keys, low_values, None if action.bits == 16 else balancer(view), action.bits, action.group or max(1, view.keys.shape[-1] // 2))
        return Demoting(view.keys, view.values, high, sums, low, self._sizes)

    def _sizes(self, tokens: int) -> tuple[int, int]:
        """(how many of so many tokens are whole, how many of these are the newest)."""
        whole = min(budget_of(self.keep, self.tokens, tokens), tokens)
        return whole, int(whole * self.recent)
