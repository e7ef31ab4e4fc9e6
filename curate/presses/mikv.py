"""MiKV: important tokens as they are, all others in few bits."""

from typing import Literal

from pydantic import Field

from curate.compression.actions.mikv import Mikv as MixedPrecision
from curate.compression.importances.received import Received
from curate.compression.parts import AnyAction, AnyImportance
from curate.compression.recent_press import RecentPress


class Mikv(RecentPress):
    """No token left behind: a fifth of the tokens, half of them the newest and half H2O's heavy hitters, stay whole, and the others are kept at 2 bits.

    Bytes: r + (1 - r) (b + 32 / g) / 16 of 16-bit numbers, 32.5 % with heads of 128 channels. Nothing is evicted, so what no query has asked for yet is still
    there, in few bits: fit for a prefix that many questions share. Bad where keys lose too much at 2 bits (small heads, small models): use 3 or 4.
    Yang et al., "No Token Left Behind: Reliable KV Cache Compression via Importance-Aware Mixed Precision Quantization", 2024.
    """

    name: Literal["mikv"] = Field(default="mikv", description="The press's name.")
    keep: float = Field(0.2, gt=0, le=1, description="Share of the prefix's tokens that stay as they are, on average over layers and heads (rounded up).")
    importance: AnyImportance = Field(default=Received(), description="What tokens are worth: a name, or a mapping with its fields.")
    action: AnyAction = Field(default=MixedPrecision(), description="What becomes of the tokens: a name, or a mapping with its fields.")
