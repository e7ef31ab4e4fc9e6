"""MiKV: important tokens untouched, all others in few bits, at the bytes that the paper's table has."""

import pytest
import torch
from torch import Tensor

from curate.compression.actions.mikv import Mikv, balancer
from curate.compression.parts import AnyAction
from curate.compression.quantised import Tiers
from curate.inference.stores import Memory, Ragged, held_bytes
from curate.presses.mikv import Mikv as Press
from curate.testing.component import check_identity
from curate.testing.random_models import ARCHITECTURES, Architecture, random_model
from tests.presses.stored_prefixes import acted, after, defined, everything, made, queries, read, real, summed, whole

KEPT = [torch.tensor([0, 3, 4, 17, 39]), torch.tensor([1, 2, 5, 6, 38])]


def tiers(action: Mikv, dtype: torch.dtype) -> tuple[Tiers, Tensor, Tensor]:
    prefix = made(40, dtype=dtype)
    store = acted(action, prefix, KEPT)
    assert isinstance(store, Tiers)
    return store, prefix.layers[0].keys, prefix.layers[0].values


@pytest.mark.parametrize("bits", [2, 3, 4, 8, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_important_tokens_are_untouched_and_all_stay_in_their_places(bits: int, dtype: torch.dtype) -> None:
    store, keys, values = tiers(Mikv.model_validate({"bits": bits}), dtype)
    got_keys, got_values = store.read()
    assert got_keys.shape == keys.shape and got_keys.dtype == got_values.dtype == dtype
    for head, tokens in enumerate(KEPT):
        assert torch.equal(got_keys[head, tokens], keys[head, tokens])
        assert torch.equal(got_values[head, tokens], values[head, tokens])
    if bits == 16:
        assert torch.equal(got_keys, keys) and torch.equal(got_values, values)
    if bits == 8:
        torch.testing.assert_close(got_keys.float(), keys.float(), atol=0.2, rtol=0.02)


def test_the_others_are_off_by_half_a_step_of_their_own_group_of_half_the_channels() -> None:
    prefix = made(40)
    view = prefix.layers[0]
    got_keys, got_values = read(acted(Mikv(bits=3), prefix, KEPT))
    numbers = balancer(view).unsqueeze(1)
    for got, exact in ((got_keys * numbers, view.keys * numbers), (got_values, view.values)):
        for half in (slice(0, 8), slice(8, 16)):
            part = exact[..., half]
            bound = (part.amax(-1) - part.amin(-1)) / 7 / 2
            off = (got[..., half] - part).abs().amax(-1)
            assert (off <= bound * (1 + 1e-4)).all() and (off > 0.3 * bound).float().mean() > 0.5


def test_the_balancer_is_the_root_of_the_largest_query_over_the_largest_key() -> None:
    view = made(40, heads=2, groups=3).layers[0]
    got = balancer(view)
    for head in range(2):
        for channel in range(16):
            asked = max(float(view.queries[q, i, channel].abs()) for q in range(3 * head, 3 * head + 3) for i in range(40))
            held = max(float(view.keys[head, i, channel].abs()) for i in range(40))
            assert abs(float(got[head, channel]) - (asked / held) ** 0.5) < 1e-5


def test_the_balancer_leaves_logits_as_they_are_and_brings_the_error_of_coded_ones_down() -> None:
    prefix = made(200, width=32)
    view = prefix.layers[0]
    numbers = balancer(view).unsqueeze(1)
    asked = view.queries.view(2, -1, 32)
    exact = asked @ view.keys.transpose(1, 2)
    torch.testing.assert_close((asked / numbers) @ (view.keys * numbers).transpose(1, 2), exact, atol=1e-4, rtol=1e-6)
    none = [torch.zeros(0, dtype=torch.long)] * 2
    got = asked @ read(acted(Mikv(bits=4), prefix, none))[0].transpose(1, 2)
    keys = view.keys.unflatten(-1, (2, 16))
    step = (keys.amax(-1, keepdim=True) - keys.amin(-1, keepdim=True)) / 15
    plain = (((keys - keys.amin(-1, keepdim=True)) / step).round() * step + keys.amin(-1, keepdim=True)).flatten(-2)
    assert (got - exact).norm() < 0.8 * (asked @ plain.transpose(1, 2) - exact).norm()


def test_a_store_is_attended_to_as_what_it_reads_and_the_whole_budget_is_the_whole_cache() -> None:
    prefix = made(40)
    view = prefix.layers[0]
    for count in (3, 200):
        asked = queries(count)
        store = acted(Mikv(), prefix, KEPT)
        for got, expected in zip(store.attend(asked, 0.25), defined(asked, *read(store), 0.25), strict=True):
            torch.testing.assert_close(got.double(), expected, atol=1e-5, rtol=1e-5)
        kept, exact = acted(Mikv(), prefix, everything(prefix)).attend(asked, 0.25), whole(prefix).layers[0].attend(asked, 0.25)
        assert torch.equal(kept[0], exact[0]) and torch.equal(kept[1], exact[1])
    assert torch.equal(read(acted(Mikv(), prefix, everything(prefix)))[0], view.keys)


def test_heads_with_different_numbers_are_stored_apart() -> None:
    prefix = made(40)
    kept = [torch.tensor([1, 2, 3]), torch.arange(0)]
    store = acted(Mikv(), prefix, kept)
    assert isinstance(store, Ragged)
    read_apart = [head.read() for head in store.heads if isinstance(head, Tiers)]
    keys, values = torch.cat([pair[0] for pair in read_apart]), torch.cat([pair[1] for pair in read_apart])
    assert torch.equal(keys[0, kept[0]], prefix.layers[0].keys[0, kept[0]])
    got = store.attend(queries(3), 0.25)
    torch.testing.assert_close(got[0].double(), defined(queries(3), keys, values, 0.25)[0], atol=1e-5, rtol=1e-5)
    assert held_bytes(store.tensors) == summed(store.tensors)


@pytest.mark.parametrize(("bits", "share"), [(2, 0.325), (3, 0.375), (4, 0.425)])
def test_bytes_are_those_of_the_papers_table_and_a_bit_per_token(bits: int, share: float) -> None:
    prefix = made(1000, width=128, dtype=torch.float16)
    view = prefix.layers[0]
    store = acted(Mikv.model_validate({"bits": bits}), prefix, [torch.arange(200)] * 2)
    assert isinstance(store, Tiers) and store.balancer is not None
    whole_bytes = summed([view.keys, view.values])
    assert held_bytes(store.tensors) == summed(store.tensors)
    assert held_bytes(store.tensors) - summed([store.high, store.balancer]) == round(whole_bytes * share)
    assert store.high.numel() == 2 * 1000 // 8 and store.balancer.numel() == 2 * 128


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_press_keeps_a_fifth_half_of_it_the_newest_and_comes_close(architecture: Architecture) -> None:
    model = random_model(architecture)
    with torch.inference_mode():
        prefix = real(model, 60)
        memory = Press().compress(prefix)
        for store, view in zip(memory.layers, prefix.layers, strict=True):
            same = (read(store)[0] == view.keys).all(-1)
            assert (same.sum(1) >= 12).all() and same[:, -6:].all() and not same.all()
        exact = after(model, whole(prefix))
        errors = [float((after(model, press.compress(prefix)) - exact).norm()) for press in map(with_bits, (2, 4, 8))]
        assert errors == sorted(errors, reverse=True) and errors[-1] < 0.02 * float(exact.norm())
        assert torch.equal(after(model, Press(keep=1.0).compress(prefix)), exact)
        assert memory.nbytes < 0.6 * whole(prefix).nbytes  # groups of 8 channels with float32 scales


def with_bits(bits: int) -> Press:
    action: AnyAction = Mikv.model_validate({"bits": bits})
    return Press(action=action)


def test_a_bfloat16_model_is_served_in_bfloat16() -> None:
    model = random_model("qwen2")
    model.model.bfloat16()
    with torch.inference_mode():
        prefix = real(model, 50)
        memory = Press().compress(prefix)
        assert after(model, memory).isfinite().all()
        assert isinstance(memory, Memory) and memory.nbytes < 0.6 * whole(prefix).nbytes


def test_the_components_are_what_they_say() -> None:
    check_identity(Press(), "presses")
    check_identity(Mikv(), "actions")
