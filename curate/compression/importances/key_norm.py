"""A token is worth more the shorter its key is."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from curate.compression.parts import Importance

if TYPE_CHECKING:
    from torch import Tensor

    from curate.compression.prefix import Prefix


class KeyNorm(Importance):
    """s_j = -||k_j||, (Hk, n), from the keys alone: no query is read, and rotating a key to its position leaves its length as it is.

    A regularity of trained decoders, not a property of attention: nothing ties a key's length to what later queries ask for. n d multiplications per head.
    Devoto et al., "A Simple and Effective L2 Norm-Based Strategy for KV Cache Compression", EMNLP 2024.
    """

    name: Literal["key_norm"] = Field(default="key_norm", description="The importance's name.")

    def score(self, prefix: "Prefix") -> "list[Tensor]":
        return [-view.keys.float().norm(dim=-1) for view in prefix.layers]
