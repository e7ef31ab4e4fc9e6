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


class Tier:
    """Tokens of one layer that are stored alike: in so many bits, keys multiplied by the balancer, or as they are where 16 bits are asked for."""

    def __init__(self, keys: Tensor, values: Tensor, balancer: Tensor | None, bits: int, group: int) -> None:
        self.balancer = None if bits == 16 else balancer  # (Hk, d)
        self.bits, self.group = bits, group
        self.keys, self.values = in_few(self.scaled(keys), bits, group), in_few(values, bits, group)

    def scaled(self, keys: Tensor) -> Tensor:
        """Keys (Hk, n, d), multiplied as those that are stored here."""
        return keys if self.balancer is None else balanced(keys, self.balancer.unsqueeze(1))

    def take(self, key: Tensor, value: Tensor) -> None:
        """One more token per head, (Hk, 1, d) each, the key scaled."""
        self.keys = self.keys.joined(in_few(key, self.bits, self.group))
        self.values = self.values.joined(in_few(value, self.bits, self.group))

    def let_go(self, token: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
        """What is held of a token (Hk, 1) per head, as (Hk, 1, d) each, the key scaled; go on with the others (Hk, n - 1) alone."""
        key, value = (_only(blocks, token).decoded() for blocks in (self.keys, self.values))
        self.keys, self.values = _only(self.keys, others), _only(self.values, others)
        return key, value

    def read(self) -> tuple[Tensor, Tensor]:
        """Keys and values (Hk, n, d)."""
        return Unbalanced(self.keys, self.balancer).decoded(), self.values.decoded()

    @property
    def tensors(self) -> Sequence[Tensor]:
        return [*self.keys.tensors, *self.values.tensors, *([] if self.balancer is None else [self.balancer])]


def in_few(numbers: Tensor, bits: int, group: int) -> Blocks:
    """Numbers (Hk, n, d) in so many bits; 16 leave them as they are."""
    return Whole(numbers) if bits == 16 else TokenCodes.of(numbers, bits, group)


def _made_of(tensors: Sequence[Tensor], like: Blocks) -> Blocks:
    """Blocks that hold these tensors, as `like` holds its own."""
    return like.holding(tensors) if isinstance(like, TokenCodes) else Whole(*tensors)


def _only(blocks: Blocks, tokens: Tensor) -> Blocks:
    """The tokens (Hk, m) of each head, in this order."""
    return _made_of([tensor.take_along_dim(tokens.view(*tokens.shape, *[1] * (tensor.ndim - 2)), 1) for tensor in blocks.tensors], blocks)


class Demoting:
    """One layer's cache of one sequence: `size` of the tokens so far are important, as many as that says for their number, and all others are in few bits.

    s_j += sum over the group's queries of their attention to j, for important tokens. A token enters as important, whole or coded as these are, and is
    attended to as it is held; when there is one too many, the smallest s_j of those that are not among the newest `recent` of them is coded in few bits, from
    what is held of it, of equal ones the latest, and never restored. The step that demotes a token still attends to it as it was.
    """

    def __init__(self, high: Tier, positions: Tensor, sums: Tensor, low: Tier, size: Callable[[int], tuple[int, int]]) -> None:
        """Important tokens are at positions (Hk, m), and have got so much attention (Hk, m) float32."""
        self.high, self.low, self.size = high, low, size
        self.positions, self.sums = positions, sums

    @property
    def keys(self) -> Tensor:
        """(Hk, m, d): those of important tokens."""
        return Unbalanced(self.high.keys, self.high.balancer).decoded()

    @property
    def values(self) -> Tensor:
        """(Hk, m, d): those of important tokens."""
        return self.high.values.decoded()

    def attend(self, query: Tensor, key: Tensor, value: Tensor, position: int, scale: float) -> Tensor:
        """(Hk, G, d) for queries (Hk, G, d), and the newest token's key and value (Hk, 1, d); as `DecodeCache`."""
        self.high.take(self.high.scaled(key), value)
        self.positions = torch.nn.functional.pad(self.positions, (0, 1), value=position)
        low_keys, low_values = self.low.read()
        logits = (query @ torch.cat([self.keys, low_keys], 1).transpose(-1, -2)) * scale
        weights = logits.softmax(-1, dtype=torch.float64 if logits.dtype == torch.float64 else torch.float32)
        output = weights.to(value.dtype) @ torch.cat([self.values, low_values], 1)
        self.sums = torch.nn.functional.pad(self.sums, (0, 1)) + weights[..., : self.positions.shape[1]].sum(1).float()
        many, recent = self.size(position + 1)
        while self.positions.shape[1] > many:
            self._demote(recent)
        return output

    def beside(self, others: Sequence[Self], answers: Sequence[int]) -> "DemotingTogether":
        """One cache for answers to several prompts; as `Joins`."""
        return DemotingTogether([self, *others], answers)

    @property
    def tensors(self) -> Sequence[Tensor]:
        return [*self.high.tensors, self.positions, self.sums, *self.low.tensors]

    def _demote(self, recent: int) -> None:
        newest = self.positions.sort(1, descending=True).values[:, recent].unsqueeze(1)  # the newest one that may go
        sums = self.sums.masked_fill(self.positions > newest, float("inf"))
        victim = self.positions.masked_fill(sums != sums.amin(1, keepdim=True), -1).argmax(1, keepdim=True)
        places = torch.arange(self.positions.shape[1] - 1, device=victim.device)
        others = places + (places >= victim)  # (Hk, m - 1)
        key, value = self.high.let_go(victim, others)
        self.low.take(self.low.scaled(key) if self.high.balancer is None else key, value)
        self.positions, self.sums = self.positions.gather(1, others), self.sums.gather(1, others)


class DemotingTogether(Together):
    """MiKV for many answers: important tokens in places that are filled again, and those that were demoted while the answers grew."""

    def __init__(self, caches: Sequence[Demoting], answers: Sequence[int]) -> None:
        super().__init__([([Unbalanced(cache.low.keys, cache.low.balancer)], [cache.low.values]) for cache in caches], answers)
        kinds = [[*cache.high.keys.tensors, *cache.high.values.tensors, cache.positions, cache.sums] for cache in caches]
        self.important = Tail(list(zip(*kinds, strict=True)), answers)
        first, nothing = caches[0], torch.zeros(0, dtype=torch.long, device=caches[0].positions.device)
        self.like = [blocks.pick(nothing) for blocks in (first.high.keys, first.high.values)]  # whose tensors the kinds of `important` begin with
        self.size, self.bits, self.group = first.size, first.high.bits, first.high.group
        self.scaled = first.high.balancer is not None  # whether important keys are multiplied by the balancer
        each = [cache for cache, count in zip(caches, answers, strict=True) for _ in range(count)]
        self.seen = [cache.positions.shape[1] + cache.low.keys.tensors[0].shape[1] for cache in each]  # tokens of each row
        balancers = [cache.low.balancer for cache in each if cache.low.balancer is not None]
        self.balancer = torch.stack(balancers, 1).unsqueeze(2) if balancers else None  # (Hk, B, 1, d)
        bits, group = first.low.bits, first.low.group
        code = [lambda numbers: in_few(numbers[:, :, 0], bits, group)] * 2
        self.demoted = Grid(len(each), code)

    def enter(self, key: Tensor, value: Tensor) -> None:
        newest = torch.tensor(self.seen, device=key.device).view(1, -1, 1).expand(len(key), -1, -1)
        scaled = key if self._own_balancer is None else balanced(key, self._own_balancer)
        tensors = [tensor for numbers in (scaled, value) for tensor in in_few(numbers, self.bits, self.group).tensors]
        self.important.append(*tensors, newest, torch.zeros_like(newest, dtype=torch.float32))
        self.seen = [count + 1 for count in self.seen]

    def own_logits(self, query: Tensor) -> list[Tensor]:
        low = [keys if self.balancer is None else unbalanced(keys, self.balancer) for keys in self.demoted.read(0)]
        high = self._decoded(0, self._held())
        return [query @ keys.transpose(-1, -2) for keys in (*low, high if self._own_balancer is None else unbalanced(high, self._own_balancer))]

    def own_values(self) -> list[Tensor]:
        return [*self.demoted.read(1), self._decoded(1, self._held())]

    def key_counts(self, row: int) -> list[int]:
        return [*self.demoted.counts(row), self.important.filled[row]]

    def value_counts(self, row: int) -> list[int]:
        return self.key_counts(row)

    def fold(self, shares: Sequence[Tensor]) -> None:
        self.important.states(-1).add_(shares[-1].sum(2).float())
        sizes = {seen: self.size(seen) for seen in set(self.seen)}
        while rows := [row for row, seen in enumerate(self.seen) if self.important.filled[row] > sizes[seen][0]]:
            self._demote(rows, [sizes[self.seen[row]][1] for row in rows])

    def keep(self, rows: Tensor) -> None:
        super().keep(rows)
        self.seen = [self.seen[row] for row in rows.tolist()]
        self.balancer = None if self.balancer is None else self.balancer[:, rows]

    @property
    def own(self) -> Sequence[Grid | Tail]:
        return [self.important, self.demoted]

    @property
    def tensors(self) -> Sequence[Tensor]:
        return [*super().tensors, *([] if self.balancer is None else [self.balancer])]

    @property
    def _own_balancer(self) -> Tensor | None:
        return self.balancer if self.scaled else None

    def _held(self) -> list[Tensor]:
        return [self.important.states(kind) for kind in range(len(self.important.held))]

    def _decoded(self, kind: int, held: Sequence[Tensor]) -> Tensor:
        """(Hk, B, m, d): keys (0), scaled as they are held, or values (1), of tensors that begin with those of both."""
        first = kind * len(self.like[0].tensors)
        return _made_of(held[first : first + len(self.like[kind].tensors)], self.like[kind]).decoded()

    def _demote(self, rows: Sequence[int], recent: Sequence[int]) -> None:
        """Of each of these rows, the lightest token that is not among its newest `recent`."""
        mine = torch.tensor(rows, device=self.important.held[0].device)
        held = torch.tensor([self.important.filled[row] for row in rows], device=mine.device).view(1, -1, 1)
        positions, sums = self.important.states(-2)[:, mine], self.important.states(-1)[:, mine]
        positions = positions.masked_fill(torch.arange(positions.shape[2], device=mine.device) >= held, -1)
        last = torch.tensor(recent, device=mine.device).view(1, -1, 1).expand(len(positions), -1, -1)
        newest = positions.sort(2, descending=True).values.gather(2, last)  # the newest one that may go
        sums = sums.masked_fill((positions > newest) | (positions < 0), float("inf"))
        victim = positions.masked_fill(sums != sums.amin(2, keepdim=True), -1).argmax(2)
        gone = self.important.swap_out(rows, victim)
        key, value = self._decoded(0, gone), self._decoded(1, gone)
        self.demoted.add(rows, [key if self.balancer is None or self.scaled else balanced(key, self.balancer[:, mine]), value])
