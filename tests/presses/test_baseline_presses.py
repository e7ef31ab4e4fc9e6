"""The baselines, key norm and chance, and what all presses of this family promise as components."""

import math

import pytest
import torch

from curate.compression.importances.chance import Chance
from curate.compression.prefix import Prefix
from curate.inference.stores import Plain
from curate.presses.key_norm import KeyNorm
from curate.presses.random_tokens import RandomTokens
from curate.randomness import draw, row_keys
from curate.registry import Kind, component
from curate.testing.component import check_identity
from curate.testing.random_models import ARCHITECTURES, Architecture
from tests.presses.sequences import check_whole_and_half, made_prefix


def seeded(prefix: Prefix, seed: int) -> Prefix:
    return Prefix(prefix.tokens, prefix.layers, prefix.model, prefix.follow, seed=seed)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *(("presses", name) for name in ("h2o", "treekv", "prefixkv", "pyramidkv", "key_norm", "random_tokens")),
        *(("importances", name) for name in ("received", "key_norm", "chance")),
        *(("allocators", name) for name in ("prefixkv", "pyramid")),
    ],
)
def test_components_keep_their_promises(kind: Kind, name: str) -> None:
    found = component(kind, name)
    check_identity(found, kind)
    assert component(kind, found.model_dump(mode="json")) == found


def test_the_shortest_keys_are_kept_of_equal_ones_the_earlier() -> None:
    prefix = made_prefix(30)
    for view in prefix.layers:
        view.keys[:, 20] = -view.keys[:, 3]  # as long, and later
    for view, store in zip(prefix.layers, KeyNorm(tokens=11).compress(prefix).layers, strict=True):
        assert isinstance(store, Plain)
        for head in range(2):
            norms = [math.sqrt(sum(float(x) ** 2 for x in key)) for key in view.keys[head]]
            norms[20] = norms[3]
            kept = sorted(sorted(range(30), key=lambda token: (norms[token], token))[:11])
            assert torch.equal(store.keys[head], view.keys[head, kept]) and torch.equal(store.values[head], view.values[head, kept])


def test_chance_is_a_function_of_seed_layer_head_and_token_alone() -> None:
    long, short = made_prefix(50, layers=3), made_prefix(20, layers=2, heads=1, seed=9)
    first, fewer = Chance().score(long), Chance().score(short)
    assert [tuple(scores.shape) for scores in first] == [(2, 50)] * 3
    for layer in range(2):
        assert torch.equal(first[layer][:1, :20], fewer[layer])
    everything = torch.cat([*first, *Chance().score(seeded(long, 1))])
    assert len(everything.unique()) == everything.numel()
    assert float(first[1][0, 4]) == pytest.approx(float(draw(row_keys(0, "chance", ["1/0"]), 4)[0]), rel=1e-6)


def test_every_token_is_kept_as_often_as_any_other() -> None:
    prefix, counts = made_prefix(10, layers=1), torch.zeros(10)
    for seed in range(400):
        store = RandomTokens(tokens=3).compress(seeded(prefix, seed)).layers[0]
        assert isinstance(store, Plain)
        for head in range(2):
            counts += (prefix.layers[0].keys[head].unsqueeze(0) == store.keys[head].unsqueeze(1)).all(-1).sum(0)
    assert int(counts.sum()) == 2400
    assert float(((counts - 240) ** 2 / 240).sum()) < 27.9  # chi-squared of nine degrees at 0.001, more than the true quantile without replacement


def test_a_larger_random_budget_keeps_what_a_smaller_one_kept() -> None:
    prefix = made_prefix(30)
    small, large = (RandomTokens(tokens=tokens).compress(prefix) for tokens in (5, 12))
    for few, many in zip(small.layers, large.layers, strict=True):
        assert isinstance(few, Plain) and isinstance(many, Plain)
        for head in range(2):
            assert (few.keys[head].unsqueeze(1) == many.keys[head].unsqueeze(0)).all(-1).any(1).all()


@pytest.mark.parametrize("press", [KeyNorm, RandomTokens])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_keeping_all_is_the_full_model_and_bytes_follow_the_budget(architecture: Architecture, press: type[KeyNorm] | type[RandomTokens]) -> None:
    check_whole_and_half(architecture, press(keep=1.0), press(keep=0.5))
