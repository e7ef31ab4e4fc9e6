"""Sums of a sketch as whole numbers: those of float64 to rounding, and the same bits in whatever order terms come."""

import math

import pytest
import torch

from curate.projection import CountSketch, _add_whole

WIDTH = 64


def drawn(rows: int, terms: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Terms of many magnitudes, and their buckets."""
    random = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, terms, generator=random) * 10 ** torch.randint(-6, 7, (rows, terms), generator=random).float()
    return values, torch.randint(0, WIDTH, (terms,), generator=random).expand(rows, -1)


def whole(terms: torch.Tensor, bucket: torch.Tensor) -> torch.Tensor:
    into = torch.zeros(len(terms), WIDTH)
    _add_whole(into, bucket, terms)
    return into


def test_the_sums_are_those_of_float64_to_the_rounding_of_float32() -> None:
    terms, bucket = drawn(5, 3000)
    exact = torch.zeros(5, WIDTH, dtype=torch.float64).scatter_add_(1, bucket, terms.double())
    most = terms.abs().amax(1, keepdim=True).double()
    assert bool(((whole(terms, bucket).double() - exact).abs() <= exact.abs() * 2**-23 + 3000 * most * 2**-40).all())


def test_the_order_of_terms_and_the_other_rows_change_no_bit() -> None:
    terms, bucket = drawn(5, 3000)
    order = torch.randperm(3000, generator=torch.Generator().manual_seed(1))
    found = whole(terms, bucket)
    assert torch.equal(whole(terms[:, order], bucket[:, order]), found)
    assert torch.equal(whole(terms[2:3], bucket[2:3]), found[2:3])
    plain = torch.zeros(5, WIDTH).scatter_add_(1, bucket, terms)
    assert not torch.equal(torch.zeros(5, WIDTH).scatter_add_(1, bucket[:, order], terms[:, order]), plain)  # which floats do not promise


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1.0, 1e30])
def test_terms_of_any_magnitude_are_kept(scale: float) -> None:
    terms = torch.tensor([[1.0, -2.0, 3.0, 0.5]]) * scale
    found = whole(terms, torch.tensor([[0, 1, 0, 5]]))
    torch.testing.assert_close(found[0, [0, 1, 5]], torch.tensor([4.0, -2.0, 0.5]) * scale, rtol=1e-6, atol=0)
    assert int((found != 0).sum()) == 3


def test_as_many_of_the_largest_terms_as_a_piece_has_do_not_overflow() -> None:
    terms = torch.full((1, 1 << 22), 1.9999999)
    assert whole(terms, torch.zeros(1, 1 << 22, dtype=torch.int64))[0, 0] == pytest.approx(1.9999999 * 2**22, rel=1e-6)


def test_zero_rows_stay_zero_and_rows_that_are_not_finite_give_no_number() -> None:
    terms = torch.tensor([[0.0, 0.0], [1.0, math.nan], [math.inf, 1.0], [1.0, 2.0]])
    found = whole(terms, torch.tensor([[0, 1]]).expand(4, -1))
    assert bool((found[0] == 0).all()) and bool(found[1:3].isnan().all()) and found[3, :2].tolist() == [1.0, 2.0]


@pytest.mark.gpu
def test_a_sketch_on_a_gpu_has_the_same_bits_every_time() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    sketch, values = CountSketch(256), torch.randn(16, 1 << 20, generator=torch.Generator().manual_seed(0))
    expected = torch.zeros(16, 256)
    sketch.add(expected, values, 0)
    found = []
    for _ in range(3):
        into = torch.zeros(16, 256, device="cuda")
        sketch.add(into, values.cuda(), 0)
        found.append(into.cpu())
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-2)
