"""TriAttention's third selection: the union of what every head would keep, and of it the best by the largest score of any head."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from curate.compression.importances.trigonometric import MEAN, NORM, Trigonometric
from curate.compression.prefix import Prefix
from curate.compression.rotary import rotary_of
from curate.inference.stores import LayerStore, Plain
from curate.presses.triattention import Triattention
from curate.testing import check_press
from curate.testing.random_models import random_model
from tests.presses.stored_prefixes import after, whole
from tests.presses.test_triattention import by_definition, prefix_of


def union_of(scores: Sequence[Sequence[float]], count: int) -> list[int]:
    """The published rule in plain Python, for scores by head and token: each head's best, their union, of it the best by the largest score; ties to the
    earlier token."""
    tokens = range(len(scores[0]))
    union: set[int] = set()
    for head in scores:
        union |= set(sorted(tokens, key=lambda token: (-head[token], token))[:count])
    combined = [max(head[token] for head in scores) for token in tokens]
    kept = sorted(union, key=lambda token: (-combined[token], token))[:count]
    left = sorted(set(tokens) - union, key=lambda token: (-combined[token], token))
    return sorted([*kept, *left[: count - len(kept)]])


def head_scores(prefix: Prefix, candidates: int, group: str = "max") -> NDArray[np.float64]:
    """(heads of all layers, candidates): normalised scores of query heads, number by number; or of key-value heads, as the mean of their query heads'."""
    rotary, state = rotary_of(prefix.model), prefix.state
    assert state is not None
    rows = []
    for layer, view in enumerate(prefix.layers):
        heads = []
        for head in range(len(view.queries)):
            keys = view.keys[head // view.groups]
            first, second = by_definition(keys, list(range(len(prefix))), len(prefix), state[MEAN][layer][head], state[NORM][layer][head], rotary, 17, "mean")
            own = (first + second)[:candidates]
            heads.append((own - own.mean()) / own.std())
        rows += heads if group == "max" else list(np.reshape(heads, (len(view.keys), view.groups, candidates)).mean(1))
    return np.stack(rows)


def kept_of(store: LayerStore, keys: Tensor) -> list[list[int]]:
    """Which tokens of the prefix each head of a store has."""
    assert isinstance(store, Plain)
    return [[int((own == key).all(1).nonzero()) for key in head] for head, own in zip(store.keys, keys, strict=True)]


def union_press(**fields: Any) -> Triattention:
    importance = {"name": "trigonometric", "selection": "union", **fields.pop("importance", {})}
    return Triattention.model_validate({"importance": importance, **fields})


@pytest.mark.parametrize(("architecture", "group", "recent"), [("llama", "max", 5), ("qwen2", "max", 0), ("gpt_neox", "max", 5), ("llama", "mean", 3)])
def test_all_layers_and_heads_keep_what_the_published_rule_says(architecture: Any, group: str, recent: int) -> None:
    prefix = prefix_of(random_model(architecture, layers=2))
    scores = head_scores(prefix, 40 - recent, group)
    for keep in (0.2, 0.3, 0.6):
        memory = union_press(keep=keep, importance={"recent": recent, "group": group}).compress(prefix)
        wanted = [*union_of(scores.tolist(), round(40 * keep) - recent), *range(40 - recent, 40)]
        for store, view in zip(memory.layers, prefix.layers, strict=True):
            assert kept_of(store, view.keys) == [wanted] * len(view.keys)
            assert isinstance(store, Plain) and store.values[0].equal(view.values[0, wanted])


def test_it_is_neither_of_the_other_selections() -> None:
    prefix = prefix_of(random_model("llama"))
    sets = []
    for selection in ("union", "per_head_over_layers", "per_layer_head"):
        press = union_press(keep=0.3, importance={"selection": selection, "recent": 2})
        sets.append([kept_of(store, view.keys) for store, view in zip(press.compress(prefix).layers, prefix.layers, strict=True)])
    one, over_layers, apart = sets
    assert all(head == one[0][0] for layer in one for head in layer)
    assert one != over_layers and one != apart and over_layers[0][0] != over_layers[0][1] and apart[0] != apart[1]


@pytest.mark.parametrize("seed", range(8))
def test_the_union_takes_nothing_away_whatever_the_ties(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = prefix_of(random_model("llama"))
    scores = np.random.default_rng(seed).integers(0, 2 + seed, (3, 2, 40)).astype(np.float32)
    monkeypatch.setattr(Trigonometric, "ranking", lambda self, prefix, layer, *rest: torch.from_numpy(scores[layer]))
    for count in (1, 3, 11, 25, 39, 40):
        memory = union_press(tokens=count, importance={"recent": 0}).compress(prefix)
        assert kept_of(memory.layers[1], prefix.layers[1].keys) == [union_of(scores.reshape(6, 40).tolist(), count)] * 2


def test_layers_with_other_budgets_keep_as_many_by_the_same_rule() -> None:
    prefix = prefix_of(random_model("llama"))
    scores = head_scores(prefix, 38).tolist()
    memory = union_press(keep=0.3, importance={"recent": 2}, allocator={"name": "pyramid", "window": 2, "beta": 4}).compress(prefix)
    sizes = set()
    for store, view in zip(memory.layers, prefix.layers, strict=True):
        kept = kept_of(store, view.keys)
        sizes.add(len(kept[0]))
        assert kept == [[*union_of(scores, len(kept[0]) - 2), 38, 39]] * 2
    assert len(sizes) == 3


def test_keeping_everything_is_the_full_cache_and_generated_tokens_are_only_added() -> None:
    model = random_model("qwen2")
    prefix = prefix_of(model)
    with torch.inference_mode():
        assert after(model, union_press(keep=1.0).compress(prefix)).equal(after(model, whole(prefix)))
    assert union_press().decoder(prefix, 0) is None


def test_where_only_the_newest_fit_they_are_kept() -> None:
    prefix = prefix_of(random_model("llama"))
    memory = union_press(tokens=6, importance={"recent": 40}).compress(prefix)
    assert kept_of(memory.layers[2], prefix.layers[2].keys) == [list(range(34, 40))] * 2


def test_the_press_keeps_the_contract() -> None:
    check_press(union_press(importance={"recent": 4}))
