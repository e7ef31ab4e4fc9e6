"""ThinK: channels that are gone are gone, and nothing else changes."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from curate.compression.actions.think import Think
from curate.compression.prefix import Prefix
from curate.compression.quantised import SlimKeys
from curate.inference.stores import Plain, Ragged, held_bytes
from curate.presses.think import Think as Press
from curate.testing.component import check_identity
from curate.testing.random_models import ARCHITECTURES, Architecture, random_model
from tests.presses.stored_prefixes import Given, acted, after, defined, made, queries, real, summed, whole


def slim(action: Think, prefix: Prefix, kept: list[Tensor] | None = None) -> SlimKeys:
    store = acted(action, prefix, kept)
    assert isinstance(store, SlimKeys)
    return store


def brute_force(prefix: Prefix, head: int, groups: int, window: int, kept: Tensor, left: int) -> list[int]:
    """The channels whose logits q_c k_c^T, over the window's queries of the group and all kept keys, have the largest Frobenius norms."""
    view = prefix.layers[0]
    norms = []
    for channel in range(view.keys.shape[-1]):
        total = 0.0
        for query in range(head * groups, head * groups + groups):
            part = torch.outer(view.queries[query, -window:, channel].double(), view.keys[head, kept, channel].double())
            total += float(part.norm() ** 2)
        norms.append(total)
    return sorted(sorted(range(len(norms)), key=lambda channel: (-norms[channel], channel))[:left])


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("drop", [0.0, 0.3, 0.4, 0.95])
def test_the_channels_are_those_whose_logits_have_the_largest_norms(groups: int, drop: float) -> None:
    prefix = made(90, groups=groups)
    kept = [torch.arange(0, 90, 2), torch.arange(1, 90, 2)]
    store = slim(Think(drop=drop, recent=10, window=20), prefix, kept)
    for head in range(2):
        assert store.channels[head].tolist() == brute_force(prefix, head, groups, 20, kept[head], 16 - int(16 * drop))
    assert store.slim.shape == (2, 35, 16 - int(16 * drop)) and store.last.shape == (2, 10, 16)


def test_permuting_channels_permutes_the_choice() -> None:
    prefix = made(60)
    view = prefix.layers[0]
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    turned = replace(prefix, layers=[replace(view, queries=view.queries[..., order], keys=view.keys[..., order])])
    for one, other in zip(slim(Think(), prefix).channels.long(), slim(Think(), turned).channels.long(), strict=True):
        assert set(one.tolist()) == set(order[other].tolist())


@pytest.mark.parametrize("count", [1, 3, 127, 200])
@pytest.mark.parametrize("recent", [0, 10, 90])
def test_dropping_channels_is_setting_them_to_zero_at_the_scale_of_all(count: int, recent: int) -> None:
    prefix = made(90)
    view = prefix.layers[0]
    store = slim(Think(drop=0.4, recent=recent), prefix)
    zeroed = view.keys.clone()
    for head in range(2):
        gone = sorted(set(range(16)) - set(store.channels[head].tolist()))
        assert len(gone) == 6
        zeroed[head, : 90 - recent, gone] = 0
    assert torch.equal(store.zeroed(), zeroed)
    asked = queries(count)
    for got, expected in zip(store.attend(asked, 0.25), defined(asked, zeroed, view.values, 0.25), strict=True):
        torch.testing.assert_close(got.double(), expected, atol=1e-5, rtol=1e-5)
    plain = Plain(zeroed, view.values).attend(asked, 0.25)
    for got, same in zip(store.attend(asked, 0.25), plain, strict=True):
        torch.testing.assert_close(got, same, atol=2e-6, rtol=2e-6)


def test_dropping_nothing_is_the_cache_to_the_bit() -> None:
    prefix = made(90)
    view = prefix.layers[0]
    store = slim(Think(drop=0.0), prefix)
    assert torch.equal(store.zeroed(), view.keys) and torch.equal(store.values, view.values)


@pytest.mark.parametrize("n", [1, 31, 32])
def test_a_prefix_no_longer_than_the_recent_tokens_is_untouched(n: int) -> None:
    prefix = made(n)
    for count in (3, 200):
        got = acted(Think(), prefix).attend(queries(count), 0.25)
        exact = Plain(prefix.layers[0].keys, prefix.layers[0].values).attend(queries(count), 0.25)
        assert torch.equal(got[0], exact[0]) and torch.equal(got[1], exact[1])


def test_heads_with_different_numbers_are_stored_apart() -> None:
    prefix = made(90)
    view = prefix.layers[0]
    store = acted(Think(drop=0.0, recent=4), prefix, [torch.arange(90), torch.arange(0)])
    assert isinstance(store, Ragged)
    for count in (3, 200):
        output, normaliser = store.attend(queries(count), 0.25)
        torch.testing.assert_close(output[0].double(), defined(queries(count), view.keys, view.values, 0.25)[0][0], atol=1e-5, rtol=1e-5)
        assert (output[1] == 0).all() and (normaliser[1] == float("-inf")).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_bytes_are_those_of_the_channels_that_are_left(dtype: torch.dtype) -> None:
    store = slim(Think(), made(500, width=128, dtype=dtype))
    keys = 2 * (468 * 77 + 32 * 128) * 2
    assert held_bytes(store.tensors) == summed(store.tensors) == keys + 2 * 500 * 128 * 2 + 2 * 77 * 2


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_press_without_a_drop_is_exact_and_works_after_eviction(architecture: Architecture) -> None:
    model = random_model(architecture)
    with torch.inference_mode():
        prefix = real(model, 80)
        exact = after(model, whole(prefix))
        torch.testing.assert_close(after(model, Press(action=Think(drop=0.0)).compress(prefix)), exact, atol=1e-4, rtol=1e-4)
        errors = [float((after(model, Press(action=Think(drop=drop)).compress(prefix)) - exact).norm()) for drop in (0.1, 0.6)]
        assert 0 < errors[0] < errors[1]
        evicted = Press(keep=0.5, importance=Given(best=79)).compress(prefix)
        assert evicted.nbytes < 0.5 * whole(prefix).nbytes and after(model, evicted).isfinite().all()


def test_a_bfloat16_model_is_served_in_bfloat16() -> None:
    model = random_model("qwen2")
    model.model.bfloat16()
    with torch.inference_mode():
        prefix = real(model, 80)
        memory = Press().compress(prefix)
        assert after(model, memory).isfinite().all()
        one = 2 * (48 * 10 + 32 * 16 + 80 * 16) * 2 + 2 * 10 * 2
        assert memory.nbytes == 3 * one


def test_the_components_are_what_they_say() -> None:
    check_identity(Press(), "presses")
    check_identity(Think(), "actions")
