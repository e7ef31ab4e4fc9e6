"""H2O: half of what is kept are the tokens that got most attention, half the newest."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from curate.compression.actions.evict import Evict
from curate.compression.allocators.uniform import Uniform
from curate.compression.heavy_hitters import HeavyHitters
from curate.compression.importances.received import Received
from curate.compression.parts import AnyImportance
from curate.compression.recent_press import RecentPress
from curate.compression.slots import slots_of
from curate.compression.token_press import best

if TYPE_CHECKING:
    from curate.compression.prefix import Prefix
    from curate.inference.stores import DecodeCache


class H2o(RecentPress):
    """Heavy hitters: of B tokens per head, floor(B recent) newest ones and the largest sums of attention received among the others.

    s_j = sum_i A_ij over all queries and the heads of a group. While it decodes, sums go on, and each new token beyond B evicts the lightest that is
    not among the newest, at original positions; B is fixed in tokens by the prefix. That is done with H2O's own parts only (received, uniform, evict):
    with others the prefix is compressed, and generated tokens are added. Bytes: 2 d B numbers per head and layer; while decoding B + 1 slots, and 12 more
    bytes each. Time: another half n^2 of attention products for the sums. Bad where what matters late was not looked at early, since sums favour early tokens.
    Zhang et al., "H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large Language Models", NeurIPS 2023.
    """

    name: Literal["h2o"] = Field(default="h2o", description="The press's name.")
    importance: AnyImportance = Field(default=Received(), description="What tokens are worth: a name, or a mapping with its fields.")

    def decoder(self, prefix: "Prefix", layer: int) -> "DecodeCache | None":
        import torch

        if (self.importance, self.allocator, self.action) != (Received(), Uniform(), Evict()):
            return None
        view = prefix.layers[layer]
        sums, n = Received().scored(view), len(prefix)
        capacity = self.tokens or self.budget(prefix)
        size = min(capacity, n)
        newest = torch.arange(n, device=sums.device) >= n - int(size * self.recent)
        kept = torch.stack([best(row, newest, size) for row in sums])
        return HeavyHitters(slots_of(view, kept), sums.gather(1, kept), capacity, int(capacity * self.recent))
