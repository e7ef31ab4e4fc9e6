"""KIVI, GEAR and MiKV with many answers in one cache: at every step each answer attends as it does over a cache of its own."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from curate.compression.prefix import LayerView, Prefix
from curate.compression.quantised import Decodes, Whole
from curate.compression.together import Grid, Together
from curate.inference import growing
from curate.inference.attention import ours
from curate.inference.decoding import Decoding
from curate.inference.engine import Engine
from curate.inference.growing import Beside, Forgetting, Joined, side_by_side
from curate.inference.prefill import prefilled
from curate.inference.sampling import Nucleus, Sampler, sample_keys
from curate.inference.stores import DecodeCache, Joins, Memory, Plain, SharedCache, held_bytes
from curate.interfaces import Press
from curate.model import LanguageModel
from curate.registry import component
from curate.testing.random_models import random_model
from tests.presses.stored_prefixes import MODEL, made

HEADS, GROUPS, WIDTH = 2, 2, 16
KIVI = {"name": "kivi", "action": {"name": "kivi", "bits": 3, "group": 4, "residual": 8}}
GEAR = {"name": "gear", "action": {"name": "gear", "bits": 4, "group": 16, "sparsity": 0.05}}
SETTINGS: list[tuple[dict[str, Any], list[int], int, float]] = [  # press, tokens of the prompts, steps, tolerance
    (KIVI, [21, 1, 32, 7, 40], 30, 1e-10),
    ({"name": "kivi", "action": {"name": "kivi", "bits": 2, "group": 1, "residual": 1}}, [5, 1, 3, 2, 2], 13, 1e-10),
    (GEAR, [60, 3, 64, 130, 127], 75, 1e-5),  # the directions are float32
    ({**GEAR, "action": {**GEAR["action"], "backbone": "kcvt"}}, [62, 64, 1, 128, 100], 70, 1e-5),
    ({"name": "mikv", "keep": 0.3}, [20, 3, 41, 1, 33], 30, 1e-6),  # the balancer is applied in float32
    ({"name": "mikv", "keep": 0.2, "recent": 0.0, "action": {"name": "mikv", "bits": 4, "group": 3}}, [20, 7, 11, 30, 31], 30, 1e-6),
    ({"name": "mikv", "keep": 0.4, "recent": 1.0, "action": {"name": "mikv", "bits": 16}}, [20, 7, 11, 30, 31], 30, 1e-10),
    ({"name": "mikv", "tokens": 6}, [20, 3, 6, 4, 31], 30, 1e-6),
]
ANSWERS = [2, 1, 3, 1, 1]
ENDED = {3: [1], 7: [3, 5], 11: [7]}  # rows that end after a step: one of two, the only one, the first and last of three, the last prompt's


def press_of(fields: dict[str, Any]) -> Press:
    press = component("presses", {**fields, "covers": "prompt"})
    assert isinstance(press, Press)
    return press


def cache_of(press: Press, n: int, seed: int, dtype: torch.dtype = torch.float64) -> DecodeCache:
    view = made(n, heads=HEADS, groups=GROUPS, width=WIDTH, dtype=dtype, seed=seed).layers[0]
    cache = press.decoder(Prefix(list(range(n)), [view], MODEL, lambda tokens: []), 0)
    assert cache is not None
    return cache


def joined(caches: Sequence[DecodeCache], answers: Sequence[int]) -> SharedCache:
    first, *others = [cache for cache in caches if isinstance(cache, Joins)]
    return first.beside(others, answers)


def streams(rows: int, steps: int, dtype: torch.dtype = torch.float64) -> list[LayerView]:
    """The tokens that each answer grows by."""
    return [made(steps, heads=HEADS, groups=GROUPS, width=WIDTH, dtype=dtype, seed=100 + row).layers[0] for row in range(rows)]


def stacked(views: Sequence[LayerView], i: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (B, Hk, G, d), keys and values (B, Hk, 1, d) of everyone's token i."""
    queries = torch.stack([view.queries[:, i].view(HEADS, GROUPS, WIDTH) for view in views])
    return queries, torch.stack([view.keys[:, i : i + 1] for view in views]), torch.stack([view.values[:, i : i + 1] for view in views])


@pytest.mark.parametrize(("fields", "lengths", "steps", "tolerance"), SETTINGS)
def test_every_answer_attends_as_over_a_cache_of_its_own(fields: dict[str, Any], lengths: list[int], steps: int, tolerance: float) -> None:
    press = press_of(fields)
    caches = [cache_of(press, n, seed) for seed, n in enumerate(lengths)]
    owners = [prompt for prompt, count in enumerate(ANSWERS) for _ in range(count)]
    alone, views, going = [copy.deepcopy(caches[prompt]) for prompt in owners], streams(len(owners), steps), list(range(len(owners)))
    before = [[tensor.clone() for tensor in cache.tensors] for cache in caches]
    together = joined(caches, ANSWERS)
    for i in range(steps):
        asked = stacked([views[row] for row in going], i)
        output = together.attend(*asked, WIDTH**-0.5)
        for place, row in enumerate(going):
            expected = alone[row].attend(*(part[place] for part in asked), lengths[owners[row]] + i, WIDTH**-0.5)
            torch.testing.assert_close(output[place], expected, atol=tolerance, rtol=tolerance)
        stay = [place for place, row in enumerate(going) if row not in ENDED.get(i, [])]
        if len(stay) < len(going):
            together.keep(torch.tensor(stay))
            going = [going[place] for place in stay]
    assert len(going) == 4
    for cache, tensors in zip(caches, before, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(cache.tensors, tensors, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fields", [KIVI, GEAR, {"name": "mikv", "keep": 0.3}])
def test_smaller_numbers_are_attended_to_alike(fields: dict[str, Any], dtype: torch.dtype) -> None:
    press, lengths, answers = press_of(fields), [70, 66, 9], [2, 1, 1]
    caches = [cache_of(press, n, seed, dtype) for seed, n in enumerate(lengths)]
    alone, views = [copy.deepcopy(caches[prompt]) for prompt in (0, 0, 1, 2)], streams(4, 3, dtype)
    together, tolerance = joined(caches, answers), 1e-4 if dtype == torch.float32 else 5e-2
    for i in range(3):
        asked = stacked(views, i)
        output = together.attend(*asked, 0.25)
        assert output.dtype == dtype
        for row, n in enumerate((70, 70, 66, 9)):
            torch.testing.assert_close(output[row], alone[row].attend(*(part[row] for part in asked), n + i, 0.25), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(("fields", "lengths", "steps", "tolerance"), [SETTINGS[0], SETTINGS[2], SETTINGS[4]])
def test_an_answer_without_numbers_spoils_no_other(fields: dict[str, Any], lengths: list[int], steps: int, tolerance: float) -> None:
    press = press_of(fields)
    caches, views = [cache_of(press, n, seed) for seed, n in enumerate(lengths)], streams(sum(ANSWERS), steps)
    views[0].keys[:, 2], views[0].values[:, 2] = float("nan"), float("inf")
    together = joined(caches, ANSWERS)
    for i in range(steps):
        output = together.attend(*stacked(views, i), 0.25)
        assert output[1:].isfinite().all()
    assert not output[0].isfinite().any()


@pytest.mark.parametrize("seed", range(6))
def test_blocks_stay_with_their_rows_whoever_has_more_and_whoever_ends(seed: int) -> None:
    draws = np.random.default_rng(seed)
    held: list[list[Tensor]] = [[] for _ in range(5)]
    grid = Grid(5, [lambda tokens: Whole(tokens.flatten(1, 2))])
    for _ in range(12):
        some = np.flatnonzero(draws.random(len(held)) < 0.4).tolist()
        if some:
            new = torch.from_numpy(draws.random((2, len(some), 1, 3)) + 1)
            grid.add(some, [new])
            for place, row in enumerate(some):
                held[row].append(new[:, place, 0])
        if len(held) > 2 and draws.random() < 0.3:
            gone = max(range(len(held)), key=lambda row: len(held[row]))
            grid.keep(torch.tensor([row for row in range(len(held)) if row != gone]))
            held.pop(gone)
        found = grid.read()
        assert [grid.counts(row) for row in range(len(held))] == [[len(mine)] if found else [] for mine in held]
        for row, mine in enumerate(held if found else []):
            assert torch.equal(found[0][:, row, : len(mine)], torch.stack(mine, 1) if mine else found[0][:, row, :0])
            assert not found[0][:, row, len(mine) :].any()


class Counted:
    """A piece of a prompt that counts how often it is decoded."""

    def __init__(self, piece: Decodes) -> None:
        self.piece, self.times = piece, 0

    def decoded(self) -> Tensor:
        self.times += 1
        return self.piece.decoded()

    @property
    def tensors(self) -> Sequence[Tensor]:
        return self.piece.tensors


@pytest.mark.parametrize("fields", [KIVI, GEAR, {"name": "mikv", "keep": 0.3}])
def test_what_a_prompt_has_in_few_bits_is_held_once_and_decoded_once_a_step(fields: dict[str, Any]) -> None:
    press = press_of(fields)
    cache = cache_of(press, 640, 0)
    together = joined([cache], [8])
    assert isinstance(together, Together)
    held = held_bytes(together.tensors)
    assert held < held_bytes(joined([cache], [1]).tensors) + 7 * 0.4 * held_bytes([made(640, dtype=torch.float64).layers[0].keys]) * 2
    pieces = [[Counted(piece) for piece in kind] for kind in together.prompts[0]]
    together.prompts = [(pieces[0], pieces[1])]
    for i in range(5):
        together.attend(*stacked(streams(8, 5), i), 0.25)
    assert [piece.times for kind in pieces for piece in kind] == [5, 5]


def state_of(model: LanguageModel, press: Press, prompt: Sequence[int]) -> Forgetting:
    with torch.inference_mode(), ours(model.model):
        prefix, _ = prefilled(model, prompt)
        caches = [press.decoder(prefix, layer) for layer in range(len(prefix.layers))]
    return Forgetting([cache for cache in caches if cache is not None], len(prompt))


def test_what_can_be_joined_is_and_the_order_of_answers_stays() -> None:
    model = random_model()
    kivi, h2o = press_of(KIVI), press_of({"name": "h2o", "keep": 0.5})
    one, two, three, other = (state_of(model, press, range(2, 2 + n)) for press, n in ((kivi, 9), (kivi, 20), (kivi, 12), (h2o, 15)))
    empty = torch.zeros(2, 0, 16)
    whole = Decoding([Memory([Plain(empty, empty)], 0)], None, torch.zeros(2, dtype=torch.long))
    state = side_by_side([(one, 2), (two, 1), (other, 2), (whole, 2), (three, 1)])
    assert isinstance(state, Beside) and state.rows == [3, 1, 1, 2, 1]
    assert [type(part) for part in state.states] == [Joined, Forgetting, Forgetting, Decoding, Forgetting]
    assert state.states[3] is whole


@pytest.mark.parametrize(
    ("fields", "lengths"), [(KIVI, [9, 30, 17, 24]), (GEAR, [60, 66, 55, 127]), ({"name": "mikv", "keep": 0.3}, [9, 30, 17, 24]), (GEAR, [3, 64, 5, 60])]
)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_several_prompts_at_once_are_answered_as_one_by_one(fields: dict[str, Any], lengths: list[int], device: str) -> None:
    model, press = random_model(device=device), press_of(fields)
    prompts = [np.random.default_rng(n).integers(2, 97, n).tolist() for n in lengths]
    contexts = [prompt for prompt in prompts for _ in range(2)]
    keys = sample_keys(3, prompts, 2)
    found = Engine(model, press=press).generate(contexts, max_tokens=14, stop=range(7, 13), choose=Sampler(keys, Nucleus(temperature=2.0)))
    for i, context in enumerate(contexts):
        mine = Sampler(keys[i : i + 1], Nucleus(temperature=2.0))
        assert Engine(model, press=press).generate([context], max_tokens=14, stop=range(7, 13), choose=mine) == [found[i]]
    assert len({tuple(answer) for answer in found}) > 5 and len({len(answer) for answer in found}) > 1


def test_answers_that_grow_at_once_attend_once_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    attend = growing.Joined.attend

    def noted(self: Joined, layer: int, query: Tensor, *rest: Any) -> Tensor:
        seen.append(len(query))
        return attend(self, layer, query, *rest)

    monkeypatch.setattr(growing.Joined, "attend", noted)
    prompts = [np.random.default_rng(n).integers(2, 97, n).tolist() for n in (9, 30, 17)]
    Engine(random_model(), press=press_of(KIVI)).generate([*prompts, prompts[0]], max_tokens=5)
    assert seen == [4] * 4 * 3
