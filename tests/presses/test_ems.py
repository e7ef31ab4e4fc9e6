"""EMS: what is evicted goes into the kept token that it resembles, if it does, against loops in float64."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from curate.compression.actions.evict import Evict
from curate.compression.actions.merge import Merge
from curate.compression.importances.global_local import GlobalLocal
from curate.inference.stores import Plain, Ragged, held_bytes
from curate.presses.ems import Ems as Press
from curate.testing.component import check_identity
from curate.testing.random_models import ARCHITECTURES, Architecture, random_model
from tests.presses.sequences import attention_of, made_prefix
from tests.presses.stored_prefixes import Given, acted, after, defined, everything, made, queries, real, summed, whole, with_layer


def merged(action: Merge, keys: Tensor, values: Tensor, kept: list[list[int]], scores: Tensor | None = None) -> Plain:
    store = acted(action, with_layer(keys, values), [torch.tensor(tokens) for tokens in kept], scores)
    assert isinstance(store, Plain)
    return store


def merge(**fields: Any) -> Merge:
    return Merge.model_validate(fields)


def by_loops(keys: Tensor, values: Tensor, kept: list[int], scores: Tensor, tau: float) -> tuple[Any, Any, list[int]]:
    """(keys, values, counts) of one head: every evicted token by itself, in float64."""
    k, v, s = keys.double().numpy(), values.double().numpy(), scores.double().clamp(min=0).numpy()
    members: dict[int, list[int]] = {centre: [centre] for centre in kept}
    for token in sorted(set(range(len(k))) - set(kept)):
        cosines = [float(k[token] @ k[centre] / np.linalg.norm(k[token]) / np.linalg.norm(k[centre])) for centre in kept]
        best = int(np.argmax(cosines))
        if cosines[best] > tau:
            members[kept[best]].append(token)
    new_keys, new_values = k[kept].copy(), v[kept].copy()
    for i, centre in enumerate(kept):
        them = members[centre]
        mass = s[them].sum()
        if len(them) > 1 and mass > 0:
            new_values[i] = sum(s[j] * v[j] for j in them) / mass
            direction = sum(s[j] * k[j] / np.linalg.norm(k[j]) for j in them)
            new_keys[i] = direction / np.linalg.norm(direction) * sum(s[j] * np.linalg.norm(k[j]) for j in them) / mass
    return new_keys, new_values, [len(members[centre]) for centre in kept]


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 40), st.integers(1, 12), st.sampled_from([-1.0, 0.0, 0.4, 0.9]), st.booleans(), st.integers(0, 999))
def test_every_evicted_token_goes_where_loops_send_it(n: int, many: int, tau: float, merge_keys: bool, seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    keys, values = torch.randn(2, n, 3, generator=draws), torch.randn(2, n, 3, generator=draws)
    scores = torch.randn(2, n, generator=draws)
    kept = [sorted(torch.randperm(n, generator=draws)[: min(many, n)].tolist()) for _ in range(2)]
    store = merged(merge(tau=tau, merge_keys=merge_keys, count_weight=True), keys, values, kept, scores)
    for head in range(2):
        new_keys, new_values, counts = by_loops(keys[head], values[head], kept[head], scores[head], tau)
        np.testing.assert_allclose(store.values[head], new_values, atol=1e-4)
        np.testing.assert_allclose(store.keys[head], new_keys if merge_keys else keys[head, kept[head]], atol=1e-4)
        if n > min(many, n):
            assert store.bias is not None
            np.testing.assert_allclose(store.bias[head].exp(), counts, rtol=1e-5)


def test_more_tokens_than_are_compared_at_a_time_go_where_loops_send_them() -> None:
    prefix = made(1400, heads=1)
    view = prefix.layers[0]
    kept, scores = list(range(0, 1400, 20)), torch.rand(1, 1400, generator=torch.Generator().manual_seed(0))
    store = merged(merge(tau=0.5, count_weight=True), view.keys, view.values, [kept], scores)
    _, values, counts = by_loops(view.keys[0], view.values[0], kept, scores[0], 0.5)
    assert store.bias is not None
    np.testing.assert_allclose(store.values[0], values, atol=1e-4)
    np.testing.assert_allclose(store.bias[0].exp(), counts, rtol=1e-5)


@pytest.mark.parametrize("candidates", [1, 7, 100])
def test_only_the_best_of_the_evicted_may_merge(candidates: int) -> None:
    view = made(50).layers[0]
    kept, scores = [[0, 7, 20, 30], [1, 2, 3, 4]], torch.rand(2, 50, generator=torch.Generator().manual_seed(3))
    store = merged(merge(tau=-1.0, candidates=candidates, count_weight=True), view.keys, view.values, kept, scores)
    assert store.bias is not None
    for head in range(2):
        others = sorted(set(range(50)) - set(kept[head]), key=lambda token: -float(scores[head, token]))[:candidates]
        left = sorted([*kept[head], *others])
        values = by_loops(view.keys[head, left], view.values[head, left], [left.index(t) for t in kept[head]], scores[head, left], -1.0)[1]
        np.testing.assert_allclose(store.values[head], values, atol=1e-4)
        assert float(store.bias[head].exp().sum()) == pytest.approx(4 + min(candidates, 46))


@pytest.mark.parametrize("fields", [{}, {"merge_keys": True}, {"count_weight": True}])
def test_above_a_cosine_of_one_it_is_eviction(fields: dict[str, bool]) -> None:
    prefix = made(50)
    for kept in ([torch.tensor([0, 3, 4]), torch.tensor([7, 8, 49])], [torch.tensor([0, 3]), torch.tensor([7, 8, 49])]):
        store, evicted = acted(merge(tau=1.5, **fields), prefix, kept), acted(Evict(), prefix, kept)
        for count in (3, 200):
            got, expected = store.attend(queries(count), 0.25), evicted.attend(queries(count), 0.25)
            torch.testing.assert_close(got[0], expected[0], atol=1e-6, rtol=1e-6)
            torch.testing.assert_close(got[1], expected[1], atol=1e-6, rtol=1e-6)
        if isinstance(store, Plain) and isinstance(evicted, Plain):
            assert torch.equal(store.keys, evicted.keys) and torch.equal(store.values, evicted.values)


@pytest.mark.parametrize("merge_keys", [False, True])
def test_copies_merge_exactly_only_with_the_log_of_their_number(merge_keys: bool) -> None:
    draws = torch.Generator().manual_seed(0)
    keys, values = torch.randn(1, 6, 16, generator=draws), torch.randn(1, 6, 16, generator=draws)
    copies = [0, 0, 0, 1, 2, 2, 3, 4, 5]
    all_keys, all_values = keys[:, copies], values[:, copies]
    first = [copies.index(i) for i in range(6)]
    scores = torch.rand(1, 9, generator=draws)
    for count in (5, 200):
        asked = queries(count, heads=1)
        exact, normaliser = defined(asked, all_keys, all_values, 0.25)
        weighed = merged(merge(tau=0.999, merge_keys=merge_keys, count_weight=True), all_keys, all_values, [first], scores)
        for got, expected in zip(weighed.attend(asked, 0.25), (exact, normaliser), strict=True):
            torch.testing.assert_close(got.double(), expected, atol=1e-5, rtol=1e-5)
        plain = merged(merge(tau=0.999, merge_keys=merge_keys), all_keys, all_values, [first], scores)
        torch.testing.assert_close(plain.attend(asked, 0.25)[0].double(), defined(asked, keys, values, 0.25)[0], atol=1e-5, rtol=1e-5)
        assert (plain.attend(asked, 0.25)[0].double() - exact).norm() > 0.02 * exact.norm()


def test_of_two_copies_one_without_the_log_counts_half() -> None:
    keys = torch.tensor([[[1.0, 0], [1, 0], [0, 1]]])
    values = torch.tensor([[[1.0, 0], [1, 0], [0, 1]]])
    asked = torch.zeros(1, 1, 2)
    half = merged(merge(), keys, values, [[0, 2]]).attend(asked, 1.0)[0]
    exact = merged(merge(count_weight=True), keys, values, [[0, 2]]).attend(asked, 1.0)[0]
    assert half.flatten().tolist() == pytest.approx([1 / 2, 1 / 2])
    assert exact.flatten().tolist() == pytest.approx([2 / 3, 1 / 3])


def test_tokens_without_weight_and_keys_without_length_change_nothing() -> None:
    keys = torch.tensor([[[1.0, 0], [2, 0], [0, 0], [0, 1]]])
    values = torch.arange(8.0).view(1, 4, 2)
    for fields in ({}, {"merge_keys": True}):
        store = merged(merge(**fields), keys, values, [[0, 3]], torch.zeros(1, 4))
        assert torch.equal(store.values, values[:, [0, 3]]) and torch.equal(store.keys, keys[:, [0, 3]])
        weighed = merged(merge(**fields), keys, values, [[0, 3]], torch.tensor([[0.0, 1, 1, 1]]))
        assert weighed.values.tolist() == [[[2, 3], [6, 7]]]  # token 2 resembles none, token 0 has no weight of its own


def test_keeping_all_tokens_is_the_cache_to_the_bit() -> None:
    prefix = made(50)
    store = acted(merge(count_weight=True), prefix, everything(prefix))
    assert isinstance(store, Plain)
    assert torch.equal(store.keys, prefix.layers[0].keys) and torch.equal(store.values, prefix.layers[0].values)


def test_heads_with_different_numbers_are_merged_apart() -> None:
    view = made(50).layers[0]
    kept = [[0, 7, 20, 30], [4, 9]]
    store = acted(merge(tau=0.2), with_layer(view.keys, view.values), [torch.tensor(tokens) for tokens in kept])
    assert isinstance(store, Ragged)
    for head, part in enumerate(store.heads):
        assert isinstance(part, Plain)
        _, values, _ = by_loops(view.keys[head], view.values[head], kept[head], torch.ones(50), 0.2)
        np.testing.assert_allclose(part.values[0], values, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count_weight", [False, True])
def test_bytes_are_those_of_the_kept_tokens_and_four_for_a_count(dtype: torch.dtype, count_weight: bool) -> None:
    prefix = made(400, dtype=dtype)
    store = acted(merge(tau=0.3, count_weight=count_weight), prefix, [torch.arange(100)] * 2)
    assert held_bytes(store.tensors) == summed(store.tensors) == 2 * 100 * (2 * 16 * dtype.itemsize + 4 * count_weight)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_press_changes_values_only_of_what_eviction_keeps(architecture: Architecture) -> None:
    model = random_model(architecture)
    with torch.inference_mode():
        prefix = real(model, 80)
        mine, theirs = Press(action=merge(tau=0.5)).compress(prefix), Press(action=Evict()).compress(prefix)
        assert mine.nbytes == theirs.nbytes == whole(prefix).nbytes // 4
        changed = 0
        for one, other in zip(mine.layers, theirs.layers, strict=True):
            assert isinstance(one, Plain) and isinstance(other, Plain)
            assert torch.equal(one.keys, other.keys)
            changed += int((one.values != other.values).any(-1).sum())
        assert changed > 0
        assert torch.equal(after(model, Press(action=merge(tau=2.0)).compress(prefix)), after(model, theirs))
        assert torch.equal(after(model, Press(keep=1.0).compress(prefix)), after(model, whole(prefix)))


@pytest.mark.parametrize(("n", "window"), [(50, 8), (300, 16), (5, 16), (1, 1)])
def test_scores_are_the_mean_attention_of_all_that_see_a_token_and_of_the_last_each_by_its_largest(n: int, window: int) -> None:
    prefix = made_prefix(n)
    scores = GlobalLocal(window=window).score(prefix)
    for view, found in zip(prefix.layers, scores, strict=True):
        full = attention_of(view)  # float64
        for head in range(2):
            mine = full[3 * head : 3 * head + 3].mean(0).tolist()
            everywhere = [sum(mine[i][j] for i in range(j, n)) / (n - j) for j in range(n)]
            lately = [sum(mine[i][j] for i in range(max(0, n - window), n)) / min(window, n) for j in range(n)]
            wanted = [a / max(everywhere) + b / max(lately) for a, b in zip(everywhere, lately, strict=True)]
            assert found[head].tolist() == pytest.approx(wanted, rel=1e-4, abs=1e-6)
    assert GlobalLocal(window=window).protected(prefix).nonzero().flatten().tolist() == list(range(max(0, n - window), n))


def test_the_press_keeps_the_window_and_the_best_scores() -> None:
    prefix = made_prefix(60)
    memory = Press(keep=0.5, importance=GlobalLocal(window=8), action=merge(tau=2.0)).compress(prefix)
    for view, store, scores in zip(prefix.layers, memory.layers, GlobalLocal(window=8).score(prefix), strict=True):
        assert isinstance(store, Plain)
        for head in range(2):
            best = sorted(range(52), key=lambda token: (-float(scores[head, token]), token))[:22]
            assert torch.equal(store.keys[head], view.keys[head, sorted([*best, *range(52, 60)])])


def test_a_bfloat16_model_is_served_in_bfloat16() -> None:
    model = random_model("llama")
    model.model.bfloat16()
    with torch.inference_mode():
        prefix = real(model, 60)
        for action in (merge(tau=0.5), merge(tau=0.5, merge_keys=True, count_weight=True)):
            memory = Press(action=action, importance=Given()).compress(prefix)
            assert after(model, memory).isfinite().all()
            assert memory.nbytes == whole(prefix).nbytes // 4 + (3 * 2 * 15 * 4 if action.count_weight else 0)


def test_the_components_are_what_they_say() -> None:
    check_identity(Press(), "presses")
    check_identity(Merge(), "actions")
    check_identity(GlobalLocal(), "importances")
