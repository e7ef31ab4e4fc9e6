"""H2O keeps the newest and the most attended, at prefill and while it decodes, as a trace with Python sets says."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from curate.compression.heavy_hitters import HeavyHitters
from curate.compression.importances.received import Received
from curate.compression.prefix import Prefix
from curate.inference.attention import ours
from curate.inference.stores import Plain, held_bytes
from curate.presses.h2o import H2o
from curate.testing.random_models import ARCHITECTURES, Architecture, random_model
from tests.presses.sequences import attention_of, decoded, exact, followed, made_prefix, real_prefix, to_one_token


def cache_of(press: H2o, prefix: Prefix, layer: int = 0) -> HeavyHitters:
    cache = press.decoder(prefix, layer)
    assert isinstance(cache, HeavyHitters)
    return cache


def live(cache: HeavyHitters) -> list[set[int]]:
    """Positions that each head holds."""
    found = [set(row) for row in cache.slots.positions.tolist()]
    if cache.free is not None:
        found = [row - {int(cache.slots.positions[head, slot])} for head, (row, slot) in enumerate(zip(found, cache.free, strict=True))]
    return found


def heaviest(sums: Sequence[float], tokens: Sequence[int], capacity: int, recent: int) -> set[int]:
    """Of tokens, the last `recent` and the heaviest of the others; of equal ones the earlier."""
    newest = sorted(tokens)[len(tokens) - recent :] if recent else []
    others = sorted(set(tokens) - set(newest), key=lambda token: (-sums[token], token))
    return {*newest, *others[: capacity - len(newest)]}


@pytest.mark.parametrize("n", [40, 300])
def test_scores_are_the_column_sums_of_the_whole_attention_matrix(n: int) -> None:
    prefix = made_prefix(n)
    for view, scores in zip(prefix.layers, Received().score(prefix), strict=True):
        full = attention_of(view)
        expected = torch.stack([full[3 * head : 3 * head + 3].sum((0, 1)) for head in range(2)])
        torch.testing.assert_close(scores, expected.float(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(scores.sum(1), torch.full((2,), 3.0 * n))
    for view, scores in zip(prefix.layers, Received(share="layer").score(prefix), strict=True):
        torch.testing.assert_close(scores, attention_of(view).mean(0).sum(0).float().expand(2, n), rtol=1e-5, atol=1e-6)


def test_the_importance_protects_first_and_last_tokens() -> None:
    protected = Received(first=2, recent=3).protected(made_prefix(9))
    assert protected.nonzero().squeeze(-1).tolist() == [0, 1, 6, 7, 8]
    assert not Received().protected(made_prefix(9)).any()


@pytest.mark.parametrize(("tokens", "share"), [(10, 0.5), (7, 0.5), (10, 0.0), (10, 1.0), (1, 0.5)])
def test_a_prefix_keeps_its_newest_and_heaviest_tokens(tokens: int, share: float) -> None:
    prefix = made_prefix(40)
    memory = H2o(tokens=tokens, recent=share).compress(prefix)
    for view, store in zip(prefix.layers, memory.layers, strict=True):
        assert isinstance(store, Plain)
        full = attention_of(view)
        for head in range(2):
            sums = full[3 * head : 3 * head + 3].sum((0, 1)).tolist()
            kept = sorted(heaviest(sums, range(40), tokens, int(tokens * share)))
            assert torch.equal(store.keys[head], view.keys[head, kept]) and torch.equal(store.values[head], view.values[head, kept])
    assert [row for layer in range(2) for row in live(cache_of(H2o(tokens=tokens, recent=share), prefix, layer))] == [
        {int((view.keys[head] == key).all(-1).nonzero()) for key in store.keys[head]}
        for view, store in zip(prefix.layers, memory.layers, strict=True)
        if isinstance(store, Plain)
        for head in range(2)
    ]


class Trace:
    """One head's H2O by definition: every step, all sums again from all queries that saw a token, in float64."""

    def __init__(self, queries: Tensor, keys: Tensor, n: int, capacity: int, recent: int, scale: float) -> None:
        self.queries, self.keys, self.n, self.scale = queries.double(), keys.double(), n, scale
        self.capacity, self.recent = capacity, recent
        self.seen = [set(range(i + 1)) for i in range(n)]  # what query i attended to
        self.live = heaviest(self.sums(), range(n), min(capacity, n), int(recent)) if n > capacity else set(range(n))

    def weights(self, i: int) -> dict[int, float]:
        tokens = sorted(self.seen[i])
        total = {token: 0.0 for token in tokens}
        for query in self.queries[:, i]:
            exps = [math.exp(float(query @ self.keys[token]) * self.scale) for token in tokens]
            for token, value in zip(tokens, exps, strict=True):
                total[token] += value / sum(exps)
        return total

    def sums(self) -> list[float]:
        found = [0.0] * len(self.seen)
        for i in range(len(self.seen)):
            for token, weight in self.weights(i).items():
                found[token] += weight
        return found

    def step(self) -> None:
        newest = len(self.seen)
        self.live |= {newest}
        self.seen.append(set(self.live))
        if len(self.live) > self.capacity:
            self.live = heaviest(self.sums(), sorted(self.live), self.capacity, self.recent)


@pytest.mark.parametrize(("tokens", "share"), [(8, 0.5), (7, 0.5), (8, 0.0), (8, 1.0), (8, 0.8), (24, 0.5), (1, 0.5)])
def test_decoding_keeps_what_a_trace_with_sets_keeps(tokens: int, share: float) -> None:
    n, steps, heads, groups = 16, 20, 2, 2
    whole = made_prefix(n + steps, layers=1, heads=heads, groups=groups).layers[0]
    prefix = made_prefix(n, layers=1, heads=heads, groups=groups)
    view = prefix.layers[0]
    view.queries.copy_(whole.queries[:, :n])
    view.keys.copy_(whole.keys[:, :n])
    view.values.copy_(whole.values[:, :n])
    cache = cache_of(H2o(tokens=tokens, recent=share), prefix)
    queries = whole.queries.reshape(heads, groups, n + steps, -1)
    traces = [Trace(queries[head], whole.keys[head], n, tokens, int(tokens * share), view.scale) for head in range(heads)]
    assert live(cache) == [trace.live for trace in traces]
    for i in range(n, n + steps):
        output = cache.attend(queries[:, :, i], whole.keys[:, i : i + 1], whole.values[:, i : i + 1], i, view.scale)
        for head, trace in enumerate(traces):
            before = sorted(trace.live | {i})
            weights = (queries[head, :, i].double() @ whole.keys[head, before].double().T * view.scale).softmax(-1)
            torch.testing.assert_close(output[head], (weights @ whole.values[head, before].double()).float(), rtol=1e-4, atol=1e-5)
            trace.step()
        assert live(cache) == [trace.live for trace in traces]
        assert all(set(range(i + 1 - int(tokens * share), i + 1)) <= row and len(row) <= tokens for row in live(cache))


def test_before_anything_is_evicted_sums_count_the_queries() -> None:
    n, groups = 12, 3
    prefix, draws = made_prefix(n), torch.Generator().manual_seed(1)
    cache = cache_of(H2o(tokens=30), prefix)
    for position in range(n, 30):
        key = torch.randn(2, 1, 8, generator=draws)
        cache.attend(torch.randn(2, groups, 8, generator=draws), key, key, position, 0.3)
        torch.testing.assert_close(cache.sums.sum(1), torch.full((2,), groups * (position + 1.0)))
    assert live(cache) == [set(range(30))] * 2


def test_of_equal_sums_the_earlier_token_stays() -> None:
    cache = cache_of(H2o(tokens=6, recent=0.4), to_one_token(10))
    assert live(cache) == [{0, 1, 2, 3, 8, 9}]
    one, zero = torch.full((1, 1, 1), 1000.0), torch.zeros(1, 1, 1)
    cache.attend(one, zero, zero, 10, 1.0)
    assert live(cache) == [{0, 1, 2, 3, 9, 10}]
    cache.attend(one, zero, zero, 11, 1.0)
    assert live(cache) == [{0, 1, 2, 3, 10, 11}]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_with_room_for_everything_decoding_is_the_full_model(architecture: Architecture) -> None:
    model, tokens, after = random_model(architecture), [5, 9, 33, 2, 60, 7, 7, 41, 12, 88], [3, 50, 21, 9, 77, 4]
    with torch.inference_mode(), ours(model.model):
        prefix = real_prefix(model, tokens)
        logits, caches = decoded(model, H2o(tokens=len(tokens) + len(after)), prefix, after)
        memory = H2o(keep=1.0).compress(prefix)
        stored = followed(model, memory, after)
        small, _ = decoded(model, H2o(tokens=4), prefix, after)
    full = exact(model, tokens, after)
    torch.testing.assert_close(logits, full, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(stored, full, rtol=1e-5, atol=1e-5)
    assert (small - full).abs().max() > 1e-2


def test_a_full_cache_does_not_grow() -> None:
    model = random_model("qwen2")
    with torch.inference_mode(), ours(model.model):
        prefix = real_prefix(model, list(range(2, 32)))
        sizes = [held_bytes(decoded(model, H2o(tokens=8), prefix, [5] * steps)[1][0].tensors) for steps in (1, 2, 30)]
    slots = 2 * (8 + 1)
    assert sizes == [slots * (2 * 16 * 4 + 8 + 4) + 2 * 8] * 3


def test_with_other_parts_only_the_prefix_is_compressed() -> None:
    prefix = made_prefix(20)
    for fields in ({"importance": "key_norm"}, {"importance": {"name": "received", "share": "layer"}}, {"allocator": "pyramid"}):
        press = H2o.model_validate(fields)
        assert press.decoder(prefix, 0) is None
        assert press.compress(prefix).tokens == 20
