"""Attention in parts, put together in any order, is the attention over all keys at once, as its formula says."""

from itertools import permutations

import pytest
import torch
from torch import Tensor

from curate.inference.attention import Part, attention, merge


def formula(query: Tensor, key: Tensor, value: Tensor, scale: float, bias: Tensor) -> Part:
    """Row by row in float64."""
    logits = torch.einsum("rhtd,rhnd->rhtn", query.double(), key.double()) * scale + bias.double()
    top = logits.max(-1, keepdim=True).values
    weights = (logits - top).exp()
    sums = weights.sum(-1, keepdim=True)
    return torch.einsum("rhtn,rhnd->rhtd", weights / sums, value.double()), (top + sums.log()).squeeze(-1)


def drawn(tokens: int, keys: int, dtype: torch.dtype, spread: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(tokens * 100 + keys)
    query, key, value = (torch.randn(2, 3, count, 8, generator=draw, dtype=torch.float64) for count in (tokens, keys, keys))
    bias = torch.randn(2, 1, tokens, keys, generator=draw, dtype=torch.float64)
    bias[torch.rand(bias.shape, generator=draw) < 0.3] = float("-inf")
    bias[..., 0] = 0.0  # every query has a key
    return (query * spread).to(dtype), key.to(dtype), value.to(dtype), bias.to(dtype)


@pytest.mark.parametrize("spread", [1.0, 30.0], ids=["even", "one key has it all"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("tokens", "keys"), [(1, 1), (1, 300), (5, 40), (130, 140)], ids=str)
def test_output_and_normaliser_are_those_of_the_formula(tokens: int, keys: int, dtype: torch.dtype, spread: float) -> None:
    query, key, value, bias = drawn(tokens, keys, dtype, spread)
    allowed = 1e-12 if dtype == torch.float64 else 2e-5 * spread
    for given in (bias, None):
        output, normaliser = attention(query, key, value, 0.4, given)
        expected = formula(query, key, value, 0.4, bias if given is not None else torch.zeros(()))
        torch.testing.assert_close(output.double(), expected[0], rtol=allowed, atol=allowed)
        torch.testing.assert_close(normaliser.double(), expected[1], rtol=allowed, atol=allowed)


@pytest.mark.parametrize("order", list(permutations(range(4))), ids=str)
def test_parts_in_any_order_two_of_them_without_a_key_are_the_whole(order: tuple[int, ...]) -> None:
    query, key, value, _ = drawn(3, 20, torch.float64)
    cuts = [(0, 13), (13, 13), (13, 20), (20, 20)]
    parts = [attention(query, key[:, :, first:last], value[:, :, first:last], 0.4) for first, last in cuts]
    output, normaliser = merge([parts[place] for place in order])
    expected = formula(query, key, value, 0.4, torch.zeros(()))
    torch.testing.assert_close(output, expected[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(normaliser, expected[1], rtol=1e-12, atol=1e-12)


def test_without_any_key_there_is_nothing_and_no_number_is_lost() -> None:
    query, key, value, _ = drawn(3, 20, torch.float32)
    none = attention(query, key[:, :, :0], value[:, :, :0], 0.4)
    output, normaliser = merge([none, none])
    assert not output.any() and torch.isneginf(normaliser).all()


@pytest.mark.parametrize("place", [0, 1])
def test_a_part_that_is_no_number_stays_one(place: int) -> None:
    query, key, value, _ = drawn(2, 6, torch.float32)
    parts = [attention(query, key, value, 0.4) for _ in range(2)]
    parts[place] = attention(query * float("nan"), key, value, 0.4)
    assert merge(parts)[0].isnan().all()


def test_a_part_that_counts_for_all_is_the_whole_to_the_bit() -> None:
    query, key, value, _ = drawn(2, 6, torch.float32)
    mine = attention(query, key, value, 0.4)
    nothing = attention(query, key[:, :, :0], value[:, :, :0], 0.4)
    for parts in ([mine, nothing], [nothing, mine]):
        assert torch.equal(merge(parts)[0], mine[0]) and torch.equal(merge(parts)[1], mine[1])
