"""TreeKV: first tokens, newest tokens, and between them a tree that thins out with age."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from curate.compression.renumbered import RenumberedSlots, closed_up, renumbering
from curate.compression.slots import slots_of
from curate.compression.token_press import budget_of
from curate.compression.tree_eviction import TreeEviction, observed, tree_kept
from curate.interfaces import Press

if TYPE_CHECKING:
    from torch import Tensor

    from curate.compression.prefix import LayerView, Prefix
    from curate.inference.stores import DecodeCache, Memory


class Treekv(Press):
    """Of c tokens per head, floor(c tree) are chosen by a sweep that lets neighbours compete, `sinks` are the first, and the others the newest.

    Decoding: S_j += attention, C_j += 1; at c + 1 tokens the smaller of S / C in the cursor's slot and the next goes (of equal ones the first), and the
    cursor moves on by one. So gaps double with age where scores are alike, and no stretch of the past is emptied. A prefix is swept in whole blocks,
    each worth the mean attention of its tokens in the last `block` queries; what blocks leave over goes to the newest tokens.

    Positions stay as they were. With `renumber`, as in the paper, slot s of c counts as c - 1 - s tokens before the newest, at every step anew: its key is
    turned on by the difference. A stored prefix's tokens stand at positions n - c to n - 1, and what follows behind them at n, n + 1, ...; scores of the
    prefix are still those of its own positions. For models with plain rotary positions only; in 16 bits a moved key is rounded once more.

    Bytes: 2 d c numbers per head and layer; while decoding c + 1 slots, and 16 more bytes each. Time: `block` queries per layer and n / block steps of
    numpy; with `renumber` all keys are turned at every step, by c d sines and cosines per head: on a CPU many times the attention itself. Bad where one
    old passage matters: it must win every contest.
    He et al., "TreeKV: Smooth Key-Value Cache Compression with Tree Structures", 2025.
    """

    name: Literal["treekv"] = Field(default="treekv", description="The press's name.")
    keep: float = Field(0.25, gt=0, le=1, description="Share of the prefix's tokens that are kept in every layer and head (rounded up).")
    tokens: int | None = Field(None, ge=1, description="Kept tokens in every layer and head, in place of the share.")
    tree: float = Field(0.5, gt=0, le=1, description="Share of the kept tokens that the tree chooses (rounded down, at least one).")
    sinks: int = Field(4, ge=0, description="First tokens that are always kept, where the tree leaves room.")
    block: int = Field(16, ge=1, description="Tokens of a prefix that are kept or dropped together, and last queries that decide which.")
    renumber: bool = Field(False, description="Whether kept tokens count as a text without gaps, in place of their own positions.")

    def compress(self, prefix: "Prefix") -> "Memory":
        from curate.inference.stores import Memory, Plain

        averages = [sums / counts for sums, counts in (observed(view, self.block) for view in prefix.layers)]
        slots = [slots_of(view, kept) for view, kept in zip(prefix.layers, self._kept(prefix, averages), strict=True)]
        if self.renumber:
            rotary = renumbering(prefix)
            return Memory([closed_up(layer, len(prefix), rotary) for layer in slots], len(prefix))
        return Memory([Plain(layer.keys, layer.values) for layer in slots], len(prefix))

    def decoder(self, prefix: "Prefix", layer: int) -> "DecodeCache | None":
        view: LayerView = prefix.layers[layer]
        sums, counts = observed(view, self.block)
        kept = self._kept(prefix, [sums / counts])[0]
        slots = slots_of(view, kept)
        if self.renumber:
            slots = RenumberedSlots.of(slots, prefix)
        return TreeEviction(slots, sums.gather(1, kept), counts[kept], *self._divided(self._capacity(prefix)))

    def _capacity(self, prefix: "Prefix") -> int:
        return budget_of(self.keep, self.tokens, len(prefix))

    def _divided(self, capacity: int) -> tuple[int, int, int]:
        """How many are sinks, of the tree, and the newest."""
        managed = max(1, int(capacity * self.tree))
        sinks = min(self.sinks, capacity - managed)
        return sinks, managed, capacity - managed - sinks

    def _kept(self, prefix: "Prefix", averages: "Sequence[Tensor]") -> "list[Tensor]":
        """Per layer (Hk, min(c, n)) the tokens that are kept, ascending; all layers are swept at once."""
        import torch

        device, n = averages[0].device, len(prefix)
        capacity = self._capacity(prefix)
        if capacity >= n:
            return [torch.arange(n, device=device).expand(len(layer), -1) for layer in averages]
        rows = tree_kept(torch.cat(list(averages)).cpu().numpy(), *self._divided(capacity), self.block)
        return list(torch.from_numpy(rows).to(device).split([len(layer) for layer in averages]))
