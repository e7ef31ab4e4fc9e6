"""MiKV while it decodes: the newcomer is important, and the lightest token that is not recent is put into few bits, for good."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from curate.compression.growing_codes import TokenCodes
from curate.compression.quantised import Whole, balanced, unbalanced
from curate.compression.together import Blocks, Grid, Tail, Together


@dataclass(frozen=True)
class Unbalanced:
    """Coded keys (Hk, n, d), decoded to what they were before they were multiplied by the balancer (Hk, d)."""

    keys: Blocks
    balancer: Tensor | None

    def decoded(self) -> Tensor:
        keys = self.keys.decoded()
        return keys if self.balancer is None else unbalanced(keys, self.balancer.unsqueeze(1))

    @property
    def tensors(self) -> Sequence[Tensor]:
        return [*self.keys.tensors, *([] if self.balancer is None else [self.balancer])]


class Low:
    """The tokens of one layer that are not important: coded, or whole where 16 bits are asked for; of keys, multiplied by the balancer."""

    def __init__(self, keys: Tensor, values: Tensor, balancer: Tensor | None, bits: int, group: int) -> None:
        self.balancer = balancer  # (Hk, d)
        self.bits, self.group = bits, group
        self.keys, self.values = in_few(self._balanced(keys), bits, group), in_few(values, bits, group)

    def take(self, key: Tensor, value: Tensor) -> None:
        """One more token per head, (Hk, 1, d) each."""
        self.keys = self.keys.joined(in_few(self._balanced(key), self.bits, self.group))
        self.values = self.values.joined(in_few(value, self.bits, self.group))

    def read(self) -> tuple[Tensor, Tensor]:
        """Keys and values (Hk, m, d)."""
        return Unbalanced(self.keys, self.balancer).decoded(), self.values.decoded()

    @property
    def tensors(self) -> Sequence[Tensor]:
        return [*self.keys.tensors, *self.values.tensors, *([] if self.balancer is None else [self.balancer])]

    def _balanced(self, keys: Tensor) -> Tensor:
        return keys if self.balancer is None else balanced(keys, self.balancer.unsqueeze(1))


def in_few(numbers: Tensor, bits: int, group: int) -> Blocks:
    """Numbers (Hk, n, d) in so many bits; 16 leave them as they are."""
    return Whole(numbers) if bits == 16 else TokenCodes.of(numbers, bits, group)


class Demoting:
    """One layer's cache of one sequence: `size` of the tokens so far are whole, as many as that says for their number, and all others are in few bits.

    s_j += sum over the group's queries of their attention to j, for tokens that are whole. A token enters whole; when there is one too many, the smallest
    s_j of those that are not among the newest `recent` of them is coded, of equal ones the latest, and never restored. The step that demotes a token still
    attends to it as it was.
    """

    def __init__(self, keys: Tensor, values: Tensor, high: Tensor, sums: Tensor, low: Low, size: Callable[[int], tuple[int, int]]) -> None:
        self.keys, self.values = (states.gather(1, high.unsqueeze(-1).expand(-1, -1, states.shape[-1])) for states in (keys, values))
        self.positions = high.clone()  # (Hk, m)
        self.sums = sums.gather(1, high)  # (Hk, m) float32
        self.low, self.size = low, size

    def attend(self, query: Tensor, key: Tensor, value: Tensor, position: int, scale: float) -> Tensor:
        """(Hk, G, d) for queries (Hk, G, d), and the newest token's key and value (Hk, 1, d); as `DecodeCache`."""
        self.keys, self.values = torch.cat([self.keys, key], 1), torch.cat([self.values, value], 1)
        self.positions = torch.nn.functional.pad(self.positions, (0, 1), value=position)
        low_keys, low_values = self.low.read()
        logits = (query @ torch.cat([self.keys, low_keys], 1).transpose(-1, -2)) * scale
        weights = logits.softmax(-1, dtype=torch.float64 if logits.dtype == torch.float64 else torch.float32)
        output = weights.to(value.dtype) @ torch.cat([self.values, low_values], 1)
        self.sums = torch.nn.functional.pad(self.sums, (0, 1)) + weights[..., : self.keys.shape[1]].sum(1).float()
        whole, recent = self.size(position + 1)
        while self.keys.shape[1] > whole:
            self._demote(recent)
        return output

    def beside(self, others: Sequence[Self], answers: Sequence[int]) -> "DemotingTogether":
        """One cache for answers to several prompts; as `Joins`."""
        return DemotingTogether([self, *others], answers)

    @property
    def tensors(self) -> Sequence[Tensor]:
        return [self.keys, self.values, self.positions, self.sums, *self.low.tensors]

    def _demote(self, recent: int) -> None:
        newest = self.positions.sort(1, descending=True).values[:, recent].unsqueeze(1)  # the newest one that may go
        sums = self.sums.masked_fill(self.positions > newest, float("inf"))
        victim = self.positions.masked_fill(sums != sums.amin(1, keepdim=True), -1).argmax(1, keepdim=True)
        places = victim.unsqueeze(-1).expand(-1, -1, self.keys.shape[-1])
        self.low.take(self.keys.gather(1, places), self.values.gather(1, places))
        stays = torch.ones_like(self.positions, dtype=torch.bool).scatter_(1, victim, False)
        heads = len(self.positions)
        self.keys, self.values = (states[stays].view(heads, -1, states.shape[-1]) for states in (self.keys, self.values))
        self.positions, self.sums = self.positions[stays].view(heads, -1), self.sums[stays].view(heads, -1)


class DemotingTogether(Together):
    """MiKV for many answers: whole tokens in places that are filled again, and those that were demoted while the answers grew."""

    def __init__(self, caches: Sequence[Demoting], answers: Sequence[int]) -> None:
        super().__init__([([Unbalanced(cache.low.keys, cache.low.balancer)], [cache.low.values]) for cache in caches], answers)
        kinds = [[cache.keys, cache.values, cache.positions, cache.sums] for cache in caches]
        self.whole = Tail(list(zip(*kinds, strict=True)), answers)
        self.size = caches[0].size
        each = [cache for cache, count in zip(caches, answers, strict=True) for _ in range(count)]
        self.seen = [cache.keys.shape[1] + cache.low.keys.tensors[0].shape[1] for cache in each]  # tokens of each row
        balancers = [cache.low.balancer for cache in each if cache.low.balancer is not None]
        self.balancer = torch.stack(balancers, 1).unsqueeze(2) if balancers else None  # (Hk, B, 1, d)
        bits, group = caches[0].low.bits, caches[0].low.group
        code = [lambda numbers: in_few(numbers[:, :, 0], bits, group)] * 2
        self.demoted = Grid(len(each), code)

    def enter(self, key: Tensor, value: Tensor) -> None:
        newest = torch.tensor(self.seen, device=key.device).view(1, -1, 1).expand(len(key), -1, -1)
        self.whole.append(key, value, newest, torch.zeros_like(newest, dtype=torch.float32))
        self.seen = [count + 1 for count in self.seen]

    def own_logits(self, query: Tensor) -> list[Tensor]:
        low = [keys if self.balancer is None else unbalanced(keys, self.balancer) for keys in self.demoted.read(0)]
        return [query @ keys.transpose(-1, -2) for keys in (*low, self.whole.states(0))]

    def own_values(self) -> list[Tensor]:
        return [*self.demoted.read(1), self.whole.states(1)]

    def key_counts(self, row: int) -> list[int]:
        return [*self.demoted.counts(row), self.whole.filled[row]]

    def value_counts(self, row: int) -> list[int]:
        return self.key_counts(row)

    def fold(self, shares: Sequence[Tensor]) -> None:
        self.whole.states(3).add_(shares[-1].sum(2).float())
        sizes = {seen: self.size(seen) for seen in set(self.seen)}
        while rows := [row for row, seen in enumerate(self.seen) if self.whole.filled[row] > sizes[seen][0]]:
            self._demote(rows, [sizes[self.seen[row]][1] for row in rows])

    def keep(self, rows: Tensor) -> None:
        super().keep(rows)
        self.seen = [self.seen[row] for row in rows.tolist()]
        self.balancer = None if self.balancer is None else self.balancer[:, rows]

    @property
    def own(self) -> Sequence[Grid | Tail]:
        return [self.whole, self.demoted]

    @property
    def tensors(self) -> Sequence[Tensor]:
        return [*super().tensors, *([] if self.balancer is None else [self.balancer])]

    def _demote(self, rows: Sequence[int], recent: Sequence[int]) -> None:
        """Of each of these rows, the lightest token that is not among its newest `recent`."""
        mine = torch.tensor(rows, device=self.whole.held[0].device)
        held = torch.tensor([self.whole.filled[row] for row in rows], device=mine.device).view(1, -1, 1)
        positions, sums = self.whole.states(2)[:, mine], self.whole.states(3)[:, mine]
        positions = positions.masked_fill(torch.arange(positions.shape[2], device=mine.device) >= held, -1)
        last = torch.tensor(recent, device=mine.device).view(1, -1, 1).expand(len(positions), -1, -1)
        newest = positions.sort(2, descending=True).values.gather(2, last)  # the newest one that may go
        sums = sums.masked_fill((positions > newest) | (positions < 0), float("inf"))
        victim = positions.masked_fill(sums != sums.amin(2, keepdim=True), -1).argmax(2)
        key, value, *_ = self.whole.swap_out(rows, victim)
        self.demoted.add(rows, [key if self.balancer is None else balanced(key, self.balancer[:, mine]), value])
