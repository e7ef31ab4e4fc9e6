"""KIVI: all tokens in few bits, keys by channel and values by token."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from curate.compression.actions.kivi import Kivi as FewBits
from curate.compression.importances.key_norm import KeyNorm
from curate.compression.parts import AnyAction, AnyImportance
from curate.compression.token_press import TokenPress

if TYPE_CHECKING:
    from curate.compression.prefix import Prefix
    from curate.inference.stores import DecodeCache


class Kivi(TokenPress):
    """The plain quantisation that others are measured by: every token at 2 bits but for the last 32.

    x^ = code step + lowest; keys in groups of 32 tokens per channel, values in groups of 32 channels per token. Bytes: (b + 32 / g) / 16 of 16-bit numbers,
    19 %. Generated tokens behind a whole prompt (`covers: prompt`) are coded as they age: 32 keys at once, values one by one; behind a shared prefix they
    stay whole. Bad for short prefixes, of which the last 32 tokens are most, and for small models at 2 bits.
    Liu et al., "KIVI: A Tuning-Free Asymmetric 2bit Quantization for KV Cache", 2024.
    """

    whole: ClassVar[Mapping[str, Any] | None] = {"action": {"name": "kivi", "bits": 8}}
    error: ClassVar[float] = 0.02

    name: Literal["kivi"] = Field(default="kivi", description="The press's name.")
    keep: float = Field(1.0, ge=1, le=1, description="All tokens are kept; to evict some first, give another press the action kivi.")
    importance: AnyImportance = Field(default=KeyNorm(), description="Read by nothing, as all tokens are kept.")
    action: AnyAction = Field(default=FewBits(), description="How the kept tokens are stored: a name, or a mapping with its fields.")

    def decoder(self, prefix: "Prefix", layer: int) -> "DecodeCache | None":
        from curate.compression.growing_codes import KiviCodes

        if not isinstance(self.action, FewBits):
            return None
        view = prefix.layers[layer]
        return KiviCodes(view.keys, view.values, self.action.bits, self.action.group, self.action.residual)
