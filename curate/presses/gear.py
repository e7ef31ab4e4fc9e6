"""GEAR: all tokens in few bits, with outliers exact and a few directions of the error."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from curate.compression.actions.gear import Gear as Corrected
from curate.compression.importances.key_norm import KeyNorm
from curate.compression.parts import AnyAction, AnyImportance
from curate.compression.token_press import TokenPress

if TYPE_CHECKING:
    from curate.compression.prefix import Prefix
    from curate.inference.stores import DecodeCache


class Gear(TokenPress):
    """Keeps every token: codes in blocks of 64, the 2 % largest and smallest numbers exactly, and 4 directions of what the codes miss per head and block.

    X^ = Q(X') + L with exact outliers. Bytes: 29.5 % of the cache at 2 bits and 42 % at 4, with heads of 128 channels. Tokens after the last block of 64 stay
    whole, so a prefix of less than 64 is not compressed. Generated tokens behind a whole prompt (`covers: prompt`) are gathered whole and become a block
    when there are 64, with 2 directions; behind a shared prefix, or where some tokens are evicted, they stay whole. Bad for speed: every pass decodes all.
    Kang et al., "GEAR: An Efficient KV Cache Compression Recipe for Near-Lossless Generative Inference of LLM", 2024.
    """

    whole: ClassVar[Mapping[str, Any] | None] = {"action": {"name": "gear", "sparsity": 1.0}}

    name: Literal["gear"] = Field(default="gear", description="The press's name.")
    keep: float = Field(1.0, gt=0, le=1, description="Share of the tokens that are kept at all, in few bits; the others are evicted.")
    importance: AnyImportance = Field(default=KeyNorm(), description="What tokens are worth, where some are evicted: a name, or a mapping with its fields.")
    action: AnyAction = Field(default=Corrected(), description="How the kept tokens are stored: a name, or a mapping with its fields.")

    def decoder(self, prefix: "Prefix", layer: int) -> "DecodeCache | None":
        from curate.compression.growing_codes import GearCodes

        action = self.action
        if not isinstance(action, Corrected) or self.budget(prefix) < len(prefix):
            return None
        later = action.model_copy(update={"rank": min(action.rank, action.later_rank)})
        return GearCodes(prefix.layers[layer].keys, prefix.layers[layer].values, action.corrected, later.corrected)
