"""CompressKV: keep what the heads attend to that retrieve, and more of it in layers that suffer more."""

from typing import Literal

from pydantic import Field

from curate.compression.allocators.output_error import OutputError
from curate.compression.importances.retrieval_heads import RetrievalHeads
from curate.compression.parts import AnyAllocator, AnyImportance
from curate.compression.token_press import TokenPress


class Compresskv(TokenPress):
    """All key-value heads of a layer keep the last 8 tokens and those that the layer's 4 best retrieving heads attend to from there; layers keep unlike many.

    s_j = avgpool_5(mean over those heads and the last 8 queries of their attention to j); B_l = 32 + a_l (L B - 32 L) with a_l each layer's share of the
    error that 32 tokens made. The budget counts the window, and the total is exact. Heads and shares are calibrated on the base model, once.
    Bad without a model that retrieves, and, like all that ask a window, where the question comes after the prefix.
    Lin et al., "CompressKV: Semantic Retrieval Heads Know What Tokens are Not Important Before Generation", 2025.
    """

    name: Literal["compresskv"] = Field(default="compresskv", description="The press's name.")
    importance: AnyImportance = Field(default=RetrievalHeads(), description="What a token is worth: a name, or a mapping with its fields.")
    allocator: AnyAllocator = Field(default=OutputError(), description="How many each layer and head may keep: a name, or a mapping with its fields.")
