"""The windowed scorer against loops over heads, queries and tokens, with every knob."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from curate.compression.importances.window import Window
from curate.compression.prefix import Prefix
from curate.compression.windowed import chunked, pooled, window_rows
from curate.testing.component import check_identity
from curate.testing.random_models import ARCHITECTURES, Architecture, random_model
from tests.presses.windowed_oracles import REDUCE, Array, naive_attention, naive_chunks, naive_pool, prefix_of, tokens_of

N = 37
W = 6


@pytest.fixture(scope="module", params=ARCHITECTURES)
def prefix(request: pytest.FixtureRequest) -> Prefix:
    architecture: Architecture = request.param
    return prefix_of(random_model(architecture), tokens_of(N))


def rows_of(prefix: Prefix, layer: int, reduce: str) -> Array:
    """(Hq, N - W): what the last W queries together pay to the tokens before them."""
    view = prefix.layers[layer]
    weights = naive_attention(view, view.queries[:, -W:], range(N - W, N))
    return np.stack([REDUCE[reduce](head) for head in weights])[:, : N - W]


def expected(prefix: Prefix, layer: int, window: Window) -> Array:
    """(Hk, N - W) by the definition."""
    rows, view = rows_of(prefix, layer, window.reduce), prefix.layers[layer]
    if window.chunk > 1:
        rows = np.stack([naive_chunks(row, window.chunk, window.chunk_top) for row in rows])
    size = len(rows) if window.share == "layer" else view.groups
    groups = [REDUCE[window.group](rows[first : first + size]) for first in range(0, len(rows), size)]
    values = np.stack([naive_pool(row, window.pool, window.kernel, window.count_padding) for row in groups])
    return np.broadcast_to(values, (len(view.keys), N - W))


@pytest.mark.parametrize(("reduce", "group"), list(itertools.product(("sum", "mean", "max"), repeat=2)))
@pytest.mark.parametrize(
    "knobs",
    [
        {"pool": "none"},
        {"pool": "avg", "kernel": 5},
        {"pool": "avg", "kernel": 7, "count_padding": False, "share": "layer"},
        {"pool": "max", "kernel": 3},
        {"pool": "none", "chunk": 8, "share": "layer"},
        {"pool": "none", "chunk": 8, "chunk_top": 4},
    ],
    ids=str,
)
def test_scores_equal_loops_over_heads_queries_and_tokens(prefix: Prefix, reduce: str, group: str, knobs: dict[str, object]) -> None:
    window = Window.model_validate({"window": W, "reduce": reduce, "group": group, **knobs})
    scores = window.score(prefix)
    assert len(scores) == 3
    for layer, values in enumerate(scores):
        assert values.dtype == torch.float32 and values.shape == prefix.layers[layer].keys.shape[:2]
        np.testing.assert_allclose(values[:, : N - W].numpy(), expected(prefix, layer, window), rtol=2e-5, atol=1e-7)
        assert (values[:, N - W :] == values[:, : N - W].amax(-1, keepdim=True)).all()  # the window's own tokens count as the best of the others


def test_the_first_layer_of_a_group_decides_for_all_of_it(prefix: Prefix) -> None:
    alone, together = Window(window=W).score(prefix), Window(window=W, layer_groups=2).score(prefix)
    for layer, decides in enumerate((0, 0, 2)):
        assert torch.equal(together[layer], alone[decides])
    assert not torch.allclose(alone[0], alone[1])


def test_a_constant_on_all_logits_of_a_query_changes_nothing(prefix: Prefix) -> None:
    view = prefix.layers[1]
    shift = torch.randn(len(view.keys), 1, view.keys.shape[-1], generator=torch.Generator().manual_seed(0))
    moved = replace(prefix, layers=[prefix.layers[0], replace(view, keys=view.keys + shift), prefix.layers[2]])
    torch.testing.assert_close(Window(window=W).score(moved)[1], Window(window=W).score(prefix)[1], rtol=1e-4, atol=1e-7)


def test_a_query_pays_nothing_to_later_tokens(prefix: Prefix) -> None:
    view = prefix.layers[0]
    rows = window_rows(view, view.queries[:, 10:13], torch.tensor([10, 11, 12]), "sum")
    assert (rows[:, 13:] == 0).all() and (rows[:, :11] > 0).all()
    torch.testing.assert_close(rows.sum(-1), torch.full((len(rows),), 3.0))


def test_chosen_heads_read_the_key_value_head_of_their_group(prefix: Prefix) -> None:
    view = prefix.layers[2]
    positions = torch.arange(N - W, N)
    every = window_rows(view, view.queries[:, -W:], positions, "mean")
    some = window_rows(view, view.queries[:, -W:], positions, "mean", torch.tensor([1, 3]))
    torch.testing.assert_close(some, every[[1, 3]])


@pytest.mark.parametrize("length", [1, 4])
def test_a_prefix_within_the_window_is_all_window(prefix: Prefix, length: int) -> None:
    short = prefix_of(prefix.model, tokens_of(length))
    for window in (Window(window=4), Window(window=4, chunk=8, pool="none", share="layer")):
        assert all(values.shape == view.keys.shape[:2] and values.isfinite().all() for values, view in zip(window.score(short), short.layers, strict=True))
        assert window.protected(short).all()


def test_the_window_is_protected_and_nothing_else(prefix: Prefix) -> None:
    assert Window(window=W).protected(prefix).nonzero().squeeze(-1).tolist() == list(range(N - W, N))


def test_pooling_counts_padding_only_if_asked_to() -> None:
    ones = torch.ones(1, 6)
    torch.testing.assert_close(pooled(ones, "avg", 5), torch.tensor([[0.6, 0.8, 1.0, 1.0, 0.8, 0.6]]))
    torch.testing.assert_close(pooled(ones, "avg", 5, count_padding=False), ones)
    assert pooled(torch.tensor([[0.0, 3.0, 1.0, 0.0]]), "max", 3).tolist() == [[3.0, 3.0, 3.0, 1.0]]


def test_a_short_last_chunk_counts_its_own_tokens_only() -> None:
    row = torch.tensor([[1.0, 2.0, 3.0, 6.0, 5.0]])
    assert chunked(row, 3, None).tolist() == [[2.0, 2.0, 2.0, 5.5, 5.5]]
    assert chunked(row, 3, 2).tolist() == [[2.5, 2.5, 2.5, 5.5, 5.5]]
    assert chunked(row, 4, 9).tolist() == [[3.0, 3.0, 3.0, 3.0, 5.0]]


@pytest.mark.parametrize(("fields", "line"), [({"kernel": 4}, "use an odd one such as 5"), ({"chunk": 8}, "set pool: none, or chunk: 1")])
def test_knobs_that_contradict_each_other_are_refused(fields: dict[str, int], line: str) -> None:
    with pytest.raises(ValidationError, match=line):
        Window.model_validate(fields)


def test_the_importance_is_a_component() -> None:
    check_identity(Window(), "importances")
