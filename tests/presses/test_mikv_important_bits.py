"""MiKV whose important tokens are in few bits too: what is held of them, at the bytes of the paper's table, and what becomes of them while it decodes."""

import copy
import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from curate.compression.actions.mikv import Mikv, balancer
from curate.compression.codec import coded, codes_of
from curate.compression.demotion import Demoting
from curate.compression.prefix import LayerView, Prefix
from curate.compression.quantised import Tiers, balanced, unbalanced
from curate.inference.stores import Ragged, held_bytes
from curate.presses.mikv import Mikv as Press
from curate.testing import check_press
from curate.testing.random_models import random_model
from tests.presses import test_growing_together as growing
from tests.presses.sequences import attention_of
from tests.presses.stored_prefixes import MODEL, acted, after, defined, everything, made, queries, read, real, summed, whole

HEADS, GROUPS, WIDTH = 2, 2, 16
KEPT = [torch.tensor([0, 3, 4, 17, 39]), torch.tensor([1, 2, 5, 6, 38])]
PAIRS = [(8, 2), (8, 4), (4, 2), (4, 4), (3, 2), (2, 2)]  # important_bits, bits


def action(important: int, bits: int = 2, **fields: Any) -> Mikv:
    return Mikv.model_validate({"important_bits": important, "bits": bits, **fields})


def press(important: int, bits: int = 2, **fields: Any) -> Press:
    return Press.model_validate({"action": {"name": "mikv", "important_bits": important, "bits": bits}, **fields})


def rounded(numbers: Tensor, bits: int, group: int = WIDTH // 2) -> Tensor:
    """Float64 numbers (..., d) at 2^bits levels from the lowest to the highest of their group, from the definition."""
    groups = numbers.double().unflatten(-1, (-1, group))
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    step = (high - low) / (2**bits - 1)
    made_of: Tensor = (((groups - low) / step).round() * step + low).flatten(-2)
    return made_of


@pytest.mark.parametrize(("important", "bits"), PAIRS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_important_tokens_are_the_codecs_round_trip_and_the_others_are_as_before(important: int, bits: int, dtype: torch.dtype) -> None:
    prefix = made(40, dtype=dtype)
    view = prefix.layers[0]
    store = acted(action(important, bits), prefix, KEPT)
    assert isinstance(store, Tiers) and store.coded
    keys, values = store.read()
    before = read(acted(action(16, bits), prefix, KEPT))
    by = balancer(view).unsqueeze(1)
    trip = unbalanced(coded(balanced(view.keys, by), important, 8).decoded(), by), coded(view.values, important, 8).decoded()
    exact = rounded(view.keys.double() * by.double(), important) / by.double(), rounded(view.values, important)
    for got, old, turned, defined_as in zip((keys, values), before, trip, exact, strict=True):
        assert got.shape == old.shape and got.dtype == dtype
        for head, tokens in enumerate(KEPT):
            assert torch.equal(got[head, tokens], turned[head, tokens])
            if dtype == torch.float32:
                torch.testing.assert_close(got[head, tokens].double(), defined_as[head, tokens], atol=1e-4, rtol=1e-4)
            others = [token for token in range(40) if token not in tokens.tolist()]
            assert torch.equal(got[head, others], old[head, others])
        assert important == bits or not torch.equal(got, old)


@pytest.mark.parametrize(("important", "percent"), [(16, 32.5), (8, 23.125), (4, 18.125), (2, 15.625)])
def test_bytes_are_those_of_the_papers_table(important: int, percent: float) -> None:
    prefix = made(1000, width=128, dtype=torch.float16)
    view = prefix.layers[0]
    tensors = acted(action(important), prefix, [torch.arange(200)] * 2).tensors
    assert held_bytes(tensors) == summed(tensors)
    beside = 2 * 1000 // 8 + 2 * 128 * 2  # a bit per head and token, and the balancer
    assert (held_bytes(tensors) - beside) * 100 == round(summed([view.keys, view.values]) * percent)


@pytest.mark.parametrize("bits", [2, 4, 16])
def test_16_bits_are_the_default_to_the_bit(bits: int) -> None:
    prefix = made(40)
    one, other = acted(Mikv.model_validate({"bits": bits}), prefix, KEPT), acted(action(16, bits), prefix, KEPT)
    assert len(one.tensors) == len(other.tensors) and all(map(torch.equal, one.tensors, other.tensors))
    for head, tokens in enumerate(KEPT):
        assert torch.equal(read(other)[0][head, tokens], prefix.layers[0].keys[head, tokens])
    assert Mikv().important_bits == 16


def test_important_tokens_are_never_in_fewer_bits_than_the_others() -> None:
    with pytest.raises(ValidationError, match="important_bits 2 are fewer than bits 4 of the other tokens; use at least 4"):
        action(2, 4)
    with pytest.raises(ValidationError, match="use at least 16"):
        action(8, 16)
    with pytest.raises(ValidationError, match="important_bits"):
        action(5)


def test_the_store_is_attended_to_as_what_it_reads_with_any_group_and_heads_apart() -> None:
    prefix = made(40)
    for kept in (KEPT, everything(prefix), [torch.arange(0)] * 2):
        for count in (3, 200):
            store = acted(action(4, 2, group=3), prefix, kept)
            for got, expected in zip(store.attend(queries(count), 0.25), defined(queries(count), *read(store), 0.25), strict=True):
                torch.testing.assert_close(got.double(), expected, atol=1e-5, rtol=1e-5)
    apart = acted(action(8), prefix, [KEPT[0][:3], KEPT[1]])
    assert isinstance(apart, Ragged) and held_bytes(apart.tensors) == summed(apart.tensors)
    for head, part in enumerate(apart.heads):
        assert isinstance(part, Tiers) and part.coded
        rows = (KEPT[0][:3], KEPT[1])[head]
        assert torch.equal(part.read()[0][0, rows], read(acted(action(8), prefix, KEPT))[0][head, rows])


def test_more_important_bits_come_closer_and_16_are_exact_where_all_is_kept() -> None:
    model = random_model("qwen2")
    with torch.inference_mode():
        prefix = real(model, 60)
        exact = after(model, whole(prefix))
        errors = [float((after(model, press(bits, keep=1.0).compress(prefix)) - exact).norm() / exact.norm()) for bits in (2, 3, 4, 8, 16)]
        sizes = [press(bits).compress(prefix).nbytes for bits in (2, 3, 4, 8, 16)]
    assert errors == sorted(errors, reverse=True) and errors[-1] == 0 < errors[-2] < 0.02
    assert sizes == sorted(sizes) and len(set(sizes)) == 5


def sequence(n: int, steps: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Prefix, LayerView]:
    """(a prefix of n tokens, all n + steps of them)."""
    view = made(n + steps, heads=HEADS, groups=GROUPS, width=WIDTH, dtype=dtype, seed=seed).layers[0]
    first = LayerView(view.queries[:, :n], view.keys[:, :n], view.values[:, :n], view.scale)
    return Prefix(list(range(n)), [first], MODEL, lambda tokens: []), view


def cache_of(made_press: Press, prefix: Prefix) -> Demoting:
    cache = made_press.decoder(prefix, 0)
    assert isinstance(cache, Demoting)
    return cache


def step(cache: Demoting, view: LayerView, i: int) -> Tensor:
    return cache.attend(view.queries[:, i].view(HEADS, GROUPS, WIDTH), view.keys[:, i : i + 1], view.values[:, i : i + 1], i, view.scale)


class Trace:
    """By definition, in float64: what is held of every token is coded when it enters as important, and again from what is held when it is demoted."""

    def __init__(self, view: LayerView, n: int, keep: float, share: float, important: int, bits: int) -> None:
        self.view, self.keep, self.share, self.important, self.bits = view, keep, share, important, bits
        first = LayerView(view.queries[:, :n], view.keys[:, :n], view.values[:, :n], view.scale)
        self.sums = attention_of(first).view(HEADS, GROUPS, n, n).sum((1, 2)).tolist()
        largest = [states[:, :n].double().abs().amax(1) for states in (view.queries, view.keys)]
        self.by = (largest[0].view(HEADS, GROUPS, WIDTH).amax(1) / largest[1]).sqrt()
        self.high = [set(range(n)) for _ in range(HEADS)]
        for head in range(HEADS):
            self.settle(head, n, [])
        self.held: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(HEADS)]
        for head in range(HEADS):
            for token in range(n):
                self.enter(head, token, important if token in self.high[head] else bits)

    def enter(self, head: int, token: int, bits: int) -> None:
        key, value = self.view.keys[head, token].double() * self.by[head], self.view.values[head, token]
        self.held[head].append((rounded(key, bits), rounded(value, bits)))

    def settle(self, head: int, seen: int, gone: list[int]) -> None:
        many = max(1, math.ceil(self.keep * seen - 1e-9))
        while len(self.high[head]) > many:
            old = sorted(self.high[head])[: len(self.high[head]) - int(many * self.share)]
            gone.append(min(old, key=lambda token: (self.sums[head][token], -token)))
            self.high[head].discard(gone[-1])

    def step(self, i: int) -> Tensor:
        outputs = []
        for head in range(HEADS):
            self.enter(head, i, self.important)
            self.high[head].add(i)
            keys, values = (torch.stack(part) for part in zip(*self.held[head], strict=True))
            query = self.view.queries[:, i].view(HEADS, GROUPS, WIDTH)[head].double()
            weights = (query @ (keys / self.by[head]).T * self.view.scale).softmax(-1)
            outputs.append(weights @ values)
            self.sums[head] = [old + new for old, new in zip([*self.sums[head], 0.0], weights.sum(0).tolist(), strict=True)]
            gone: list[int] = []
            self.settle(head, i + 1, gone)
            for token in gone:
                key, value = self.held[head][token]
                self.held[head][token] = rounded(key, self.bits), rounded(value, self.bits)
        return torch.stack(outputs)


@pytest.mark.parametrize(("keep", "share"), [(0.3, 0.5), (0.25, 0.0), (0.3, 1.0), (0.05, 0.5), (0.9, 0.5)])
@pytest.mark.parametrize(("important", "bits"), [(8, 2), (4, 2), (4, 3), (2, 2)])
def test_while_it_decodes_it_holds_what_a_trace_in_float64_holds(keep: float, share: float, important: int, bits: int) -> None:
    prefix, view = sequence(20, 30, seed=2)
    cache = cache_of(press(important, bits, keep=keep, recent=share), prefix)
    trace = Trace(view, 20, keep, share, important, bits)
    assert [set(row) for row in cache.positions.tolist()] == trace.high
    for i in range(20, 50):
        torch.testing.assert_close(step(cache, view, i).double(), trace.step(i), atol=3e-4, rtol=3e-4)
        assert [set(row) for row in cache.positions.tolist()] == trace.high
        for head in range(HEADS):
            held = torch.stack([trace.held[head][token][0] / trace.by[head] for token in cache.positions[head].tolist()])
            torch.testing.assert_close(cache.keys[head].double(), held, atol=3e-4, rtol=3e-4)
        assert cache.positions.shape[1] + cache.low.read()[0].shape[1] == i + 1


@pytest.mark.parametrize(("important", "bits"), [(8, 2), (4, 2), (8, 4), (4, 3), (8, 3), (8, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_demoted_token_is_coded_once_from_its_important_code_and_never_again(important: int, bits: int, dtype: torch.dtype) -> None:
    prefix, view = sequence(20, 30, dtype, seed=1)
    cache = cache_of(press(important, bits, keep=0.3), prefix)
    by = balancer(prefix.layers[0])
    other, demoted = 0, 0
    for i in range(20, 50):
        before, low = copy.deepcopy(cache), [tensor.clone() for tensor in (*cache.low.keys.tensors, *cache.low.values.tensors)]
        step(cache, view, i)
        now = (*cache.low.keys.tensors, *cache.low.values.tensors)
        assert all(torch.equal(new[:, : old.shape[1]], old) for new, old in zip(now, low, strict=True))
        if now[0].shape[1] == low[0].shape[1]:
            continue
        demoted += 1
        for head in range(HEADS):
            went = set([*before.positions[head].tolist(), i]) - set(cache.positions[head].tolist())
            assert len(went) == 1
            token = went.pop()
            for kind, states in enumerate((balanced(view.keys, by.unsqueeze(1)), view.values)):
                original = states[head, token].view(1, 1, -1)
                expected = coded(coded(original, important, 8).decoded(), bits, 8)
                got = (cache.low.keys, cache.low.values)[kind].decoded()[head, -1]
                assert torch.equal(got, expected.decoded()[0, 0])
                other += int((codes_of(expected) != codes_of(coded(original, bits, 8))).sum())
    assert demoted == 21
    if dtype == torch.float32:  # the levels of 2 and 4 bits are among those of 4 and 8, and none of these lies half-way between two of them
        assert (other == 0) == (bits != 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_important_tokens_take_so_many_bits_while_it_decodes_too(dtype: torch.dtype) -> None:
    prefix, view = sequence(40, 20, dtype)
    for important in (2, 3, 4, 8):
        cache = cache_of(press(important, keep=0.3), prefix)
        for i in range(40, 60):
            step(cache, view, i)
            many, size = math.ceil(0.3 * (i + 1) - 1e-9), dtype.itemsize
            token = 2 * (2 * 2 * size)  # of keys and of values: steps and lowest values of two groups
            expected = HEADS * (many * (2 * WIDTH * important // 8 + token + 8 + 4) + (i + 1 - many) * (2 * WIDTH * 2 // 8 + token) + WIDTH * size)
            assert held_bytes(cache.tensors) == expected == summed(cache.tensors) - HEADS * WIDTH * size  # both tiers have one balancer


FEW = {"name": "mikv", "bits": 2, "important_bits": 8}
SETTINGS: list[tuple[dict[str, Any], list[int], int]] = [
    ({"name": "mikv", "keep": 0.3, "action": FEW}, [20, 3, 41, 1, 33], 30),
    ({"name": "mikv", "keep": 0.2, "recent": 0.0, "action": {"name": "mikv", "bits": 3, "important_bits": 4, "group": 3}}, [20, 7, 11, 30, 31], 30),
    ({"name": "mikv", "keep": 0.4, "recent": 1.0, "action": {**FEW, "important_bits": 2}}, [20, 7, 11, 30, 31], 20),
    ({"name": "mikv", "tokens": 6, "action": {**FEW, "important_bits": 3}}, [20, 3, 6, 4, 31], 30),
]


@pytest.mark.parametrize(("fields", "lengths", "steps"), SETTINGS)
def test_answers_that_grow_at_once_attend_as_those_that_grow_alone(fields: dict[str, Any], lengths: list[int], steps: int) -> None:
    growing.test_every_answer_attends_as_over_a_cache_of_its_own(fields, lengths, steps, 1e-6)


def test_the_other_promises_of_answers_that_grow_at_once_hold() -> None:
    fields, lengths, steps = SETTINGS[0]
    growing.test_an_answer_without_numbers_spoils_no_other(fields, lengths, steps, 1e-6)
    growing.test_what_a_prompt_has_in_few_bits_is_held_once_and_decoded_once_a_step(fields)
    for dtype in (torch.float32, torch.bfloat16):
        growing.test_smaller_numbers_are_attended_to_alike(fields, dtype)
    growing.test_several_prompts_at_once_are_answered_as_one_by_one(fields, [9, 30, 17, 24], "cpu")


def test_answers_that_grow_at_once_hold_important_tokens_in_few_bits() -> None:
    sizes = []
    for important in (2, 4, 8, 16):
        together = growing.joined([growing.cache_of(growing.press_of({**SETTINGS[0][0], "action": {**FEW, "important_bits": important}}), 200, 0)], [4])
        for i in range(3):
            together.attend(*growing.stacked(growing.streams(4, 3), i), 0.25)
        sizes.append(held_bytes(together.tensors))
    assert sizes == sorted(sizes) and sizes[2] < 0.6 * sizes[3]


def test_the_press_keeps_the_contract() -> None:
    check_press(press(8), error=0.02)
