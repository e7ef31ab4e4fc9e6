"""DapQ: keep what tokens at the places of an answer would attend to."""

from typing import Literal

from pydantic import Field

from curate.compression.importances.pseudo_queries import PseudoQueries
from curate.compression.parts import AnyImportance
from curate.compression.token_press import TokenPress


class Dapq(TokenPress):
    """Each key-value head keeps the tokens that made-up tokens at positions n to n + N - 1 attend to most; these are the prefix's own, run again.

    s_j = mean over the N queries and the group's heads of their attention to j. Keeps B of n tokens per head, and no window of its own. One forward
    pass of N tokens more than SnapKV. Not lossless: the paper gives 46.4 of 48.4 on LongBench for B = 256 with Llama-3-8B.
    Tian et al., "Where Matters More Than What: Decoding-aligned KV Cache Compression via Position-aware Pseudo Queries", 2026.
    """

    name: Literal["dapq"] = Field(default="dapq", description="The press's name.")
    importance: AnyImportance = Field(default=PseudoQueries(), description="What a token is worth: a name, or a mapping with its fields.")
