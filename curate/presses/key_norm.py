"""Keep the tokens with the shortest keys."""

from typing import Literal

from pydantic import Field

from curate.compression.importances.key_norm import KeyNorm as ShortestKeys
from curate.compression.parts import AnyImportance
from curate.compression.token_press import TokenPress


class KeyNorm(TokenPress):
    """A baseline that needs no attention: per head the B tokens with the smallest ||k_j||.

    Bytes: 2 d B numbers per head and layer. Time: one pass over the keys. Bad for models whose key lengths say nothing, and nothing is protected, the
    newest tokens neither. Devoto et al., "A Simple and Effective L2 Norm-Based Strategy for KV Cache Compression", EMNLP 2024.
    """

    name: Literal["key_norm"] = Field(default="key_norm", description="The press's name.")
    importance: AnyImportance = Field(default=ShortestKeys(), description="What tokens are worth: a name, or a mapping with its fields.")
