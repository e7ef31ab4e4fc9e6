"""SnapKV keeps what loops over its definition keep, at the positions it had, and nothing is lost when all is kept."""

import numpy as np
import pytest
import torch

from curate.compression.importances.window import Window
from curate.inference.attention import ours
from curate.inference.passes import logits_of
from curate.inference.prefill import prefilled
from curate.presses.snapkv import Snapkv
from curate.registry import component, names
from curate.testing.component import check_identity
from curate.testing.random_models import ARCHITECTURES, Architecture, random_model
from tests.presses.windowed_oracles import (
    best_of,
    compressed,
    kept_tokens,
    logits_after,
    masked,
    naive_attention,
    naive_pool,
    prefix_of,
    tokens_of,
    whole,
)

N = 48
W = 8
AFTER = tokens_of(7, seed=1)
PRESS = Snapkv(tokens=20, importance=Window(window=W, kernel=5))
every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


@every_architecture
def test_the_kept_tokens_are_those_of_the_definition(architecture: Architecture) -> None:
    prefix = prefix_of(random_model(architecture), tokens_of(N))
    kept = kept_tokens(prefix, compressed(PRESS, prefix))
    for view, heads in zip(prefix.layers, kept, strict=True):
        weights = naive_attention(view, view.queries[:, -W:], range(N - W, N))[:, :, : N - W]
        for head, tokens in enumerate(heads):
            row = np.mean([weights[head * view.groups + member].mean(0) for member in range(view.groups)], 0)
            assert tokens == [*best_of(naive_pool(row, "avg", 5), 20 - W), *range(N - W, N)]


@every_architecture
def test_keeping_all_tokens_through_the_gather_is_the_full_cache(architecture: Architecture) -> None:
    prefix = prefix_of(random_model(architecture), tokens_of(N))
    memory = compressed(Snapkv(tokens=N, importance=Window(window=W)), prefix)
    assert all(torch.equal(store.tensors[0], view.keys) and store.tensors[0] is not view.keys for store, view in zip(memory.layers, prefix.layers, strict=True))
    assert torch.equal(logits_after(prefix, memory, AFTER), logits_after(prefix, whole(prefix), AFTER))
    with torch.inference_mode():
        plain = prefix.model.model(input_ids=torch.tensor([[*prefix.tokens, *AFTER]])).logits[0, N:]
    torch.testing.assert_close(logits_after(prefix, memory, AFTER), plain, rtol=1e-4, atol=1e-4)


@every_architecture
def test_dropped_tokens_are_as_if_they_were_masked(architecture: Architecture) -> None:
    prefix = prefix_of(random_model(architecture), tokens_of(N))
    memory = compressed(PRESS, prefix)
    dropped = logits_after(prefix, memory, AFTER)
    torch.testing.assert_close(dropped, logits_after(prefix, masked(prefix, kept_tokens(prefix, memory)), AFTER), rtol=1e-5, atol=1e-5)
    assert (dropped - logits_after(prefix, whole(prefix), AFTER)).abs().max() > 1e-2  # and it does make a difference


def test_the_first_token_after_the_prefix_is_the_full_models() -> None:
    model, tokens = random_model("qwen2"), tokens_of(N)
    with torch.inference_mode(), ours(model.model):
        prefix, hidden = prefilled(model, tokens)
        before = [(view.keys.clone(), view.values.clone()) for view in prefix.layers]
        PRESS.compress(prefix)
        found = logits_of(model, hidden[-1:])
    with torch.inference_mode():
        plain = model.model(input_ids=torch.tensor([tokens])).logits[0, -1:]
    torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(view.keys, keys) and torch.equal(view.values, values) for view, (keys, values) in zip(prefix.layers, before, strict=True))


@pytest.mark.parametrize("budget", [1, 3, W])
def test_a_budget_within_the_window_keeps_the_last_tokens(budget: int) -> None:
    prefix = prefix_of(random_model(), tokens_of(N))
    kept = kept_tokens(prefix, compressed(Snapkv(tokens=budget, importance=Window(window=W)), prefix))
    assert all(tokens == list(range(N - budget, N)) for heads in kept for tokens in heads)


def test_only_kept_tokens_take_bytes() -> None:
    prefix = prefix_of(random_model("qwen2"), tokens_of(N))
    memory = compressed(PRESS, prefix)
    assert memory.tokens == N
    assert memory.nbytes == 3 * 2 * 20 * 16 * 2 * 4  # layers, key-value heads, tokens, width, keys and values, bytes


def test_the_share_is_rounded_up() -> None:
    prefix = prefix_of(random_model(), tokens_of(N))
    assert Snapkv(keep=0.26).budget(prefix) == 13
    assert Snapkv(keep=0.001).budget(prefix) == 1
    assert Snapkv(tokens=1000).budget(prefix) == N


def test_the_press_is_found_by_its_name_and_takes_settings() -> None:
    assert "snapkv" in names("presses")
    press = component("presses", {"name": "snapkv", "keep": 0.5, "importance": {"name": "window", "window": 32, "pool": "max"}})
    assert press == Snapkv(keep=0.5, importance=Window(window=32, pool="max"))
    check_identity(Snapkv(), "presses")
