"""Keep all tokens in few bits, with their outliers exact and a few directions of the error (GEAR)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from curate.compression.parts import Action

if TYPE_CHECKING:
    from torch import Tensor

    from curate.compression.corrected import Corrected
    from curate.compression.prefix import Prefix
    from curate.inference.stores import LayerStore


class Gear(Action):
    """Stores kept tokens in blocks of 64, each X^ = Q(X') + L with exact outliers: codes Q, the error's best directions L, tokens after the last block whole.

    In every vector (keys: a channel over the block; values: a token over all heads' channels), the ceil(length * s / 2) largest and smallest numbers are kept
    exactly, and are the vector's mean in X', so that they do not widen the steps. Q is `kivi` (keys in groups of `group` tokens per channel, values in groups
    of channels per token) or `kcvt` (one group per vector). L = left right^T is a projection of X - Q(X') without outliers onto `rank` directions per head and
    block, and does not touch the outliers, which the published code lets it perturb; levels are 2^b - 1 and outliers are counted by the vector's own length,
    both unlike that code. Bytes per number of 16 bits: those of the codes (kivi: b / 8 + 4 / g); per outlier 3 (keys) or 4 (values); per head and block
    2 r (64 + d). With heads of 128 channels that is 29.5 % of the cache at 2 bits and 42 % at 4. Time: a sort, and loops of a factorisation per head and block.
    Kang et al., "GEAR: An Efficient KV Cache Compression Recipe for Near-Lossless Generative Inference of LLM", 2024.
    """

    name: Literal["gear"] = Field(default="gear", description="The action's name.")
    bits: Literal[2, 3, 4, 8] = Field(2, description="Bits of a number: 2, 3, 4 or 8.")
    backbone: Literal["kivi", "kcvt"] = Field(
        "kivi", description="Numbers that share a scale: groups (kivi), or a channel of keys and a token of values (kcvt)."
    )
    group: Literal[8, 16, 32, 64] = Field(64, description="Numbers that share a scale under kivi; of channels at most a head's.")
    sparsity: float = Field(0.02, ge=0, le=1, description="Share of outliers, half of them the largest; 0 for none (GEAR-L).")
    rank: int = Field(4, ge=0, le=1024, description="Directions of the error that are kept per head and block; 0 for none.")
    later_rank: int = Field(2, ge=0, le=1024, description="The most directions of a block of generated tokens.")
    loops: int = Field(3, ge=1, le=64, description="Rounds of the iteration that finds them.")

    def store(self, prefix: "Prefix", layer: int, kept: "Sequence[Tensor]", scores: "Tensor") -> "LayerStore":
        from curate.compression.corrected import BLOCK
        from curate.compression.quantised import Residual, stored, taken

        view = prefix.layers[layer]

        def of(heads: slice, tokens: "Tensor") -> "LayerStore":
            keys, values = taken(view.keys[heads], tokens), taken(view.values[heads], tokens)
            full = keys.shape[1] // BLOCK * BLOCK
            coded = [self.corrected(numbers[:, :full], tokenwise) for numbers, tokenwise in ((keys, False), (values, True))]
            return Residual(coded[0], keys[:, full:].clone(), coded[1], values[:, full:].clone())

        return stored(kept, of)

    def corrected(self, numbers: "Tensor", tokenwise: bool) -> "Corrected":
        """Blocks of numbers (Hk, 64 N, d)."""
        from curate.compression.corrected import corrected

        group = self.group if self.backbone == "kivi" else None
        return corrected(numbers, tokenwise, self.bits, group, self.sparsity, self.rank, self.loops)
