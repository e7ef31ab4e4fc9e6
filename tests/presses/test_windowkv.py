"""WindowKV keeps whole stretches, the same in all heads and in all layers of a group."""

import numpy as np
import pytest
import torch

from curate.compression.importances.chunks import Chunks
from curate.compression.importances.window import Window
from curate.compression.prefix import Prefix
from curate.presses.snapkv import Snapkv
from curate.presses.windowkv import Windowkv
from curate.testing.component import check_identity
from curate.testing.random_models import ARCHITECTURES, Architecture, random_model
from tests.presses.windowed_oracles import (
    best_of,
    compressed,
    kept_tokens,
    logits_after,
    naive_attention,
    naive_chunks,
    prefix_of,
    tokens_of,
    whole,
)

N = 68  # 8 stretches of 8 and one of 2 before a window of 2
S = 2
every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


def chunks(**fields: object) -> Chunks:
    return Chunks.model_validate({"window": S, "layer_groups": 2, **fields})


def prefix_with(architecture: Architecture = "qwen2", layers: int = 3) -> Prefix:
    return prefix_of(random_model(architecture, layers=layers), tokens_of(N))


@every_architecture
@pytest.mark.parametrize("top", [None, 4])
def test_the_kept_stretches_are_those_of_the_definition(architecture: Architecture, top: int | None) -> None:
    prefix = prefix_with(architecture)
    kept = kept_tokens(prefix, compressed(Windowkv(tokens=28, importance=chunks(chunk_top=top, layer_groups=1)), prefix))
    for view, heads in zip(prefix.layers, kept, strict=True):
        weights = naive_attention(view, view.queries[:, -S:], range(N - S, N))[:, :, : N - S].mean(1)
        row = np.mean([naive_chunks(head, 8, top) for head in weights], 0)
        row = np.round(row / row.max(), 6)  # tokens of a stretch are worth exactly the same
        assert heads == [[*best_of(row, 28 - S), *range(N - S, N)]] * len(view.keys)


@every_architecture
@pytest.mark.parametrize("budget", [3, 10, 18, 27, 50, 66])
def test_all_stretches_but_the_last_one_taken_are_whole(architecture: Architecture, budget: int) -> None:
    prefix = prefix_with(architecture)
    for heads in kept_tokens(prefix, compressed(Windowkv(tokens=budget, importance=chunks()), prefix)):
        assert all(tokens == heads[0] and len(tokens) == budget and tokens == sorted(tokens) for tokens in heads)
        assert heads[0][-S:] == [N - 2, N - 1]
        stretches = [[token for token in heads[0][:-S] if token // 8 == stretch] for stretch in range(9)]
        cut = [tokens for stretch, tokens in enumerate(stretches) if 0 < len(tokens) < min(8, N - S - 8 * stretch)]
        assert len(cut) <= 1 and all(tokens == list(range(tokens[0], tokens[0] + len(tokens))) and tokens[0] % 8 == 0 for tokens in cut)


def test_layers_of_a_group_share_their_tokens_and_the_last_group_may_be_short() -> None:
    prefix = prefix_with(layers=5)
    kept = kept_tokens(prefix, compressed(Windowkv(tokens=28, importance=chunks()), prefix))
    alone = kept_tokens(prefix, compressed(Windowkv(tokens=28, importance=chunks(layer_groups=1)), prefix))
    assert kept == [alone[0], alone[0], alone[2], alone[2], alone[4]]
    assert alone[0] != alone[1] and alone[2] != alone[3]


def test_another_prefix_in_between_changes_nothing() -> None:
    prefix, press = prefix_with(), Windowkv(tokens=28, importance=chunks())
    first = kept_tokens(prefix, compressed(press, prefix))
    other = prefix_of(prefix.model, tokens_of(S + 1, seed=5))
    assert kept_tokens(other, compressed(press, other)) == [[[0, 1, 2]] * 2] * 3  # only the suffix and one token more
    assert kept_tokens(prefix, compressed(press, prefix)) == first


def test_stretches_of_one_token_and_groups_of_one_layer_are_snapkv_without_pooling() -> None:
    prefix = prefix_with("llama_one_kv_head")
    single = Windowkv(tokens=28, importance=chunks(chunk=1, layer_groups=1))
    snap = Snapkv(tokens=28, importance=Window(window=S, pool="none"))
    assert kept_tokens(prefix, compressed(single, prefix)) == kept_tokens(prefix, compressed(snap, prefix))


@every_architecture
def test_keeping_all_tokens_through_the_gather_is_the_full_cache(architecture: Architecture) -> None:
    prefix, after = prefix_with(architecture), tokens_of(5, seed=1)
    memory = compressed(Windowkv(tokens=N, importance=chunks()), prefix)
    assert torch.equal(logits_after(prefix, memory, after), logits_after(prefix, whole(prefix), after))
    assert not torch.allclose(logits_after(prefix, compressed(Windowkv(keep=0.4), prefix), after), logits_after(prefix, whole(prefix), after), atol=1e-2)


def test_a_budget_within_the_window_keeps_the_last_tokens() -> None:
    prefix = prefix_with()
    assert kept_tokens(prefix, compressed(Windowkv(tokens=5), prefix)) == [[list(range(N - 5, N))] * 2] * 3


def test_the_press_and_its_importance_are_components() -> None:
    check_identity(Windowkv(), "presses")
    check_identity(Chunks(), "importances")
    assert (Chunks().window, Chunks().chunk, Chunks().chunk_top, Chunks().share, Chunks().layer_groups) == (16, 8, None, "layer", 8)
