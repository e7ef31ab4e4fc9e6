"""PrefixKV: all heads of a layer keep the same tokens, and every layer as many as hold one common share of its attention."""

from typing import Literal

from pydantic import Field

from curate.compression.allocators.prefixkv import Prefixkv as PrefixkvBudgets
from curate.compression.importances.received import Received
from curate.compression.parts import AnyAllocator, AnyImportance
from curate.compression.token_press import TokenPress


class Prefixkv(TokenPress):
    """One set of tokens per layer, by attention received (mean over heads); one threshold p on the layers' cumulative curves gives their numbers.

    s_j = sum_i mean_h A_h,ij; layer l keeps min{m : F_l(m) >= p} + 5 tokens, the first four and the last among them, with p such that the layers' sum
    is L B exactly. Bytes: 2 Hk d L B numbers in all, unevenly over layers. Time: as H2O's sums, and a sort per layer. Only the prefix is compressed; the
    published code also drops one token at a fixed slot while it decodes. Bad where heads of a layer need different tokens.
    Wang et al., "PrefixKV: Adaptive Prefix KV Cache is What Vision Instruction-Following Models Need for Efficient Generation", 2024.
    """

    name: Literal["prefixkv"] = Field(default="prefixkv", description="The press's name.")
    importance: AnyImportance = Field(
        default=Received(share="layer", first=4, recent=1), description="What tokens are worth: a name, or a mapping with its fields."
    )
    allocator: AnyAllocator = Field(default=PrefixkvBudgets(), description="How many each layer and head may keep: a name, or a mapping with its fields.")
