"""ThinK: all tokens, but of older keys only the channels that queries look at."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from curate.compression.actions.think import Think as ThinKeys
from curate.compression.importances.key_norm import KeyNorm
from curate.compression.parts import AnyAction, AnyImportance
from curate.compression.token_press import TokenPress


class Think(TokenPress):
    """Keeps every token and drops 40 % of the channels of its key, but for the last 32 tokens.

    A channel is worth mean(q_c^2) mean(k_c^2) per key-value head. Bytes: drop / 2 less of all but the last tokens, physically. To be put on top of eviction
    (`keep`, with another importance) rather than used alone. Bad for prefixes whose question has not been seen: the last 32 queries choose.
    Xu et al., "ThinK: Thinner Key Cache by Query-Driven Pruning", 2024.
    """

    whole: ClassVar[Mapping[str, Any] | None] = {"action": {"name": "think", "drop": 0.0}}

    name: Literal["think"] = Field(default="think", description="The press's name.")
    keep: float = Field(1.0, gt=0, le=1, description="Share of the tokens that are kept at all; the others are evicted.")
    importance: AnyImportance = Field(default=KeyNorm(), description="What tokens are worth, where some are evicted: a name, or a mapping with its fields.")
    action: AnyAction = Field(default=ThinKeys(), description="How the kept tokens are stored: a name, or a mapping with its fields.")
