"""GEAR: codes, exact outliers and a few directions of the error, block by block."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from curate.compression.actions.gear import Gear
from curate.compression.actions.kivi import Kivi
from curate.compression.corrected import Corrected
from curate.compression.prefix import Prefix
from curate.compression.quantised import Residual
from curate.inference.stores import Ragged, held_bytes
from curate.presses.gear import Gear as Press
from curate.testing.component import check_identity
from curate.testing.random_models import ARCHITECTURES, Architecture, random_model
from tests.presses.stored_prefixes import acted, after, defined, made, queries, read, real, summed, whole


def gear(**fields: Any) -> Gear:
    return Gear.model_validate(fields)


def residual(action: Gear, n: int = 128, **fields: Any) -> Residual:
    store = acted(action, made(n, **fields))
    assert isinstance(store, Residual)
    return store


def errors(action: Gear, n: int = 128, seed: int = 0) -> tuple[float, float]:
    """Norms of what keys and values are off by."""
    view = made(n, seed=seed).layers[0]
    keys, values = residual(action, n, seed=seed).read()
    return float((keys - view.keys).norm()), float((values - view.values).norm())


def missed(action: Gear, numbers: Tensor, tokenwise: bool) -> tuple[Tensor, Tensor]:
    """(what codes and outliers alone leave, which numbers are outliers), both (Hk, N, 64, d), from the definition."""
    heads, n, width = numbers.shape

    def lines_of(block: Tensor) -> Tensor:
        return block.transpose(0, 1).reshape(64, -1) if tokenwise else block.transpose(1, 2).reshape(-1, 64)

    def block_of(lines: Tensor) -> Tensor:
        return lines.view(64, heads, width).transpose(0, 1) if tokenwise else lines.view(heads, width, 64).transpose(1, 2)

    left, outliers = [], []
    for first in range(0, n, 64):
        lines = lines_of(numbers[:, first : first + 64].double())
        count = math.ceil(lines.shape[1] * action.sparsity / 2)
        order = lines.argsort(dim=1, stable=True)
        out = torch.zeros_like(lines, dtype=torch.bool).scatter_(1, torch.cat([order[:, :count], order[:, max(count, lines.shape[1] - count) :]], 1), True)
        size = lines.shape[1] if action.backbone == "kcvt" else min(action.group, width if tokenwise else 64)
        groups = torch.where(out, lines.mean(1, keepdim=True), lines).view(len(lines), -1, size)
        low = groups.amin(-1, keepdim=True)
        step = (groups.amax(-1, keepdim=True) - low) / (2**action.bits - 1)
        coded = (((groups - low) / torch.where(step > 0, step, 1)).round() * step + low).view(lines.shape)
        left.append(block_of(torch.where(out, 0, lines - coded)))
        outliers.append(block_of(out))
    return torch.stack(left, 1), torch.stack(outliers, 1)


@pytest.mark.parametrize("backbone", ["kivi", "kcvt"])
@pytest.mark.parametrize("sparsity", [0.0, 0.1])
@pytest.mark.parametrize("group", [8, 64])
def test_without_directions_the_error_is_that_of_codes_and_outliers_by_their_definition(backbone: str, sparsity: float, group: int) -> None:
    action = gear(backbone=backbone, sparsity=sparsity, rank=0, group=group, bits=3)
    view = made(128).layers[0]
    keys, values = residual(action).read()
    for got, exact, tokenwise in ((keys, view.keys, False), (values, view.values, True)):
        torch.testing.assert_close((exact - got).double().unflatten(1, (-1, 64)), missed(action, exact, tokenwise)[0], atol=2e-4, rtol=1e-4)


def test_codes_alone_are_kivis_where_blocks_are_whole() -> None:
    view = made(128).layers[0]
    keys, values = residual(gear(sparsity=0.0, rank=0, group=16)).read()
    kivi_keys, kivi_values = read(acted(Kivi(group=16, residual=16), made(128)))
    assert torch.equal(keys, kivi_keys) and torch.equal(values[:, :112], kivi_values[:, :112])
    assert not torch.equal(values, view.values)


@pytest.mark.parametrize("backbone", ["kivi", "kcvt"])
def test_all_directions_give_everything_back_without_outliers(backbone: str) -> None:
    keys, values = errors(gear(backbone=backbone, sparsity=0.0, rank=16))
    view = made(128).layers[0]
    assert keys < 1e-5 * float(view.keys.norm()) and values < 1e-5 * float(view.values.norm())


@pytest.mark.parametrize("backbone", ["kivi", "kcvt"])
@pytest.mark.parametrize("rank", [0, 2])
def test_all_numbers_as_outliers_give_everything_back_to_the_bit(backbone: str, rank: int) -> None:
    assert errors(gear(backbone=backbone, sparsity=1.0, rank=rank)) == (0, 0)


@pytest.mark.parametrize("backbone", ["kivi", "kcvt"])
def test_the_error_falls_with_directions_and_with_outliers_and_is_not_below_the_tail(backbone: str) -> None:
    view = made(128).layers[0]
    tails = [torch.linalg.svdvals(missed(gear(backbone=backbone, sparsity=0.0), part, t)[0]) for part, t in ((view.keys, False), (view.values, True))]
    before = (math.inf, math.inf)
    for rank in range(0, 17, 2):
        found = errors(gear(backbone=backbone, sparsity=0.0, rank=rank))
        for now, last, tail in zip(found, before, tails, strict=True):
            assert now <= last * (1 + 1e-6) and now >= float(tail[..., rank:].square().sum().sqrt()) * (1 - 1e-5) - 1e-4
        before = found
    for seed in range(3):
        by_share = [errors(gear(backbone=backbone, sparsity=share, rank=2), seed=seed) for share in (0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.0)]
        for series in zip(*by_share, strict=True):
            assert list(series) == sorted(series, reverse=True)


def test_outliers_are_exact_although_directions_are_added() -> None:
    view = made(128).layers[0]
    keys, values = residual(gear(sparsity=0.1, rank=4)).read()
    for got, exact, tokenwise in ((keys, view.keys, False), (values, view.values, True)):
        outliers = missed(gear(sparsity=0.1), exact, tokenwise)[1].flatten(1, 2)
        assert outliers.float().mean() >= 0.1 and torch.equal(got[outliers], exact[outliers])


def test_a_block_does_not_depend_on_what_comes_before_or_after_it() -> None:
    prefix = made(256)
    keys, values = read(acted(Gear(), prefix))
    for order in ([2, 0, 3, 1], [1], [3, 2]):
        chosen = torch.cat([torch.arange(64 * block, 64 * block + 64) for block in order])
        got_keys, got_values = read(acted(Gear(), prefix, [chosen] * 2))
        torch.testing.assert_close(got_keys, keys[:, chosen], atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(got_values, values[:, chosen], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("n", [10, 63, 64, 100])
def test_tokens_after_the_last_block_are_exact(n: int) -> None:
    view = made(n).layers[0]
    store = residual(Gear(), n)
    assert held_bytes(store.tensors) == summed(store.tensors)
    keys, values = store.read()
    assert keys.shape == view.keys.shape
    full = n // 64 * 64
    assert torch.equal(keys[:, full:], view.keys[:, full:]) and torch.equal(values[:, full:], view.values[:, full:])
    assert not full or not torch.equal(keys[:, :full], view.keys[:, :full])


@pytest.mark.parametrize(("bits", "backbone", "code_bits"), [(2, "kivi", 2 + 32 / 64), (4, "kivi", 4 + 32 / 64), (4, "kcvt", None)])
def test_bytes_are_those_of_codes_outliers_and_factors(bits: int, backbone: str, code_bits: float | None) -> None:
    heads, n, width = 8, 256, 128
    store = residual(gear(bits=bits, backbone=backbone), n, heads=heads, groups=1, width=width, dtype=torch.float16)
    numbers = heads * n * width
    assert held_bytes(store.tensors) == summed(store.tensors)
    for part, length, place in ((store.keys, 64, 1), (store.values, heads * width, 2)):
        assert isinstance(part, Corrected)
        vector = length if code_bits is None else 64
        assert summed(part.codes.tensors) * 8 == numbers * (bits + 32 / vector)
        outliers = numbers // length * 2 * math.ceil(length * 0.02 / 2)
        assert summed([part.places, part.outliers]) == outliers * (place + 2)
        assert summed([part.left, part.right]) == heads * (n // 64) * 4 * (64 + width) * 2
    if code_bits is not None:
        assert round(summed(store.tensors) / (2 * numbers * 2), 3) == {2: 0.295, 4: 0.42}[bits]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_more_bits_are_closer_and_equal_tokens_are_exact(bits: int) -> None:
    view = made(64).layers[0]
    same = made(64)
    flat = same.layers[0].keys[:, :1].expand(-1, 64, -1).clone()
    equal = acted(gear(bits=bits), _with_keys(same, flat))
    assert torch.equal(read(equal)[0], flat) and read(equal)[1].isfinite().all()
    if bits < 8:
        assert errors(gear(bits=8), 64)[0] < 0.1 * errors(gear(bits=bits), 64)[0] <= float(view.keys.norm())


def _with_keys(prefix: Prefix, keys: Tensor) -> Prefix:
    return replace(prefix, layers=[replace(prefix.layers[0], keys=keys)])


def test_a_store_is_attended_to_as_what_it_reads_and_heads_may_differ() -> None:
    prefix = made(150)
    for count in (3, 200):
        asked = queries(count)
        store = acted(Gear(), prefix)
        for got, expected in zip(store.attend(asked, 0.25), defined(asked, *read(store), 0.25), strict=True):
            torch.testing.assert_close(got.double(), expected, atol=1e-5, rtol=1e-5)
        ragged = acted(Gear(), prefix, [torch.arange(150), torch.arange(20)])
        assert isinstance(ragged, Ragged)
        exact = defined(asked, prefix.layers[0].keys[:, :20], prefix.layers[0].values[:, :20], 0.25)[0]
        torch.testing.assert_close(ragged.attend(asked, 0.25)[0][1].double(), exact[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("backbone", ["kivi", "kcvt"])
def test_the_press_is_closer_than_its_codes_alone(architecture: Architecture, backbone: str) -> None:
    model = random_model(architecture)
    with torch.inference_mode():
        prefix = real(model, 140)
        exact = after(model, whole(prefix))

        def off(**fields: Any) -> float:
            memory = Press(action=gear(backbone=backbone, **fields)).compress(prefix)
            return float((after(model, memory) - exact).norm() / exact.norm())

        assert off(bits=4, rank=8, sparsity=0.1) < off(bits=4, rank=0, sparsity=0.0) < 0.5
        assert off(bits=8) < 0.02


def test_a_bfloat16_model_is_served_in_bfloat16() -> None:
    model = random_model("llama")
    model.model.bfloat16()
    with torch.inference_mode():
        prefix = real(model, 128)
        memory = Press().compress(prefix)
        assert after(model, memory).isfinite().all()
        assert all(read(store)[0].dtype == torch.bfloat16 for store in memory.layers)
        assert memory.nbytes < 0.9 * whole(prefix).nbytes  # rank 4 of heads of 16 channels is dear


def test_the_components_are_what_they_say() -> None:
    check_identity(Press(), "presses")
    check_identity(Gear(), "actions")
