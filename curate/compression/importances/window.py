"""SnapKV's importance: what the last tokens of the prefix attend to."""

from typing import Literal

from pydantic import Field

from curate.compression.windowed import LastWindow


class Window(LastWindow):
    """The attention that the last w queries pay to the tokens before them, averaged over a key-value head's query heads and smoothed along the tokens.

    s_j = avgpool_5(mean_h mean_q softmax(scale q_h k)_j) for j < n - w; the softmax is over all tokens up to the query, the window's own included.
    Where the question comes after the prefix, the window does not know it, and what it asks for may be gone.
    Li et al., "SnapKV: LLM Knows What You are Looking for Before Generation", NeurIPS 2024.
    """

    name: Literal["window"] = Field(default="window", description="The importance's name.")
