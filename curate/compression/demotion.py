"""MiKV while it decodes: the newcomer is important, and the lightest token that is not recent is put into few bits, for good."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from curate.compression.growing_codes import TokenCodes
from curate.compression.quantised import Whole


class Low:
    """The tokens of one layer that are not important: coded, or whole where 16 bits are asked for; of keys, multiplied by the balancer."""

    def __init__(self, keys: Tensor, values: Tensor, balancer: Tensor | None, bits: int, group: int) -> None:
        self.balancer = balancer  # (Hk, d)
        self.bits, self.group = bits, group
        self.keys, self.values = self._coded(self._balanced(keys)), self._coded(values)

    def take(self, key: Tensor, value: Tensor) -> None:
        """One more token per head, (Hk, 1, d) each."""
        self.keys, self.values = self._joined(self.keys, self._balanced(key)), self._joined(self.values, value)

    def read(self) -> tuple[Tensor, Tensor]:
        """Keys and values (Hk, m, d)."""
        keys = self.keys.decoded()
        return (keys if self.balancer is None else (keys.float() / self.balancer.unsqueeze(1)).to(keys.dtype)), self.values.decoded()

    @property
    def tensors(self) -> Sequence[Tensor]:
        return [*self.keys.tensors, *self.values.tensors, *([] if self.balancer is None else [self.balancer])]

    def _balanced(self, keys: Tensor) -> Tensor:
        return keys if self.balancer is None else (keys.float() * self.balancer.unsqueeze(1)).to(keys.dtype)

    def _coded(self, numbers: Tensor) -> TokenCodes | Whole:
        return Whole(numbers) if self.bits == 16 else TokenCodes.of(numbers, self.bits, self.group)

    def _joined(self, before: TokenCodes | Whole, numbers: Tensor) -> TokenCodes | Whole:
        if isinstance(before, Whole):
            return Whole(torch.cat([before.tensor, numbers], 1))
        return before.joined(TokenCodes.of(numbers, self.bits, self.group))


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
