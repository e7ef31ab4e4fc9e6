"""PyramidKV's budgets: many tokens in the first layers, few in the last."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from curate.compression.parts import Allocator
from curate.compression.totals import exact_total
from curate.core import Integers

if TYPE_CHECKING:
    from torch import Tensor

    from curate.compression.prefix import Prefix


class Pyramid(Allocator):
    """Layer l of L keeps w + max - l (max - min) / (L - 1) tokens, rounded by largest remainder to L B in total; all heads of a layer the same.

    min = (B - w) / beta and max = 2 (B - w) - min; where max > n - w, max = n - w and min is raised to match. Public code rounds the step down instead,
    which leaves the total above L B, and keeps B everywhere if n < 2 (B - w), where this goes on to flatten the pyramid as B approaches n.
    With `layer_groups`, L counts steps instead of layers: WindowKV's budgets are beta 1.75 with groups of 8 layers.
    Cai et al., "PyramidKV: Dynamic KV Cache Compression based on Pyramidal Information Funneling", 2024.
    """

    name: Literal["pyramid"] = Field(default="pyramid", description="The allocator's name.")
    beta: float = Field(20.0, ge=1, description="The last layer keeps 1/beta of an even share beyond the window; at 1 all layers keep the same.")
    window: int = Field(64, ge=0, description="Tokens that every layer keeps apart from its part of the pyramid, as many as the importance protects.")
    layer_groups: int = Field(1, ge=1, description="Neighbouring layers that stand on one step of the pyramid, up to a token of rounding.")

    def allocate(self, prefix: "Prefix", scores: "Sequence[Tensor]", tokens: int) -> Integers:
        n, layers = len(prefix), len(scores)
        average = min(tokens, n)
        window = min(self.window, average)
        low = (average - window) / self.beta
        high = min(2 * (average - window) - low, n - window)
        step = np.arange(layers) // self.layer_groups
        steps = int(step[-1]) + 1
        line = np.linspace(high, 2 * (average - window) - high, steps) if steps > 1 else np.array([average - window])
        shares = window + line[step]
        return np.repeat(exact_total(shares, layers * average, window, n)[:, None], len(scores[0]), 1)
