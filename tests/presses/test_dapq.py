"""DapQ's made-up tokens are asked from behind the prefix, and leave no trace in what is stored."""

import numpy as np
import pytest
import torch

from curate.compression.importances.pseudo_queries import PseudoQueries
from curate.presses.dapq import Dapq
from curate.testing.component import check_identity
from curate.testing.random_models import ARCHITECTURES, Architecture, random_model
from tests.presses.windowed_oracles import (
    best_of,
    compressed,
    following,
    kept_tokens,
    logits_after,
    naive_attention,
    prefix_of,
    tokens_of,
    whole,
)

N = 48
MADE_UP = 12
PRESS = Dapq(tokens=15, importance=PseudoQueries(tokens=MADE_UP, first=4))
AFTER = tokens_of(7, seed=1)
every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


class Known(PseudoQueries):
    """Made-up tokens that are really those that follow."""

    def pseudo_tokens(self, tokens: object) -> list[int]:
        return AFTER


def naive_rows(architecture: Architecture, made_up: list[int]) -> tuple[list[list[list[int]]], list[list[list[int]]]]:
    """(tokens kept by the press, tokens kept by loops over the queries of one prefill of everything) by layer and key-value head."""
    model, tokens = random_model(architecture), tokens_of(N)
    importance = Known() if made_up == AFTER else PRESS.importance
    prefix, longer = prefix_of(model, tokens), prefix_of(model, [*tokens, *made_up])
    expected = []
    for view, more in zip(prefix.layers, longer.layers, strict=True):
        weights = naive_attention(view, more.queries[:, N:], range(N, N + len(made_up))).mean(1)
        rows = [weights[head * view.groups : (head + 1) * view.groups].mean(0) for head in range(len(view.keys))]
        expected.append([best_of(row, 15) for row in rows])
    return kept_tokens(prefix, compressed(Dapq(tokens=15, importance=importance), prefix)), expected


@every_architecture
def test_the_kept_tokens_are_those_that_the_made_up_ones_attend_to(architecture: Architecture) -> None:
    tokens = tokens_of(N)
    kept, expected = naive_rows(architecture, [*tokens[:4], *tokens[-8:]])
    assert kept == expected


@every_architecture
def test_with_the_true_continuation_it_ranks_as_that_does(architecture: Architecture) -> None:
    kept, expected = naive_rows(architecture, AFTER)
    assert kept == expected


@pytest.mark.parametrize(
    ("length", "tokens", "first", "expected"),
    [
        (50, 32, 4, [0, 1, 2, 3, *range(22, 50)]),
        (50, 5, 0, [45, 46, 47, 48, 49]),
        (50, 3, 9, [0, 1, 2]),
        (10, 32, 4, [*range(10)]),
        (3, 32, 4, [0, 1, 2]),
        (1, 1, 1, [0]),
    ],
)
def test_the_made_up_tokens_are_the_first_and_the_last_ones(length: int, tokens: int, first: int, expected: list[int]) -> None:
    assert PseudoQueries(tokens=tokens, first=first).pseudo_tokens(range(length)) == expected


@every_architecture
def test_nothing_of_the_made_up_tokens_is_stored_and_the_prefix_stays_as_it_is(architecture: Architecture) -> None:
    prefix = prefix_of(random_model(architecture), tokens_of(N))
    before = [(view.keys.clone(), view.values.clone()) for view in prefix.layers]
    memory = compressed(PRESS, prefix)
    assert all(torch.equal(view.keys, keys) and torch.equal(view.values, values) for view, (keys, values) in zip(prefix.layers, before, strict=True))
    assert memory.tokens == N
    kept = kept_tokens(prefix, memory)  # each stored key is one of the prefix's
    assert all(len(tokens) == 15 and tokens == sorted(set(tokens)) for heads in kept for tokens in heads)


@every_architecture
def test_keeping_all_tokens_through_the_gather_is_the_full_cache(architecture: Architecture) -> None:
    prefix = prefix_of(random_model(architecture), tokens_of(N))
    memory = compressed(Dapq(keep=1.0), prefix)
    assert torch.equal(logits_after(prefix, memory, AFTER), logits_after(prefix, whole(prefix), AFTER))
    assert not torch.allclose(logits_after(prefix, compressed(PRESS, prefix), AFTER), logits_after(prefix, whole(prefix), AFTER), atol=1e-2)


def test_where_the_made_up_tokens_stand_changes_their_queries() -> None:
    prefix = prefix_of(random_model("qwen2"), tokens_of(N))
    queries = following(prefix, tokens_of(4))
    assert [query.shape for query in queries] == [(4, 4, 16)] * 3
    assert not torch.allclose(queries[0], prefix.layers[0].queries[:, :4], atol=1e-2)  # the first layer sees the same tokens, elsewhere


def test_pooling_is_offered_but_off() -> None:
    prefix = prefix_of(random_model(), tokens_of(N))
    plain = PseudoQueries(tokens=MADE_UP)
    smooth = PseudoQueries(tokens=MADE_UP, pool="avg", kernel=3, count_padding=False)
    kept = [np.array(kept_tokens(prefix, compressed(Dapq(tokens=15, importance=importance), prefix))) for importance in (plain, smooth)]
    assert kept[0].shape == kept[1].shape and (kept[0] != kept[1]).any()
    assert not plain.protected(prefix).any()


def test_the_press_and_its_importance_are_components() -> None:
    check_identity(Dapq(), "presses")
    check_identity(PseudoQueries(), "importances")
