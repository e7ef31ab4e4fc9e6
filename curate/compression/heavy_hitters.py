"""H2O while it decodes: every new token adds its attention to the sums, and the lightest token that is not recent goes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from curate.compression.slots import Slots

if TYPE_CHECKING:
    from torch import Tensor


class HeavyHitters:
    """One layer's cache of at most `capacity` tokens per key-value head; the newest `recent` positions are never evicted.

    s_j += sum over the group's queries of softmax(scale q k)_j over what is live, the newcomer among it; then, if more than `capacity` live, the
    smallest s_j of the older ones goes, of equal ones the latest. The step that finds a token the lightest still attends to it; afterwards it is
    gone for good. Between two steps one slot per head holds the evicted token until the next is written over it.
    """

    def __init__(self, slots: Slots, sums: "Tensor", capacity: int, recent: int) -> None:
        self.slots = slots
        self.sums = sums.clone()  # (Hk, s) float32
        self.capacity = capacity
        self.recent = recent
        self.free: Tensor | None = None  # (Hk,) the slot of each head whose token was evicted

    def attend(self, query: "Tensor", key: "Tensor", value: "Tensor", position: int, scale: float) -> "Tensor":
        """(Hk, G, d) for queries (Hk, G, d), and the newest token's key and value (Hk, 1, d); as `DecodeCache`."""
        self._take_in(key, value, position)
        output, weights = self.slots.attend(query, scale)
        self.sums += weights.sum(1)
        if self.sums.shape[1] > self.capacity:
            self.free = self._lightest(position)
        return output

    @property
    def tensors(self) -> "Sequence[Tensor]":
        return [self.slots.keys, self.slots.values, self.slots.positions, self.sums, *([] if self.free is None else [self.free])]

    def _take_in(self, key: "Tensor", value: "Tensor", position: int) -> None:
        import torch

        if self.free is None:
            self.slots.append(key, value, position)
            self.sums = torch.nn.functional.pad(self.sums, (0, 1))
            return
        self.slots.put(self.free, key, value, position)
        self.sums.scatter_(1, self.free.unsqueeze(-1), 0)

    def _lightest(self, newest: int) -> "Tensor":
        """(Hk,) the slot with the smallest sum of those that are not recent; of equal sums, the latest position."""
        old = self.slots.positions <= newest - self.recent
        sums = self.sums.masked_fill(~old, float("inf"))
        return self.slots.positions.masked_fill(sums != sums.amin(1, keepdim=True), -1).argmax(1)
