"""Codes against numpy in float64, one number at a time; packing against integers written in base 2."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from curate.compression.codec import coded, pack, unpacked
from curate.compression.corrected import corrected
from curate.compression.low_rank import low_rank
from curate.inference.stores import held_bytes

BITS = (2, 3, 4, 8)


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 3 + 1).to(dtype)


@given(st.sampled_from((1, *BITS)), st.integers(0, 70), st.integers(0, 2**31))
def test_packing_writes_codes_one_after_the_other_from_the_lowest_bit(bits: int, count: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 2**bits, count).astype(np.uint8)
    number = sum(int(code) << (bits * i) for i, code in enumerate(codes))
    word = bits // math.gcd(bits, 8)
    size = -(-count * bits // (8 * word)) * word
    packed = pack(torch.from_numpy(codes), bits)
    assert packed.dtype == torch.uint8
    assert bytes(packed.tolist()) == number.to_bytes(size, "little")
    assert unpacked(packed, bits, count).tolist() == codes.tolist()


@settings(deadline=None)
@given(st.sampled_from(BITS), st.integers(1, 9), st.sampled_from([(1, 1, 5), (2, 3, 7), (3, 8, 4)]), st.sampled_from((-1, -2)), st.integers(0, 99))
def test_every_group_is_coded_as_a_loop_in_float64_says(bits: int, group: int, shape: tuple[int, ...], axis: int, seed: int) -> None:
    numbers = drawn(*shape, dtype=torch.float64, seed=seed)
    got = coded(numbers, bits, group, axis).decoded().numpy()
    lines = np.moveaxis(numbers.numpy(), axis, -1)
    expected = np.empty_like(lines)
    for place in np.ndindex(lines.shape[:-1]):
        for first in range(0, lines.shape[-1], group):
            part = lines[place][first : first + group]
            step = (part.max() - part.min()) / (2**bits - 1)
            codes = np.round((part - part.min()) / step) if step > 0 else np.zeros(len(part))
            expected[place][first : first + group] = codes * step + part.min()
    np.testing.assert_allclose(np.moveaxis(got, axis, -1), expected, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("bits", BITS)
def test_a_number_is_off_by_half_a_step_at_most(bits: int, dtype: torch.dtype) -> None:
    numbers = drawn(2, 40, 24, dtype=dtype)
    codes = coded(numbers, bits, 10, -2)
    got = codes.decoded()
    step = codes.step.double().repeat_interleave(10, -1).transpose(1, 2)[:, :40]
    own = numbers.double().abs().amax() * torch.finfo(dtype).eps * 0.5  # x^ is rounded to the dtype once
    assert ((got.double() - numbers.double()).abs() <= step / 2 + own * (1 + 1e-9) + 1e-6 * (dtype == torch.float32)).all()
    assert got.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_step_that_is_kept_is_the_least_of_its_dtype_that_reaches_the_highest_number(dtype: torch.dtype) -> None:
    numbers = drawn(400, 8, dtype=dtype)
    step = coded(numbers, 4, 8).step.squeeze(-1)
    needed = (numbers.double().amax(-1) - numbers.double().amin(-1)) / 15
    below = (step.view(torch.int16) - 1).view(dtype).double()
    assert (step.double() >= needed * (1 - 1e-6)).all() and (below < needed).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bits", BITS)
def test_equal_numbers_and_the_lowest_of_each_group_come_back_exactly(bits: int, dtype: torch.dtype) -> None:
    numbers = drawn(3, 1, 5, dtype=dtype).expand(3, 32, 5).clone()
    assert torch.equal(coded(numbers, bits, 8, -2).decoded(), numbers)
    varied = drawn(3, 32, 5, dtype=dtype)
    got = coded(varied, bits, 8).decoded()
    lowest = varied.amin(-1, keepdim=True)
    assert torch.equal(got[varied == lowest], varied[varied == lowest])


def test_numbers_of_two_levels_are_exact_and_more_bits_are_never_worse() -> None:
    two = torch.where(drawn(4, 64) > 1, 2.0, -3.0)
    assert torch.equal(coded(two, 2, 16).decoded(), two)
    numbers = drawn(4, 64)
    errors = [float((coded(numbers, bits, 16).decoded() - numbers).norm()) for bits in BITS]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.05 * errors[0]


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("group", [16, 32, 64])
def test_bytes_are_bits_and_two_half_numbers_per_group(bits: int, group: int) -> None:
    numbers = drawn(8, 128, 128, dtype=torch.float16)
    for axis in (-1, -2):
        held = held_bytes(coded(numbers, bits, group, axis).tensors)
        assert held * 8 / numbers.numel() == bits + 32 / group


def test_nothing_is_coded_into_nothing() -> None:
    for axis in (-1, -2):
        codes = coded(torch.empty(2, 0, 6), 2, 4, axis)
        assert codes.decoded().shape == (2, 0, 6) and held_bytes(codes.tensors) == 0


def test_a_low_rank_part_is_a_projection_between_the_norm_and_the_tail_of_the_singular_values() -> None:
    for seed in range(5):
        matrix = drawn(3, 64, 32, seed=seed)
        norm = matrix.norm(dim=(1, 2))
        before = norm
        for rank in range(33):
            left, right = low_rank(matrix, rank, 3)
            rest = (matrix - left @ right.transpose(1, 2)).norm(dim=(1, 2))
            tail = torch.linalg.svdvals(matrix.double())[:, rank:].square().sum(-1).sqrt()
            assert (rest <= before * (1 + 1e-5)).all() and (rest >= tail - 1e-4).all()
            torch.testing.assert_close(left.transpose(1, 2) @ left, torch.eye(rank).expand(3, -1, -1), atol=1e-5, rtol=0)
            before = rest
        assert (before < 1e-4).all()


def test_loops_bring_the_rest_to_the_tail_of_the_singular_values() -> None:
    matrix = drawn(64, 32) - 1
    tail = float(torch.linalg.svdvals(matrix.double())[8:].square().sum().sqrt())
    ratios = []
    for loops in (1, 3, 8, 32):
        left, right = low_rank(matrix, 8, loops)
        ratios.append(float((matrix - left @ right.T).norm()) / tail)
    assert ratios == sorted(ratios, reverse=True) and 1.1 < ratios[0] < 1.6 and ratios[-1] < 1.003


@pytest.mark.parametrize("tokenwise", [False, True])
def test_outliers_are_exact_and_the_mean_stands_in_for_them(tokenwise: bool) -> None:
    numbers = drawn(2, 128, 16)
    part = corrected(numbers, tokenwise, 2, None, 0.1, 0, 1)
    got = part.decoded()
    for first in (0, 64):
        block, found = numbers[:, first : first + 64].numpy(), got[:, first : first + 64].numpy()
        lines, seen = (
            (np.moveaxis(block, 1, 0).reshape(64, -1), np.moveaxis(found, 1, 0).reshape(64, -1))
            if tokenwise
            else (
                np.moveaxis(block, 2, 1).reshape(-1, 64),
                np.moveaxis(found, 2, 1).reshape(-1, 64),
            )
        )
        count = math.ceil(lines.shape[-1] * 0.1 / 2)
        for line, its in zip(lines, seen, strict=True):
            order = np.argsort(line, kind="stable")
            out = np.concatenate([order[:count], order[-count:]])
            rest = line.copy()
            rest[out] = line.mean()
            step = (rest.max() - rest.min()) / 3
            expected = np.round((rest - rest.min()) / step) * step + rest.min()
            expected[out] = line[out]
            assert (its[out] == line[out]).all()
            np.testing.assert_allclose(its, expected, atol=1e-5)
