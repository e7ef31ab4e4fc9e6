"""TreeKV: a cursor that sweeps over the kept tokens and drops one of two neighbours, so that what is kept thins out smoothly with age."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from curate.compression.slots import Slots
from curate.core import Integers

if TYPE_CHECKING:
    from torch import Tensor

    from curate.compression.prefix import LayerView


def swept(scores: "NDArray[np.float32]", capacity: int) -> Integers:
    """(R, capacity) ascending: what is left in room for `capacity` of N items that came one by one, with scores (R, N).

    Each item beyond the capacity makes the cursor look at its slot and the next: the item with the smaller score goes, of equal ones the first; the
    slots after it move up, and the cursor moves on by one, back to the first slot after the last. R N capacity steps of work, in numpy.
    """
    rows = np.arange(len(scores))
    kept = np.tile(np.arange(capacity + 1), (len(scores), 1))
    for newest in range(capacity, scores.shape[1]):
        cursor = (newest - capacity) % capacity
        kept[:, capacity] = newest
        first, second = kept[:, cursor], kept[:, cursor + 1]
        kept[:, cursor] = np.where(scores[rows, second] >= scores[rows, first], second, first)
        kept[:, cursor + 1 : capacity] = kept[:, cursor + 2 :]
    return kept[:, :capacity]


def tree_kept(averages: "NDArray[np.float32]", sinks: int, managed: int, recent: int, block: int) -> Integers:
    """(R, sinks + managed + recent) ascending, of averages (R, n) with n no less: first tokens, last tokens, and what the sweep leaves between.

    The sweep works on whole blocks of `block` tokens, with the mean of their averages; what is then missing, less than a block if there are enough
    blocks, are the newest tokens that are not kept yet.
    """
    rows, n = averages.shape
    middle = averages[:, sinks : n - recent]
    blocks, room = middle.shape[1] // block, managed // block  # no fewer blocks than there is room for, as n is no less than what is kept
    kept = np.zeros((rows, n), bool)
    kept[:, :sinks] = kept[:, n - recent :] = True
    if room:
        means = middle[:, : blocks * block].reshape(rows, blocks, block).mean(2)
        survivors = swept(means, room)
        tokens = (sinks + survivors[..., None] * block + np.arange(block)).reshape(rows, -1)
        np.put_along_axis(kept, tokens, True, 1)
    missing = sinks + managed + recent - int(kept[0].sum())
    newest = np.argsort(np.where(kept, -1, np.arange(n)), axis=1)[:, n - missing :]
    np.put_along_axis(kept, newest, True, 1)
    return np.nonzero(kept)[1].reshape(rows, -1)


def observed(view: "LayerView", window: int) -> "tuple[Tensor, Tensor]":
    """((Hk, n), (n,)) float32: attention that every token got from the last `window` queries, mean over the group, and how many of these saw it."""
    import torch

    from curate.compression.prefix import per_head, window_attention

    n = view.keys.shape[1]
    last = torch.arange(max(0, n - window), n, device=view.keys.device)
    seen = window_attention(view.queries[:, last], view.keys, view.scale, last).sum(1)
    counts = (n - torch.arange(n, device=view.keys.device)).clamp(max=len(last))
    return per_head(seen, view.groups), counts.float()


class TreeEviction:
    """One layer's cache of at most `capacity` tokens per key-value head: `sinks` first ones, the newest, and `managed` between for the tree.

    S_j += mean over the group's queries of softmax(scale q k)_j, C_j += 1; when there is one token too many, the cursor drops the smaller of S / C of
    its slot and the next, as in `swept`. Slots are in the order of time. The cursor stands at the same slot for all heads, so that after the survivor
    was put into the first of the two, the second is free for all: a step copies d numbers per head, whatever the capacity.
    """

    def __init__(self, slots: Slots, sums: "Tensor", counts: "Tensor", sinks: int, managed: int, recent: int) -> None:
        self.slots = slots
        self.sums = sums.clone()  # (Hk, s) float32
        self.counts = counts.clone()  # (Hk, s) float32
        self.sinks, self.managed = sinks, managed
        self.capacity = sinks + managed + recent
        self.order = list(range(sums.shape[1]))  # the slots of live tokens, in the order of time
        self.free: int | None = None
        self.cursor = 0

    def attend(self, query: "Tensor", key: "Tensor", value: "Tensor", position: int, scale: float) -> "Tensor":
        """(Hk, G, d) for queries (Hk, G, d), and the newest token's key and value (Hk, 1, d); as `DecodeCache`."""
        self._take_in(key, value, position)
        output, weights = self.slots.attend(query, scale)
        self.sums += weights.mean(1)
        self.counts += 1
        if len(self.order) > self.capacity:
            self._evict()
        return output

    @property
    def tensors(self) -> "Sequence[Tensor]":
        return [self.slots.keys, self.slots.values, self.slots.positions, self.sums, self.counts]

    def _take_in(self, key: "Tensor", value: "Tensor", position: int) -> None:
        import torch

        if self.free is None:
            self.order.append(self.sums.shape[1])
            self.slots.append(key, value, position)
            self.sums = torch.nn.functional.pad(self.sums, (0, 1))
            self.counts = torch.nn.functional.pad(self.counts, (0, 1))
            return
        self.order.append(self.free)
        self.slots.put(torch.full((len(key),), self.free, device=key.device), key, value, position)
        self.sums[:, self.free] = self.counts[:, self.free] = 0

    def _evict(self) -> None:
        first, second = self.order[self.sinks + self.cursor], self.order[self.sinks + self.cursor + 1]
        averages = self.sums / self.counts
        later = averages[:, second] >= averages[:, first]
        for tensor in self.tensors:
            stays = later.reshape(-1, *[1] * (tensor.ndim - 2))
            tensor[:, first] = tensor[:, second].where(stays, tensor[:, first])
        self.free = self.order.pop(self.sinks + self.cursor + 1)
        self.cursor = (self.cursor + 1) % self.managed
