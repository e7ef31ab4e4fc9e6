"""TreeKV's sweep thins out with age, as plain lists do it: in decoding, and over a prefix in blocks."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from curate.compression.prefix import Prefix
from curate.compression.tree_eviction import TreeEviction, observed, swept, tree_kept
from curate.inference.attention import ours
from curate.inference.stores import Plain, held_bytes
from curate.presses.treekv import Treekv
from curate.testing.random_models import ARCHITECTURES, Architecture, random_model
from tests.presses.sequences import attention_of, decoded, exact, followed, made_prefix, real_prefix, to_one_token

THINNED = [7, 15, 23, 31, 35, 39, 43, 47, 49, 51, 53, 55, 56, 57, 58, 59]  # 60 tokens in 16 slots where all are worth the same


def cache_of(press: Treekv, prefix: Prefix, layer: int = 0) -> TreeEviction:
    cache = press.decoder(prefix, layer)
    assert isinstance(cache, TreeEviction)
    return cache


def live(cache: TreeEviction) -> list[list[int]]:
    """Positions that each head holds, in the order of its slots."""
    return cache.slots.positions[:, cache.order].tolist()


def by_lists(scores: list[float], capacity: int) -> list[int]:
    """What a list of slots keeps of items that come one by one."""
    slots: list[int] = []
    cursor = 0
    for item in range(len(scores)):
        slots.append(item)
        if len(slots) > capacity:
            first, second = slots[cursor], slots[cursor + 1]
            slots.remove(second if scores[second] < scores[first] else first)
            cursor = (cursor + 1) % capacity
    return slots


def test_where_all_are_worth_the_same_gaps_halve_towards_the_present() -> None:
    assert swept(np.zeros((2, 60), np.float32), 16).tolist() == [THINNED] * 2


def test_decoding_where_all_are_worth_the_same_gives_the_same_tree() -> None:
    cache = cache_of(Treekv(tokens=17, tree=16 / 17, sinks=1), to_one_token(1, heads=2, groups=2))
    one, zero = torch.full((2, 2, 1), 1000.0), torch.zeros(2, 1, 1)
    for position in range(1, 61):
        cache.attend(one, zero, zero, position, 1.0)
        assert all(len(row) <= 17 and row == sorted(row) for row in live(cache))
    assert live(cache) == [[0, *(token + 1 for token in THINNED)]] * 2


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 20))
def test_a_sweep_keeps_what_lists_keep(values: list[int], capacity: int) -> None:
    capacity = min(capacity, len(values))
    rows = np.array([values, values[::-1]], np.float32)
    assert swept(rows, capacity).tolist() == [by_lists(row, capacity) for row in rows.tolist()]


def prefix_by_lists(averages: list[float], sinks: int, managed: int, recent: int, block: int) -> list[int]:
    """The same of a prefix, block by block; then the newest, until the number is right."""
    middle = list(range(sinks, len(averages) - recent))
    blocks = [middle[i : i + block] for i in range(0, len(middle), block) if i + block <= len(middle)]
    worth = [sum(averages[token] for token in tokens) / block for tokens in blocks]
    kept = set(range(sinks)) | set(range(len(averages) - recent, len(averages)))
    if managed >= block:
        kept |= {token for index in by_lists(worth, managed // block) for token in blocks[index]}
    for token in reversed(range(len(averages))):
        if len(kept) < sinks + managed + recent:
            kept.add(token)
    return sorted(kept)


@given(st.data())
def test_a_prefix_is_swept_in_blocks_and_filled_up_with_the_newest(data: st.DataObject) -> None:
    sinks, managed, recent, block = (data.draw(st.integers(low, high)) for low, high in ((0, 4), (1, 20), (0, 9), (1, 7)))
    n = data.draw(st.integers(sinks + managed + recent, 70))
    averages = np.array([data.draw(st.lists(st.integers(0, 9), min_size=n, max_size=n)) for _ in range(2)], np.float32)
    kept = tree_kept(averages, sinks, managed, recent, block)
    assert kept.shape == (2, sinks + managed + recent)
    assert kept.tolist() == [prefix_by_lists(row, sinks, managed, recent, block) for row in averages.tolist()]


@pytest.mark.parametrize(("n", "window"), [(30, 7), (5, 9)])
def test_observed_attention_is_that_of_the_last_queries(n: int, window: int) -> None:
    view = made_prefix(n).layers[0]
    sums, counts = observed(view, window)
    full = attention_of(view)[:, max(0, n - window) :]
    torch.testing.assert_close(sums, torch.stack([full[:3].sum(1).mean(0), full[3:].sum(1).mean(0)]).float(), rtol=1e-5, atol=1e-6)
    assert counts.tolist() == [min(window, n, n - token) for token in range(n)]


@pytest.mark.parametrize(("tokens", "tree", "sinks"), [(12, 0.5, 3), (12, 1.0, 0), (12, 1.0, 4), (9, 0.7, 4), (2, 0.5, 4), (1, 0.5, 4)])
def test_decoding_keeps_what_lists_of_sums_and_counts_keep(tokens: int, tree: float, sinks: int) -> None:
    """From a prefix with room to spare to long after, against lists that know nothing of slots."""
    n, steps, heads, groups = 5, 50, 2, 2
    press = Treekv(tokens=tokens, tree=tree, sinks=sinks, block=3)
    prefix, whole = made_prefix(n, layers=1, groups=groups), made_prefix(n + steps, layers=1, groups=groups, seed=7).layers[0]
    whole.keys[:, :n], whole.values[:, :n] = prefix.layers[0].keys, prefix.layers[0].values
    queries = whole.queries.reshape(heads, groups, n + steps, -1)
    cache = cache_of(press, prefix)
    managed = max(1, int(tokens * tree))
    sinks = min(sinks, tokens - managed)
    sums, counts = observed(prefix.layers[0], 3)
    slots = [{token: (float(sums[head, token]), float(counts[token])) for token in row} for head, row in enumerate(live(cache))]
    assert all(len(row) == min(n, tokens) for row in slots)
    cursor = 0
    for i in range(n, n + steps):
        output = cache.attend(queries[:, :, i], whole.keys[:, i : i + 1], whole.values[:, i : i + 1], i, whole.scale)
        for head, row in enumerate(slots):
            before = [*row, i]
            weights = (queries[head, :, i].double() @ whole.keys[head, before].double().T * whole.scale).softmax(-1)
            torch.testing.assert_close(output[head], (weights @ whole.values[head, before].double()).float(), rtol=1e-4, atol=1e-5)
            for token, weight in zip(before, weights.mean(0).tolist(), strict=True):
                old = row.get(token, (0.0, 0.0))
                row[token] = (old[0] + weight, old[1] + 1)
            if len(row) > tokens:
                first, second = list(row)[sinks + cursor : sinks + cursor + 2]
                del row[second if row[second][0] / row[second][1] < row[first][0] / row[first][1] else first]
        cursor = (cursor + 1) % managed if len(before) > tokens else cursor
        assert live(cache) == [list(row) for row in slots]
        newest = tokens - managed - sinks
        if i >= tokens:
            assert all(row[:sinks] == list(range(sinks)) and row[len(row) - newest :] == list(range(i + 1 - newest, i + 1)) for row in live(cache))


def test_what_is_stored_of_a_prefix_is_what_decoding_starts_from() -> None:
    prefix = made_prefix(100, layers=3)
    for press in (Treekv(), Treekv(tokens=31, block=4), Treekv(tokens=100), Treekv(tokens=1)):
        memory = press.compress(prefix)
        for layer, (view, store) in enumerate(zip(prefix.layers, memory.layers, strict=True)):
            assert isinstance(store, Plain)
            for head, kept in enumerate(live(cache_of(press, prefix, layer))):
                assert len(kept) == (press.tokens or 25) and kept == sorted(set(kept))
                assert torch.equal(store.keys[head], view.keys[head, kept]) and torch.equal(store.values[head], view.values[head, kept])


def test_a_stored_prefix_has_sinks_newest_tokens_and_whole_blocks() -> None:
    prefix = made_prefix(100)
    kept = live(cache_of(Treekv(tokens=40, block=5), prefix))
    assert kept[0] != kept[1]
    for row in kept:
        assert row[:4] == [0, 1, 2, 3] and row[-16:] == list(range(84, 100))
        between = row[4:24]
        assert all((first - 4) % 5 == 0 and between[i : i + 5] == list(range(first, first + 5)) for i, first in list(enumerate(between))[::5])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_with_room_for_everything_decoding_is_the_full_model(architecture: Architecture) -> None:
    model, tokens, after = random_model(architecture), [5, 9, 33, 2, 60, 7, 7, 41, 12, 88], [3, 50, 21, 9, 77, 4]
    with torch.inference_mode(), ours(model.model):
        prefix = real_prefix(model, tokens)
        logits, _ = decoded(model, Treekv(tokens=len(tokens) + len(after)), prefix, after)
        stored = followed(model, Treekv(keep=1.0).compress(prefix), after)
        small, _ = decoded(model, Treekv(tokens=4), prefix, after)
    full = exact(model, tokens, after)
    torch.testing.assert_close(logits, full, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(stored, full, rtol=1e-5, atol=1e-5)
    assert (small - full).abs().max() > 1e-2


def test_a_full_cache_does_not_grow() -> None:
    model = random_model("qwen2")
    with torch.inference_mode(), ours(model.model):
        prefix = real_prefix(model, list(range(2, 32)))
        sizes = [held_bytes(decoded(model, Treekv(tokens=8), prefix, [5] * steps)[1][0].tensors) for steps in (1, 2, 30)]
    assert sizes == [2 * (8 + 1) * (2 * 16 * 4 + 8 + 4 + 4)] * 3
