"""EMS: evict, then merge what was evicted into the kept tokens that it resembles."""

from typing import Literal

from pydantic import Field

from curate.compression.actions.merge import Merge
from curate.compression.importances.received import Received
from curate.compression.parts import AnyAction, AnyImportance
from curate.compression.recent_press import RecentPress


class Ems(RecentPress):
    """Keeps the newest tokens and H2O's heavy hitters, half each, and merges the values of the others into the most similar kept key of the head.

    v_c <- (s_c v_c + sum s_j v_j) / (s_c + sum s_j) where cos(k_j, k_c) > tau. Bytes: those of eviction, 2 d numbers per kept token and head. Only keys that
    look alike with their positions in merge, so that much is lost all the same; and a merged token gets the attention of one. The published score adds a
    local part to the attention received, and no code is published: this is the action, with H2O's score.
    Li et al., "EMS: Adaptive Evict-then-Merge Strategy for Head-wise KV Cache Compression Based on Global-Local Importance", 2024.
    """

    name: Literal["ems"] = Field(default="ems", description="The press's name.")
    importance: AnyImportance = Field(default=Received(), description="What tokens are worth: a name, or a mapping with its fields.")
    action: AnyAction = Field(default=Merge(), description="What becomes of the others: a name, or a mapping with its fields.")
