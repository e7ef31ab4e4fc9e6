"""WindowKV: keep whole stretches of text, the same for several layers."""

from typing import Literal

from pydantic import Field

from curate.compression.allocators.pyramid import Pyramid
from curate.compression.importances.chunks import Chunks
from curate.compression.parts import AnyAllocator, AnyImportance
from curate.compression.token_press import TokenPress


class Windowkv(TokenPress):
    """All heads of 8 layers keep the last 16 tokens and those stretches of 8 that the first of these layers pays most attention to from there.

    s_C = mean over all heads, the last 16 queries and the tokens of C of their attention. The budget counts the last tokens; early groups of 8 layers get
    more, from 1.43 to 0.57 of the mean, and with up to 8 layers all get the same. What the paper chooses by a classifier of prompts are fields of the
    importance: see there. One layer in 8 is scored.
    Bad where layers of a group want different tokens, and where what matters is single tokens far apart.
    Zuo et al., "WindowKV: Task-Adaptive Group-Wise KV Cache Window Selection for Efficient LLM Inference", 2025.
    """

    name: Literal["windowkv"] = Field(default="windowkv", description="The press's name.")
    importance: AnyImportance = Field(default=Chunks(), description="What a token is worth: a name, or a mapping with its fields.")
    allocator: AnyAllocator = Field(
        default=Pyramid(beta=1.75, window=16, layer_groups=8), description="How many each layer and head may keep: a name, or a mapping with its fields."
    )
