"""EMS: evict, then merge what was evicted into the kept tokens that it resembles."""

from typing import Literal

from pydantic import Field

from curate.compression.actions.merge import Merge
from curate.compression.importances.global_local import GlobalLocal
from curate.compression.parts import AnyAction, AnyImportance
from curate.compression.token_press import TokenPress


class Ems(TokenPress):
    """Keeps the last w tokens and those with the best global-local score, and merges the values of the others into the most similar kept key of the head.

    s_j = g_j / max g + l_j / max l of the mean attention from all queries that see j, and from the last w; v_c <- (s_c v_c + sum s_j v_j) / (s_c + sum s_j)
    where cos(k_j, k_c) > tau. Bytes: those of eviction, 2 d numbers per kept token and head. Only keys that look alike with their positions in merge, so that
    much is lost all the same; and a merged token gets the attention of one. Only the prefix is compressed; the paper merges while it decodes as well.
    Li et al., "EMS: Adaptive Evict-then-Merge Strategy for Head-wise KV Cache Compression Based on Global-Local Importance", arXiv:2412.08521, 2024; no code
    is published.
    """

    name: Literal["ems"] = Field(default="ems", description="The press's name.")
    importance: AnyImportance = Field(default=GlobalLocal(), description="What tokens are worth: a name, or a mapping with its fields.")
    action: AnyAction = Field(default=Merge(), description="What becomes of the others: a name, or a mapping with its fields.")
