"""PrefixKV while it decodes: layers grow as they kept the prefix, and one fixed slot is emptied, as a list that tokens are cut out of does it."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from curate.compression.allocators.prefixkv import Prefixkv as Budgets
from curate.compression.fixed_slot import FixedSlot
from curate.compression.parts import Allocator
from curate.compression.prefix import Prefix
from curate.core import Integers
from curate.errors import ConfigError
from curate.inference.attention import ours
from curate.inference.engine import Engine
from curate.inference.stores import Plain, held_bytes
from curate.presses.prefixkv import Prefixkv
from curate.registry import component
from curate.testing import check_press
from curate.testing.random_models import ARCHITECTURES, Architecture, random_model
from tests.presses.sequences import decoded, exact, followed, made_prefix, real_prefix

FIXED = Prefixkv(keep=0.5, decode="fixed_slot")


def cut(kept: int, tokens: int, steps: int) -> list[list[int]]:
    """What the published loop leaves after each step: places 0 to kept - 1 of a prefix, and numbers from `tokens` on for what comes."""
    drop = 1 - Fraction(kept, tokens)
    slot = kept - 25 if kept - 25 >= 1 else kept // 2
    live, found = list(range(kept)), []
    for seen in range(tokens + 1, tokens + steps + 1):
        live = [*live, seen - 1]
        if int(len(live) - seen * (1 - drop)) > 0:
            live = live[:slot] + live[slot + 1 :]
        found.append(live)
    return found


def drawn(steps: int, *, heads: int = 2, groups: int = 2, width: int = 4, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    shapes = [(heads, groups, steps, width), (heads, steps, width), (heads, steps, width)]
    queries, keys, values = (torch.randn(shape, generator=draws, dtype=torch.float64) for shape in shapes)
    return queries, keys, values


@pytest.mark.parametrize(
    ("kept", "tokens"), [(50, 100), (26, 60), (25, 60), (3, 40), (1, 40), (2, 3), (40, 40), (1, 1), (90, 97), (31, 977)], ids=lambda number: str(number)
)
def test_every_step_attends_to_what_a_list_with_cuts_leaves(kept: int, tokens: int) -> None:
    steps = 160
    queries, keys, values = drawn(kept + steps)
    before = keys[:, :kept].clone()
    cache = FixedSlot(keys[:, :kept], values[:, :kept], tokens)
    live = list(range(kept))
    for i, after in enumerate(cut(kept, tokens, steps)):
        at = kept + i
        output = cache.attend(queries[:, :, at], keys[:, at : at + 1], values[:, at : at + 1], tokens + i, 0.5)
        seen = [*live, tokens + i]
        places = [token if token < kept else token - tokens + kept for token in seen]
        expected = (queries[:, :, at] @ keys[:, places].transpose(1, 2) * 0.5).softmax(-1) @ values[:, places]
        torch.testing.assert_close(output, expected, rtol=0, atol=1e-9)
        assert tokens + i in after and len(after) - 1 < Fraction(kept, tokens) * (tokens + i + 1)
        live = after
    assert torch.equal(keys[:, :kept], before)
    assert (len(live) == kept + steps) == (kept == tokens)


def test_old_tokens_stay_and_a_window_of_newest_ones_follows() -> None:
    assert cut(30, 60, 200)[-1] == [0, 1, 2, 3, 4, *range(135, 260)]
    assert cut(4, 16, 60)[-1] == [0, 1, *range(59, 76)]


def layers_of(prefix: Prefix, press: Prefixkv) -> list[FixedSlot]:
    caches = [press.decoder(prefix, layer) for layer in range(len(prefix.layers))]
    assert all(isinstance(cache, FixedSlot) for cache in caches)
    return [cache for cache in caches if isinstance(cache, FixedSlot)]


def test_layers_begin_with_what_is_stored_and_grow_at_their_own_rates() -> None:
    prefix = made_prefix(80, layers=4)
    for factor, view in enumerate(prefix.layers):
        view.queries.mul_(factor)
    press = Prefixkv(tokens=30, decode="fixed_slot")
    memory = press.compress(prefix)
    assert memory.tokens == 80
    for held in (memory, None):
        caches = layers_of(prefix, press)
        sizes = [cache.keys.shape[1] for cache in caches]
        assert len(set(sizes)) == 4 and sum(sizes) == 4 * 30
        for cache, store in zip(caches, press.compress(prefix).layers if held is None else held.layers, strict=True):
            assert isinstance(store, Plain) and torch.equal(cache.keys, store.keys) and torch.equal(cache.values, store.values)
        for position in range(80, 240):
            for cache in caches:
                cache.attend(torch.ones(2, 3, 8), torch.ones(2, 1, 8), torch.ones(2, 1, 8), position, 1.0)
        assert all(3 * size <= cache.keys.shape[1] <= 3 * size + 1 for cache, size in zip(caches, sizes, strict=True))


def test_what_was_compressed_is_taken_for_that_prefix_and_press_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    times: list[int] = []
    allocate = Budgets.allocate

    def noted(self: Budgets, prefix: Prefix, scores: Sequence[Tensor], tokens: int) -> Integers:
        times.append(tokens)
        return allocate(self, prefix, scores, tokens)

    monkeypatch.setattr(Budgets, "allocate", noted)
    prefix, other = made_prefix(60), made_prefix(60, seed=1)
    memory = FIXED.compress(prefix)
    assert torch.equal(layers_of(prefix, FIXED)[1].keys, memory.layers[1].tensors[0]) and times == [30]
    smaller = FIXED.model_copy(update={"keep": 0.2})
    assert [cache.keys.shape[1] for cache in layers_of(prefix, smaller)] != [cache.keys.shape[1] for cache in layers_of(prefix, FIXED)]
    kept = FIXED.compress(prefix)
    assert not torch.equal(layers_of(other, FIXED)[0].keys[:, :4], kept.layers[0].tensors[0][:, :4])
    times.clear()
    model = random_model()
    Engine(model, press=FIXED.model_copy(update={"covers": "prompt"})).generate([[5, 9, 33, 2, 60, 7]] * 3 + [[8, 8, 9]], max_tokens=4)
    assert times == [3, 2]


def test_left_at_its_default_generated_tokens_are_added() -> None:
    prefix = made_prefix(60)
    assert Prefixkv().decode == "grow" and Prefixkv().decoder(prefix, 0) is None
    one, other = Prefixkv(keep=0.5).compress(prefix), FIXED.compress(prefix)
    for mine, theirs in zip(one.layers, other.layers, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine.tensors, theirs.tensors, strict=True))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_with_everything_kept_decoding_is_the_full_model(architecture: Architecture) -> None:
    model, tokens, after = random_model(architecture), [5, 9, 33, 2, 60, 7, 7, 41, 12, 88] * 4, [3, 50, 21, 9, 77, 4] * 3
    with torch.inference_mode(), ours(model.model):
        prefix = real_prefix(model, tokens)
        logits, caches = decoded(model, Prefixkv(keep=1.0, decode="fixed_slot"), prefix, after)
        small, half = decoded(model, FIXED, prefix, after)
        first = followed(model, FIXED.compress(prefix), after[:1])
    full = exact(model, tokens, after)
    torch.testing.assert_close(logits, full, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(small[:1], first, rtol=1e-5, atol=1e-5)
    assert (small - full).abs().max() > 1e-2
    held, whole = (sum(held_bytes(cache.tensors) for cache in some) for some in (half, caches))
    heads, width = prefix.layers[0].keys.shape[0], prefix.layers[0].keys.shape[2]
    assert whole == 3 * 58 * 2 * heads * width * 4 and whole // 2 <= held <= whole // 2 + 3 * 2 * heads * width * 4


@pytest.mark.parametrize("fields", [{}, {"keep": 0.1}, {"allocator": "uniform"}], ids=["as published", "few tokens", "as many in every layer"])
def test_the_contract_is_kept(fields: dict[str, Any]) -> None:
    press = component("presses", {"name": "prefixkv", "decode": "fixed_slot", **fields})
    assert isinstance(press, Prefixkv)
    check_press(press)


def test_answers_that_grow_at_once_are_those_that_grow_one_by_one() -> None:
    model, press = random_model(), FIXED.model_copy(update={"covers": "prompt", "keep": 0.2})
    contexts = [np.random.default_rng(n).integers(2, 97, n).tolist() for n in (9, 30, 17, 9, 40)]
    together = Engine(model, press=press).generate(contexts, max_tokens=30)
    assert together == [Engine(model, press=press).generate([context], max_tokens=30)[0] for context in contexts]
    assert together != Engine(model, press=press.model_copy(update={"decode": "grow"})).generate(contexts, max_tokens=30)


def test_other_actions_than_eviction_are_refused() -> None:
    with pytest.raises(ValueError, match="action merge keeps tokens otherwise; use evict, or decode: grow"):
        component("presses", {"name": "prefixkv", "decode": "fixed_slot", "action": "merge"})
    assert component("presses", {"name": "prefixkv", "action": "merge"}).name == "prefixkv"


class Uneven(Allocator):
    """One token more for the first head than for the second."""

    name: Literal["uneven"] = "uneven"

    def allocate(self, prefix: Prefix, scores: Sequence[Tensor], tokens: int) -> Integers:
        return np.array([[tokens + 1, tokens - 1]] * len(scores))


def test_heads_that_keep_different_numbers_are_refused() -> None:
    press, prefix = FIXED.model_copy(update={"allocator": Uneven()}), made_prefix(20)
    with pytest.raises(ConfigError, match="equally many tokens in all heads, but allocator uneven differs"):
        press.decoder(prefix, 0)
