"""Renumbered positions in TreeKV and H2O: what is kept counts as a text without gaps, as lists of slots and keys before any rotation say."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from curate.compression.heavy_hitters import HeavyHitters
from curate.compression.prefix import LayerView, Prefix
from curate.compression.renumbered import EvictRenumbered, Renumbered, RenumberedSlots
from curate.compression.rotary import Rotary, turned_on
from curate.compression.slots import Slots
from curate.compression.tree_eviction import TreeEviction
from curate.inference.stores import LayerStore, Plain, Ragged
from curate.interfaces import Press
from curate.presses.h2o import H2o
from curate.presses.treekv import Treekv
from tests.presses.sequences import MODEL

HEADS, GROUPS, WIDTH = 2, 2, 16
FREQUENCIES = MODEL.model.model.rotary_emb.inv_freq.double().tolist()
SCALE = WIDTH**-0.5


def turned(states: Tensor, position: int) -> Tensor:
    """(..., d) at a position, pair by pair, from the formula of rotary embeddings."""
    out = states.clone()
    for pair, frequency in enumerate(FREQUENCIES):
        cosine, sine = np.cos(position * frequency), np.sin(position * frequency)
        first, second = states[..., pair], states[..., pair + WIDTH // 2]
        out[..., pair], out[..., pair + WIDTH // 2] = first * cosine - second * sine, first * sine + second * cosine
    return out


@dataclass
class Text:
    """Queries (Hk, G, n, d), keys and values (Hk, n, d) of n tokens, before any position is in them, in float64."""

    queries: Tensor
    keys: Tensor
    values: Tensor

    @classmethod
    def drawn(cls, n: int, seed: int = 0) -> "Text":
        draws = torch.Generator().manual_seed(seed)
        shapes = [(HEADS, GROUPS, n, WIDTH), (HEADS, n, WIDTH), (HEADS, n, WIDTH)]
        queries, keys, values = (torch.randn(shape, generator=draws, dtype=torch.float64) for shape in shapes)
        return cls(1.5 * queries, keys, values)

    def placed(self) -> "Text":
        """With the positions of the model in queries and keys."""
        n = self.keys.shape[1]
        queries = torch.stack([turned(self.queries[:, :, i], i) for i in range(n)], 2)
        return Text(queries, torch.stack([turned(self.keys[:, i], i) for i in range(n)], 1), self.values)

    def prefix(self, n: int) -> Prefix:
        """Its first n tokens, which are in place."""
        view = LayerView(self.queries[:, :, :n].flatten(0, 1), self.keys[:, :n].clone(), self.values[:, :n].clone(), SCALE)
        return Prefix(list(range(2, n + 2)), [view], MODEL, lambda tokens: [])

    def weights(self, head: int, token: int, at: int, others: Sequence[int], places: Sequence[int]) -> Tensor:
        """(G, m): attention of a token that stands at a place to others at theirs; nothing is in place yet."""
        query = turned(self.queries[head, :, token], at)
        keys = torch.stack([turned(self.keys[head, other], place) for other, place in zip(others, places, strict=True)])
        shares: Tensor = (query @ keys.T * SCALE).softmax(-1)
        return shares


def column_sums(text: Text, head: int, n: int, first: int) -> list[float]:
    """What each of n tokens gets from queries `first` to n - 1 of a head, at their own positions."""
    found = torch.zeros(n, dtype=torch.float64)
    for i in range(first, n):
        found[: i + 1] += text.weights(head, i, i, range(i + 1), range(i + 1)).sum(0)
    return found.tolist()


class HeavyList:
    """One head's H2O with lists: tokens in the order of time, each with its sum."""

    def __init__(self, text: Text, head: int, n: int, capacity: int, recent: int) -> None:
        self.capacity, self.recent = capacity, recent
        self.sums = dict(enumerate(column_sums(text, head, n, 0)))
        self.slots = list(range(n))
        if n > capacity:
            newest = self.slots[n - int(recent) :] if recent else []
            others = sorted(set(self.slots) - set(newest), key=lambda token: (-self.sums[token], token))
            self.slots = sorted([*newest, *others[: capacity - len(newest)]])

    def after(self, weights: Tensor) -> None:
        for token, weight in zip(self.slots, weights.sum(0).tolist(), strict=True):
            self.sums[token] = self.sums.get(token, 0.0) + weight
        if len(self.slots) > self.capacity:
            old = self.slots[: len(self.slots) - self.recent]
            self.slots.remove(min(old, key=lambda token: (self.sums[token], -token)))


class TreeList:
    """One head's TreeKV with lists: tokens in the order of time, sums and counts, and a cursor."""

    def __init__(self, text: Text, head: int, n: int, capacity: int, sinks: int, managed: int, block: int) -> None:
        if n > capacity:
            raise ValueError("sweeps of a prefix are tested elsewhere")
        self.capacity, self.sinks, self.managed = capacity, sinks, managed
        self.slots, self.cursor = list(range(n)), 0
        sums = column_sums(text, head, n, max(0, n - block))
        self.seen = {token: (sums[token] / GROUPS, float(min(block, n, n - token))) for token in range(n)}

    def after(self, weights: Tensor) -> None:
        for token, weight in zip(self.slots, weights.mean(0).tolist(), strict=True):
            old = self.seen.get(token, (0.0, 0.0))
            self.seen[token] = (old[0] + weight, old[1] + 1)
        if len(self.slots) > self.capacity:
            worth = {token: total / count for token, (total, count) in self.seen.items()}
            first, second = self.slots[self.sinks + self.cursor : self.sinks + self.cursor + 2]
            self.slots.remove(second if worth[second] < worth[first] else first)
            self.cursor = (self.cursor + 1) % self.managed


def slots_held(cache: HeavyHitters | TreeEviction) -> list[list[int]]:
    """Positions that each head holds, in the order of time."""
    found = [row.tolist() for row in cache.slots.positions]
    if isinstance(cache, TreeEviction):
        return [[row[slot] for slot in cache.order] for row in found]
    return [sorted(p for slot, p in enumerate(row) if cache.free is None or slot != int(cache.free[head])) for head, row in enumerate(found)]


def cache_of(press: Press, prefix: Prefix) -> HeavyHitters | TreeEviction:
    cache = press.decoder(prefix, 0)
    assert isinstance(cache, HeavyHitters | TreeEviction)
    return cache


@pytest.mark.parametrize(
    ("fields", "n"),
    [
        ({"name": "h2o", "tokens": 8, "recent": 0.5}, 16),
        ({"name": "h2o", "tokens": 7, "recent": 0.0}, 5),
        ({"name": "h2o", "tokens": 9, "recent": 1.0}, 16),
        ({"name": "h2o", "tokens": 1, "recent": 0.5}, 6),
        ({"name": "treekv", "tokens": 12, "tree": 0.5, "sinks": 3, "block": 3}, 9),
        ({"name": "treekv", "tokens": 8, "tree": 1.0, "sinks": 0, "block": 4}, 8),
        ({"name": "treekv", "tokens": 1, "block": 3}, 1),
    ],
    ids=str,
)
def test_every_step_attends_as_a_text_of_the_slots_alone(fields: dict[str, Any], n: int) -> None:
    steps, text = 30, Text.drawn(n + 30)
    placed = text.placed()
    tokens = fields["tokens"]
    press: Press
    traces: list[Any]
    if fields["name"] == "h2o":
        press = H2o(**fields, renumber=True)
        traces = [HeavyList(text, head, n, tokens, int(tokens * fields["recent"])) for head in range(HEADS)]
    else:
        press = Treekv(**fields, renumber=True)
        managed = max(1, int(tokens * fields.get("tree", 0.5)))
        traces = [TreeList(text, head, n, tokens, min(fields.get("sinks", 4), tokens - managed), managed, fields["block"]) for head in range(HEADS)]
    cache, moved = cache_of(press, placed.prefix(n)), 0.0
    for i in range(n, n + steps):
        output = cache.attend(placed.queries[:, :, i], placed.keys[:, i : i + 1], placed.values[:, i : i + 1], i, SCALE)
        for head, trace in enumerate(traces):
            trace.slots.append(i)
            last = len(trace.slots) - 1
            weights = text.weights(head, i, last, trace.slots, range(last + 1))
            torch.testing.assert_close(output[head], weights @ text.values[head, trace.slots], rtol=0, atol=1e-9)
            unmoved = text.weights(head, i, i, trace.slots, trace.slots)
            moved = max(moved, float((weights - unmoved).abs().max()))
            trace.after(weights)
        assert slots_held(cache) == [trace.slots for trace in traces]
    assert moved > 0.05 or tokens == 1 or fields.get("recent") == 1.0  # the newest tokens alone have no gaps


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("press", [H2o(tokens=40), Treekv(tokens=40)], ids=lambda press: press.name)
def test_where_nothing_is_evicted_no_bit_changes(press: Press, dtype: torch.dtype) -> None:
    placed = Text.drawn(40).placed()
    placed = Text(placed.queries.to(dtype), placed.keys.to(dtype), placed.values.to(dtype))
    prefix = placed.prefix(20)
    renumbering_too = type(press).model_validate(press.model_dump() | {"renumber": True})
    caches = [cache_of(press, prefix), cache_of(renumbering_too, prefix)]
    assert [type(cache.slots) for cache in caches] == [Slots, RenumberedSlots]
    for i in range(20, 40):
        asked = placed.queries[:, :, i], placed.keys[:, i : i + 1], placed.values[:, i : i + 1]
        one, other = (cache.attend(*asked, i, SCALE) for cache in caches)
        assert one.dtype == dtype and torch.equal(one, other)
    stored = [memory.layers[0].tensors for memory in (press.compress(prefix), renumbering_too.compress(prefix))]
    assert all(torch.equal(one, other) and one.dtype == dtype for one, other in zip(*stored, strict=True))


@pytest.mark.parametrize("press", [H2o(tokens=9), Treekv(tokens=9)], ids=lambda press: press.name)
def test_left_off_keys_are_attended_to_at_their_own_positions_bit_by_bit(press: Press) -> None:
    placed = Text.drawn(50).placed()
    prefix = placed.prefix(20)
    memory = press.compress(prefix)
    assert isinstance(memory.layers[0], Plain)
    assert all(bool((prefix.layers[0].keys[head] == key).all(-1).any()) for head in range(HEADS) for key in memory.layers[0].keys[head])
    cache, heads = cache_of(press, prefix), torch.arange(HEADS)
    for i in range(20, 50):
        positions = cache.slots.positions.clone()
        if cache.free is None:
            positions = torch.nn.functional.pad(positions, (0, 1), value=i)
        else:
            positions[heads, cache.free] = i
        output = cache.attend(placed.queries[:, :, i], placed.keys[:, i : i + 1], placed.values[:, i : i + 1], i, SCALE)
        keys, values = (torch.stack([states[head, positions[head]] for head in range(HEADS)]) for states in (placed.keys, placed.values))
        assert torch.equal(output, ((placed.queries[:, :, i] @ keys.transpose(1, 2)) * SCALE).softmax(-1) @ values)


def heads_of(store: LayerStore, kind: type) -> list[Plain]:
    """What each head keeps."""
    if isinstance(store, Ragged):
        return [one for head in store.heads for one in heads_of(head, kind)]
    assert isinstance(store, kind)
    plain = store.kept if isinstance(store, Renumbered) else store
    assert isinstance(plain, Plain)
    return [Plain(keys, values) for keys, values in zip(plain.keys.split(1), plain.values.split(1), strict=True)]


@pytest.mark.parametrize(
    "press",
    [
        H2o(tokens=11),
        H2o(keep=1.0),
        H2o(tokens=11, importance="key_norm"),  # type: ignore[arg-type]
        H2o(tokens=11, allocator={"name": "pyramid", "beta": 3.0}),  # type: ignore[arg-type]
        Treekv(tokens=14, block=2),
        Treekv(tokens=1),
    ],
    ids=["h2o", "h2o with everything", "h2o by key norms", "h2o with pyramid budgets", "treekv", "treekv with one token"],
)
def test_questions_behind_a_stored_prefix_attend_as_in_a_text_of_it_and_them(press: Press) -> None:
    n, text = 30, Text.drawn(36, seed=3)
    placed = text.placed()
    prefix = placed.prefix(n)
    renumbering_too = type(press).model_validate(press.model_dump() | {"renumber": True})
    plain, store = press.compress(prefix), renumbering_too.compress(prefix)
    assert (store.tokens, store.nbytes) == (n, plain.nbytes)
    for head, (old, new) in enumerate(zip(heads_of(plain.layers[0], Plain), heads_of(store.layers[0], Renumbered), strict=True)):
        kept = [int((prefix.layers[0].keys[head] == key).all(-1).nonzero()) for key in old.keys[0]]
        count = len(kept)
        assert torch.equal(new.values, old.values)
        for j in range(n, n + 6):
            output, _ = new.attend(placed.queries[head : head + 1, :, j], SCALE)
            weights = text.weights(head, j, count + j - n, kept, range(count))
            torch.testing.assert_close(output[0], weights @ text.values[head, kept], rtol=0, atol=1e-9)


def test_heads_that_keep_different_numbers_have_texts_of_different_lengths() -> None:
    n, text = 20, Text.drawn(22, seed=4)
    placed = text.placed()
    kept = [torch.tensor([0, 3, 4, 11]), torch.tensor([2, 17])]
    store = EvictRenumbered().store(placed.prefix(n), 0, kept, torch.ones(HEADS, n))
    assert isinstance(store, Ragged)
    output, _ = store.attend(placed.queries[:, :, 21], SCALE)
    for head, tokens in enumerate(kept):
        weights = text.weights(head, 21, len(tokens) + 1, tokens.tolist(), range(len(tokens)))
        torch.testing.assert_close(output[head], weights @ text.values[head, tokens], rtol=0, atol=1e-9)


@pytest.mark.parametrize("scaling", [1.0, 1.3])
def test_turning_on_adds_to_positions_and_no_rounding_to_the_type(scaling: float) -> None:
    rotary = Rotary(torch.tensor(FREQUENCIES), scaling)
    states = torch.randn(3, 20, WIDTH + 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    shifts = torch.arange(-30000, 30000, 1000).reshape(3, 20)
    expected = states.clone()
    for row in range(3):
        for i in range(20):
            expected[row, i, :WIDTH] = turned(states[row, i, :WIDTH], int(shifts[row, i]))
    torch.testing.assert_close(turned_on(states, shifts, rotary), expected, rtol=0, atol=1e-9)
    half = states.bfloat16()
    assert torch.equal(turned_on(half, torch.zeros(20), rotary), half)
