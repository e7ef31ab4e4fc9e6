"""WindowKV's importance: stretches of neighbouring tokens, chosen once for several layers."""

from typing import Literal

from pydantic import Field

from curate.compression.windowed import LastWindow, Pool, Share


class Chunks(LastWindow):
    """Stretches of 8 tokens, each worth what the last queries pay it on average; all heads of 8 layers keep what the first of these chooses.

    For a stretch C, s_C = mean_h mean of the (top) largest of mean_q softmax(scale q_h k)_j, j in C. The paper's classifier of prompts has two answers,
    chosen here by the fields: "average" is the default; "max", for questions about one place of the text, is `window: 32` with `chunk_top: 4`.
    The budget is used up, so that the last stretch taken may be cut; the public code leaves it out. Bad where the layers of a group want other tokens.
    Zuo et al., "WindowKV: Task-Adaptive Group-Wise KV Cache Window Selection for Efficient LLM Inference", 2025.
    """

    name: Literal["chunks"] = Field(default="chunks", description="The importance's name.")
    window: int = Field(16, ge=1, description="Last tokens of the prefix whose queries are asked; they are kept before all others, and count.")
    pool: Pool = Field("none", description="Smoothing along the tokens, for chunks of 1: none, avg or max.")
    chunk: int = Field(8, ge=1, le=65536, description="Neighbouring tokens, counted from the first, that are kept or dropped together; 1 for each by itself.")
    share: Share = Field("layer", description="Whose query heads decide together: a key-value head's, or all of the layer's, whose heads then keep the same.")
    layer_groups: int = Field(8, ge=1, description="Neighbouring layers of which the first decides for all.")
