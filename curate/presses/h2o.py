"""H2O: half of what is kept are the tokens that got most attention, half the newest."""

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from curate.compression.actions.evict import Evict
from curate.compression.allocators.uniform import Uniform
from curate.compression.heavy_hitters import HeavyHitters
from curate.compression.importances.received import Received
from curate.compression.parts import AnyImportance
from curate.compression.recent_press import RecentPress
from curate.compression.renumbered import EvictRenumbered, RenumberedSlots
from curate.compression.slots import slots_of
from curate.compression.token_press import best
from curate.errors import ConfigError

if TYPE_CHECKING:
    from curate.compression.prefix import Prefix
    from curate.inference.stores import DecodeCache, Memory


class H2o(RecentPress):
    """Heavy hitters: of B tokens per head, floor(B recent) newest ones and the largest sums of attention received among the others.

    s_j = sum_i A_ij over all queries and the heads of a group. While it decodes, sums go on, and each new token beyond B evicts the lightest that is
    not among the newest; B is fixed in tokens by the prefix. That is done with H2O's own parts only (received, uniform, evict):
    with others the prefix is compressed, and generated tokens are added.

    Positions stay as they were. With `renumber`, the published code's position rolling, the token in slot s of c in the order of time counts as c - 1 - s
    tokens before the newest, at every step anew: its key is turned on by the difference. A stored prefix's tokens stand at positions n - c to n - 1 (c of
    each head), and what follows behind them at n, n + 1, ...; sums of the prefix are still those of its own positions. For eviction, and models with
    plain rotary positions, only; in 16 bits a moved key is rounded once more.

    Bytes: 2 d B numbers per head and layer; while decoding B + 1 slots, and 12 more bytes each. Time: another half n^2 of attention products for the sums;
    with `renumber` all keys are turned at every step, by B d sines and cosines per head: on a CPU many times the attention itself. Bad where what matters
    late was not looked at early, since sums favour early tokens.
    Zhang et al., "H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large Language Models", NeurIPS 2023.
    """

    name: Literal["h2o"] = Field(default="h2o", description="The press's name.")
    importance: AnyImportance = Field(default=Received(), description="What tokens are worth: a name, or a mapping with its fields.")
    renumber: bool = Field(False, description="Whether kept tokens count as a text without gaps, in place of their own positions.")

    @model_validator(mode="after")
    def _only_evicted(self) -> Self:
        if self.renumber and not isinstance(self.action, Evict):
            raise ConfigError(f"h2o.renumber moves what is kept as it is, but action {self.action.name} stores it otherwise; use evict, or renumber: false")
        return self

    def compress(self, prefix: "Prefix") -> "Memory":
        if not self.renumber:
            return super().compress(prefix)
        return self.model_copy(update={"action": EvictRenumbered(), "renumber": False}).compress(prefix)

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
        slots = slots_of(view, kept)
        if self.renumber:
            slots = RenumberedSlots.of(slots, prefix)
        return HeavyHitters(slots, sums.gather(1, kept), capacity, int(capacity * self.recent))
