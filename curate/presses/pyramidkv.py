"""PyramidKV: SnapKV's scores with budgets that fall from the first layer to the last."""

from typing import Literal

from pydantic import Field

from curate.compression.allocators.pyramid import Pyramid
from curate.compression.importances.window import Window
from curate.compression.parts import AnyAllocator, AnyImportance
from curate.compression.token_press import TokenPress


class Pyramidkv(TokenPress):
    """Later layers look at fewer tokens, so they keep fewer: the window's attention ranks tokens, a line from the first layer to the last numbers them.

    Layer l keeps w + max - l (max - min) / (L - 1), with min = (B - w) / 20 and max = 2 (B - w) - min, L B in total exactly. Bytes: 2 Hk d L B numbers in
    all, unevenly over layers. Time: w queries per layer. Bad where deep layers spread their attention, and, like SnapKV, for questions that come
    after the prefix. Cai et al., "PyramidKV: Dynamic KV Cache Compression based on Pyramidal Information Funneling", 2024.
    """

    name: Literal["pyramidkv"] = Field(default="pyramidkv", description="The press's name.")
    importance: AnyImportance = Field(default=Window(), description="What tokens are worth: a name, or a mapping with its fields.")
    allocator: AnyAllocator = Field(default=Pyramid(), description="How many each layer and head may keep: a name, or a mapping with its fields.")
