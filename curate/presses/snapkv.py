"""SnapKV: keep what the end of the prefix attends to."""

from typing import Literal

from pydantic import Field

from curate.compression.importances.window import Window
from curate.compression.parts import AnyImportance
from curate.compression.token_press import TokenPress


class Snapkv(TokenPress):
    """Each key-value head keeps the last w tokens and those before them that the queries of the last w attend to most, smoothed along the tokens.

    s_j = avgpool_5(mean over the last w queries and the group's heads of their attention to j), j before the window. A head stores 2 B d numbers in place
    of 2 n d; B counts the window. Bad where the question comes after the prefix, as in evaluations that share one: what it asks for may be gone.
    Li et al., "SnapKV: LLM Knows What You are Looking for Before Generation", NeurIPS 2024.
    """

    name: Literal["snapkv"] = Field(default="snapkv", description="The press's name.")
    importance: AnyImportance = Field(default=Window(), description="What a token is worth: a name, or a mapping with its fields.")
