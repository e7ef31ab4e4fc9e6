"""KIVI: keys by channel and values by token in few bits, the last tokens exact."""

import pytest
import torch
from pydantic import ValidationError

from curate.compression.actions.kivi import Kivi
from curate.compression.quantised import Residual
from curate.inference.stores import Ragged, held_bytes
from curate.presses.kivi import Kivi as Press
from curate.testing.component import check_identity
from curate.testing.random_models import ARCHITECTURES, Architecture, random_model
from tests.presses.stored_prefixes import acted, after, defined, made, queries, read, real, summed, whole


def residual(action: Kivi, n: int, **fields: int | torch.dtype) -> Residual:
    store = acted(action, made(n, **fields))  # type: ignore[arg-type]
    assert isinstance(store, Residual)
    return store


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n", [1, 7, 8, 16, 41, 48, 55])
def test_the_last_n_mod_r_keys_and_the_last_r_values_are_exact_and_no_others(n: int, dtype: torch.dtype) -> None:
    view = made(n, dtype=dtype).layers[0]
    store = residual(Kivi(group=4, residual=8), n, dtype=dtype)
    assert held_bytes(store.tensors) == summed(store.tensors)
    keys, values = store.read()
    assert keys.shape == values.shape == view.keys.shape and keys.dtype == dtype
    exact_keys, exact_values = (keys == view.keys).flatten(2).all(-1).all(0), (values == view.values).flatten(2).all(-1).all(0)
    assert exact_keys[n - n % 8 :].all() and exact_values[max(0, n - 8) :].all()
    assert not exact_keys[: n - n % 8].any() and not exact_values[: max(0, n - 8)].any()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_keys_are_coded_over_tokens_and_values_over_channels(bits: int) -> None:
    view = made(64).layers[0]
    keys, values = residual(Kivi.model_validate({"bits": bits, "group": 8, "residual": 8}), 64).read()
    for first in range(0, 64, 8):
        part = view.keys[:, first : first + 8]
        bound = (part.amax(1) - part.amin(1)) / (2**bits - 1) / 2
        off = (keys[:, first : first + 8] - part).abs().amax(1)
        assert (off <= bound * (1 + 1e-4) + 1e-6).all() and (off > 0.4 * bound).float().mean() > 0.5
    for first in range(0, 16, 8):
        part = view.values[:, :56, first : first + 8]
        bound = (part.amax(-1) - part.amin(-1)) / (2**bits - 1) / 2
        off = (values[:, :56, first : first + 8] - part).abs().amax(-1)
        assert (off <= bound * (1 + 1e-4) + 1e-6).all() and (off > 0.4 * bound).float().mean() > 0.5


def test_a_longer_prefix_codes_its_first_tokens_as_a_shorter_one_does() -> None:
    long = residual(Kivi(group=4, residual=8), 64)
    view = made(64).layers[0]
    for n in (16, 24, 40):
        short = acted(Kivi(group=4, residual=8), made(64), [torch.arange(n)] * 2)
        assert isinstance(short, Residual)
        assert torch.equal(short.read()[0], long.read()[0][:, :n])
        assert torch.equal(short.values.decoded(), long.values.decoded()[:, : n - 8])
        assert torch.equal(short.last_values, view.values[:, n - 8 : n])


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("group", [32, 64])
def test_bytes_of_an_element_are_its_bits_and_32_by_the_group(bits: int, group: int) -> None:
    store = residual(Kivi.model_validate({"bits": bits, "group": group, "residual": 64}), 640, width=128, dtype=torch.float16)
    assert held_bytes(store.tensors) == summed(store.tensors)
    assert store.last_keys.numel() == 0
    assert summed(store.keys.tensors) * 8 == 2 * 640 * 128 * (bits + 32 / group)
    assert summed(store.values.tensors) * 8 == 2 * (640 - 64) * 128 * (bits + 32 / group)
    assert summed([store.last_values]) == 2 * 64 * 128 * 2


def test_a_store_is_attended_to_as_what_it_reads_and_heads_may_differ() -> None:
    prefix = made(50)
    kept = [torch.arange(1, 50, 2), torch.arange(3, 11)]
    for count in (3, 200):
        asked = queries(count)
        store = acted(Kivi(group=4, residual=8), prefix)
        expected = defined(asked, *read(store), 0.25)
        for got, wanted in zip(store.attend(asked, 0.25), expected, strict=True):
            torch.testing.assert_close(got.double(), wanted, atol=1e-5, rtol=1e-5)
        ragged = acted(Kivi(group=4, residual=8), prefix, kept)
        assert isinstance(ragged, Ragged)
        for head, part in enumerate(ragged.heads):
            got = ragged.attend(asked, 0.25)[0][head]
            torch.testing.assert_close(got.double(), defined(asked[head : head + 1], *read(part), 0.25)[0][0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_press_comes_close_at_eight_bits_and_a_short_prefix_is_exact(architecture: Architecture) -> None:
    model = random_model(architecture)
    with torch.inference_mode():
        prefix = real(model, 100)
        exact = after(model, whole(prefix))
        presses = [Press(action=Kivi.model_validate({"bits": bits, "group": 16, "residual": 16})) for bits in (2, 4, 8)]
        errors = [float((after(model, press.compress(prefix)) - exact).norm() / exact.norm()) for press in presses]
        assert errors == sorted(errors, reverse=True) and errors[-1] < 0.02 and errors[0] > 0.01
        short = real(model, 20)
        assert torch.equal(after(model, Press().compress(short)), after(model, whole(short)))


def test_a_bfloat16_model_is_served_in_bfloat16() -> None:
    model = random_model("gpt_neox")
    model.model.bfloat16()
    with torch.inference_mode():
        prefix = real(model, 96)
        memory = Press().compress(prefix)
        assert after(model, memory).isfinite().all()
        coded_keys, coded_values = (2 + 1) / 16, ((2 + 32 / 16) / 16 * 64 + 32) / 96  # 16 channels share a scale; 64 of 96 values are coded
        assert memory.nbytes == whole(prefix).nbytes * (coded_keys + coded_values) / 2


def test_a_residual_that_is_no_multiple_of_the_group_is_refused_with_one_that_is() -> None:
    with pytest.raises(ValidationError, match="residual 40 is not a multiple of group 32; use 64"):
        Kivi(residual=40)


def test_the_components_are_what_they_say() -> None:
    check_identity(Press(), "presses")
    check_identity(Kivi(), "actions")
    assert Press.model_validate_json(Press().model_dump_json()) == Press()
