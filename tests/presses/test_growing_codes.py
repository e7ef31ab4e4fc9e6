"""KIVI, GEAR and MiKV while they decode, against references in float64 that compress the whole sequence from scratch at every step."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from curate.compression.codec import coded
from curate.compression.demotion import Demoting
from curate.compression.growing_codes import GrowingCodes, TokenCodes
from curate.compression.prefix import LayerView, Prefix
from curate.inference.stores import DecodeCache, held_bytes
from curate.interfaces import Press
from curate.presses.gear import Gear
from curate.presses.kivi import Kivi
from curate.presses.mikv import Mikv
from tests.presses.sequences import attention_of
from tests.presses.stored_prefixes import MODEL, made, summed

HEADS, GROUPS, WIDTH = 2, 2, 16


def sequence(n: int, steps: int, seed: int = 0) -> tuple[Prefix, LayerView]:
    """(a prefix of n tokens, all n + steps of them)."""
    whole = made(n + steps, heads=HEADS, groups=GROUPS, width=WIDTH, seed=seed).layers[0]
    view = LayerView(whole.queries[:, :n], whole.keys[:, :n], whole.values[:, :n], whole.scale)
    return Prefix(list(range(n)), [view], MODEL, lambda tokens: []), whole


def rounded(groups: Tensor, bits: int) -> Tensor:
    """The last axis of float64 numbers at 2^bits levels from its lowest to its highest, from the definition."""
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    step = (high - low) / (2**bits - 1)
    return torch.where(step > 0, ((groups - low) / torch.where(step > 0, step, 1)).round() * step + low, groups)


def by_channel(keys: Tensor, bits: int, group: int) -> Tensor:
    return rounded(keys.transpose(1, 2).unflatten(-1, (-1, group)), bits).flatten(-2).transpose(1, 2) if keys.shape[1] else keys


def by_token(numbers: Tensor, bits: int, group: int) -> Tensor:
    return rounded(numbers.unflatten(-1, (-1, group)), bits).flatten(-2)


def attended(query: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """(Hk, G, d) float64."""
    return (query.double() @ keys.transpose(1, 2) * scale).softmax(-1) @ values


def step(cache: DecodeCache, whole: LayerView, i: int) -> Tensor:
    query = whole.queries[:, i].view(HEADS, GROUPS, WIDTH)
    return cache.attend(query, whole.keys[:, i : i + 1], whole.values[:, i : i + 1], i, whole.scale)


def query_of(whole: LayerView, i: int) -> Tensor:
    return whole.queries[:, i].view(HEADS, GROUPS, WIDTH)


def decoder(press: Press, prefix: Prefix) -> DecodeCache:
    found = press.decoder(prefix, 0)
    assert found is not None
    return found


def kivi_whole(keys: Tensor, values: Tensor, bits: int, group: int, residual: int) -> tuple[Tensor, Tensor]:
    """Everything that KIVI holds of a sequence, in float64."""
    n = keys.shape[1]
    old, older = n - n % residual, max(0, n - residual)
    k = torch.cat([by_channel(keys[:, :old].double(), bits, group), keys[:, old:].double()], 1)
    return k, torch.cat([by_token(values[:, :older].double(), bits, group), values[:, older:].double()], 1)


@pytest.mark.parametrize(("bits", "group", "residual"), [(2, 8, 8), (3, 4, 8), (4, 8, 16), (8, 4, 4)])
@pytest.mark.parametrize("n", [1, 8, 21, 32])
def test_kivi_holds_at_every_step_what_coding_the_whole_sequence_gives(bits: int, group: int, residual: int, n: int) -> None:
    prefix, whole = sequence(n, 40)
    cache = decoder(Kivi.model_validate({"action": {"name": "kivi", "bits": bits, "group": group, "residual": residual}}), prefix)
    assert isinstance(cache, GrowingCodes)
    held = kivi_whole(whole.keys[:, :n], whole.values[:, :n], bits, group, residual)
    for i in range(n, n + 40):
        now = [torch.cat([before, new[:, i : i + 1].double()], 1) for before, new in zip(held, (whole.keys, whole.values), strict=True)]
        torch.testing.assert_close(step(cache, whole, i).double(), attended(query_of(whole, i), *now, whole.scale), atol=1e-4, rtol=1e-4)
        held = kivi_whole(whole.keys[:, : i + 1], whole.values[:, : i + 1], bits, group, residual)
        for got, expected in zip(cache.read(), held, strict=True):
            torch.testing.assert_close(got.double(), expected, atol=1e-4, rtol=1e-4)
        last = i + 1 - (i + 1) % residual
        assert torch.equal(cache.last_keys, whole.keys[:, last : i + 1])
        assert torch.equal(cache.last_values, whole.values[:, max(0, i + 1 - residual) : i + 1])


@pytest.mark.parametrize("n", [1, 64, 100, 130])
@pytest.mark.parametrize("backbone", ["kivi", "kcvt"])
def test_gear_holds_at_every_step_the_blocks_of_the_whole_sequence(n: int, backbone: str) -> None:
    fields = {"backbone": backbone, "rank": 4, "later_rank": 2, "sparsity": 0.05, "bits": 4, "group": 16}
    prefix, whole = sequence(n, 140)
    press = Gear.model_validate({"action": {"name": "gear", **fields}})
    cache = decoder(press, prefix)
    assert isinstance(cache, GrowingCodes)
    for i in range(n, n + 140):
        before = [states.double() for states in cache.read()]
        now = [torch.cat([states, new[:, i : i + 1].double()], 1) for states, new in zip(before, (whole.keys, whole.values), strict=True)]
        torch.testing.assert_close(step(cache, whole, i).double(), attended(query_of(whole, i), *now, whole.scale), atol=1e-4, rtol=1e-4)
        if i % 16 == 0 or i == n + 139 or (i + 1) % 64 == 0:
            for got, numbers, tokenwise in zip(cache.read(), (whole.keys, whole.values), (False, True), strict=True):
                expected = gear_whole(numbers[:, : i + 1].double(), n, tokenwise, fields)
                torch.testing.assert_close(got.double(), expected, atol=2e-3, rtol=2e-3)
    assert cache.last_keys.shape[1] == (n + 140) % 64 and len(cache.keys) == (n + 140) // 64 - n // 64 + (n >= 64)


def gear_whole(numbers: Tensor, n: int, tokenwise: bool, fields: dict[str, Any]) -> Tensor:
    """(Hk, m, d) float64: every block of 64 by itself from the definition, with the directions of `rank` in the prefix's blocks and of `later_rank` behind."""
    parts = []
    for first in range(0, numbers.shape[1] - 63, 64):
        block = numbers[:, first : first + 64]
        lines = block.transpose(0, 1).reshape(64, -1) if tokenwise else block.transpose(1, 2).reshape(-1, 64)
        count = math.ceil(lines.shape[1] * fields["sparsity"] / 2)
        order = lines.argsort(dim=1, stable=True)
        out = torch.zeros_like(lines, dtype=torch.bool).scatter_(1, torch.cat([order[:, :count], order[:, -count:]], 1), True)
        size = lines.shape[1] if fields["backbone"] == "kcvt" else fields["group"]
        got = rounded(torch.where(out, lines.mean(1, keepdim=True), lines).unflatten(-1, (-1, size)), fields["bits"]).flatten(-2)
        got, missed = back(got, tokenwise), back(torch.where(out, 0.0, lines - got), tokenwise)
        rank = fields["rank"] if first + 64 <= n else fields["later_rank"]
        basis = subspace(missed, rank)
        parts.append(torch.where(back(out, tokenwise), block, got + basis @ (basis.transpose(1, 2) @ missed)))
    return torch.cat([*parts, numbers[:, numbers.shape[1] // 64 * 64 :]], 1)


def back(lines: Tensor, tokenwise: bool) -> Tensor:
    return lines.view(64, HEADS, WIDTH).transpose(0, 1) if tokenwise else lines.view(HEADS, WIDTH, 64).transpose(1, 2)


def subspace(matrix: Tensor, rank: int) -> Tensor:
    """(Hk, 64, rank): three rounds of R R^T on a fixed start, made orthonormal at the end by an SVD, which knows nothing of QR."""
    start = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)[:, :rank]
    return torch.linalg.svd(torch.linalg.matrix_power(matrix @ matrix.transpose(1, 2), 2) @ (matrix @ start), full_matrices=False).U


class Trace:
    """MiKV by definition: which tokens are whole by sets, their sums by all attention that they got, all other tokens coded anew at every step."""

    def __init__(self, whole: LayerView, n: int, keep: float, share: float, bits: int) -> None:
        self.whole, self.keep, self.share, self.bits = whole, keep, share, bits
        view = LayerView(whole.queries[:, :n], whole.keys[:, :n], whole.values[:, :n], whole.scale)
        self.sums = attention_of(view).view(HEADS, GROUPS, n, n).sum((1, 2)).tolist()
        largest = [states[:, :n].double().abs().amax(1) for states in (whole.queries, whole.keys)]
        self.balancer = (largest[0].view(HEADS, GROUPS, WIDTH).amax(1) / largest[1]).sqrt().unsqueeze(1)
        self.high = [set(range(n)) for _ in range(HEADS)]
        for head in range(HEADS):
            self.settle(head, n)

    def settle(self, head: int, seen: int) -> None:
        whole = max(1, math.ceil(self.keep * seen - 1e-9))
        while len(self.high[head]) > whole:
            recent = int(whole * self.share)
            old = sorted(self.high[head])[: len(self.high[head]) - recent]
            self.high[head].discard(min(old, key=lambda token: (self.sums[head][token], -token)))

    def step(self, i: int) -> Tensor:
        k, v = (states[:, : i + 1].double() for states in (self.whole.keys, self.whole.values))
        low_k, low_v = by_token(k * self.balancer, self.bits, WIDTH // 2) / self.balancer, by_token(v, self.bits, WIDTH // 2)
        outputs = []
        for head in range(HEADS):
            self.high[head].add(i)
            mine = torch.tensor([token in self.high[head] for token in range(i + 1)]).unsqueeze(1)
            weights = (query_of(self.whole, i)[head].double() @ torch.where(mine, k[head], low_k[head]).T * self.whole.scale).softmax(-1)
            outputs.append(weights @ torch.where(mine, v[head], low_v[head]))
            self.sums[head].append(0.0)
            for token, weight in enumerate(weights.sum(0).tolist()):
                self.sums[head][token] += weight
            self.settle(head, i + 1)
        return torch.stack(outputs)


@pytest.mark.parametrize(("keep", "share"), [(0.3, 0.5), (0.2, 0.5), (0.25, 0.0), (0.3, 1.0), (0.05, 0.5), (0.9, 0.5)])
@pytest.mark.parametrize("bits", [2, 4])
def test_mikv_demotes_what_a_trace_with_sets_demotes(keep: float, share: float, bits: int) -> None:
    n = 20
    prefix, whole = sequence(n, 40, seed=2)
    cache = decoder(Mikv.model_validate({"keep": keep, "recent": share, "action": {"name": "mikv", "bits": bits}}), prefix)
    assert isinstance(cache, Demoting)
    trace = Trace(whole, n, keep, share, bits)
    assert [set(row) for row in cache.positions.tolist()] == trace.high
    for i in range(n, n + 40):
        torch.testing.assert_close(step(cache, whole, i).double(), trace.step(i), atol=2e-4, rtol=2e-4)
        assert [set(row) for row in cache.positions.tolist()] == trace.high
        for head in range(HEADS):
            assert torch.equal(cache.keys[head], whole.keys[head, cache.positions[head]])
        assert cache.keys.shape[1] + cache.low.read()[0].shape[1] == i + 1


@pytest.mark.parametrize("press", [Mikv(keep=0.3, action={"name": "mikv", "bits": 16}), Mikv(keep=1.0)])
def test_with_16_bits_or_everything_whole_mikv_is_the_full_cache(press: Mikv) -> None:
    prefix, whole = sequence(20, 20)
    cache = decoder(press, prefix)
    for i in range(20, 40):
        exact = attended(query_of(whole, i), whole.keys[:, : i + 1].double(), whole.values[:, : i + 1].double(), whole.scale)
        torch.testing.assert_close(step(cache, whole, i).double(), exact, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("width", [16, 10, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tokens_coded_one_by_one_are_those_coded_together(bits: int, width: int, dtype: torch.dtype) -> None:
    numbers = torch.randn(2, 9, width, generator=torch.Generator().manual_seed(1)).to(dtype)
    together, grown = TokenCodes.of(numbers, bits, 4), TokenCodes.of(numbers[:, :0], bits, 4)
    for i in range(9):
        grown = grown.joined(TokenCodes.of(numbers[:, i : i + 1], bits, 4))
    assert torch.equal(grown.decoded(), together.decoded()) and torch.equal(together.decoded(), coded(numbers, bits, 4).decoded())
    assert together.decoded().dtype == dtype and held_bytes(grown.tensors) == summed(grown.tensors)


@pytest.mark.parametrize("press", [Kivi(action={"name": "kivi", "group": 8, "residual": 8}), Gear(), Mikv(keep=0.2)], ids=lambda press: press.name)
def test_memory_grows_by_what_codes_take(press: Press) -> None:
    prefix, whole = sequence(64, 256)
    cache = decoder(press, prefix)
    sizes = [held_bytes(cache.tensors)]
    for i in range(64, 320):
        step(cache, whole, i)
        if i % 64 == 63:
            sizes.append(held_bytes(cache.tensors))
    full = 64 * HEADS * 2 * WIDTH * 4
    assert all(b - a < 0.75 * full for a, b in zip(sizes, sizes[1:], strict=False))


def test_other_parts_leave_generated_tokens_whole() -> None:
    prefix, _ = sequence(30, 1)
    assert Mikv(importance="key_norm").decoder(prefix, 0) is None and Mikv(allocator="pyramid").decoder(prefix, 0) is None
    assert Gear(keep=0.5).decoder(prefix, 0) is None and Gear(action="evict").decoder(prefix, 0) is None
    assert Kivi(action="evict").decoder(prefix, 0) is None
