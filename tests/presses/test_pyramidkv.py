"""PyramidKV: budgets fall along a line, exact in total, and the window's scores fill them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from curate.compression.allocators.pyramid import Pyramid
from curate.compression.importances.window import Window
from curate.inference.stores import Plain
from curate.presses.pyramidkv import Pyramidkv
from curate.testing.random_models import ARCHITECTURES, Architecture
from tests.presses.sequences import check_whole_and_half, made_prefix


def budgets(n: int, layers: int, tokens: int, *, heads: int = 1, window: int = 8, beta: float = 20.0) -> list[int]:
    prefix = made_prefix(n, layers=1, heads=1, groups=1, width=1)
    counts = Pyramid(window=window, beta=beta).allocate(prefix, [torch.zeros(heads, n)] * layers, tokens)
    assert counts.shape == (layers, heads) and (counts == counts[:, :1]).all()
    found: list[int] = counts[:, 0].tolist()
    return found


def published(layers: int, tokens: int, window: int, beta: int = 20) -> list[int]:
    """The public code where nothing is clamped: whole steps, rounded down."""
    least = (tokens - window) // beta
    most = 2 * (tokens - window) - least
    step = (most - least) // (layers - 1)
    return [most - layer * step + window for layer in range(layers)]


@pytest.mark.parametrize(("tokens", "theirs"), [(64, 2288), (512, 16832)])
def test_budgets_are_the_published_line_but_for_its_rounding(tokens: int, theirs: int) -> None:
    found, public = budgets(4096, 32, tokens), published(32, tokens, 8)
    assert sum(public) == theirs
    assert sum(found) == 32 * tokens
    excess = (theirs - 32 * tokens) / 32
    assert np.abs(np.subtract(public, found)).max() <= 2 * excess + 2 and abs(public[0] - found[0]) <= 1


@pytest.mark.parametrize(("n", "layers", "tokens"), [(4096, 32, 64), (4096, 7, 100), (100, 5, 70), (40, 3, 8), (40, 3, 5), (90, 4, 90)])
def test_budgets_lie_within_one_of_the_line(n: int, layers: int, tokens: int) -> None:
    window = 8
    free = max(0, tokens - window)
    ends = [2 * free - free / 20, free / 20]
    if ends[0] > n - window:
        ends = [n - window, 2 * free - (n - window)]
    found = budgets(n, layers, tokens, window=window)
    line = [min(window, tokens) + ends[0] + (ends[1] - ends[0]) * layer / (layers - 1) for layer in range(layers)]
    assert np.abs(np.subtract(found, line)).max() < 1
    assert sum(found) == layers * tokens


@given(st.integers(1, 90), st.integers(1, 9), st.integers(1, 120), st.integers(0, 20), st.sampled_from([1.0, 2.5, 20.0, 1000.0]))
def test_budgets_fall_within_their_bounds_to_an_exact_total(n: int, layers: int, tokens: int, window: int, beta: float) -> None:
    found = budgets(n, layers, tokens, heads=3, window=window, beta=beta)
    average = min(tokens, n)
    assert sum(found) == layers * average
    assert found == sorted(found, reverse=True)
    assert min(window, average) <= min(found) and max(found) <= n
    if beta == 1.0 or average in (n, window) or layers == 1:
        assert found == [average] * layers


def test_a_press_keeps_the_windows_choice_in_every_layers_number() -> None:
    prefix = made_prefix(80, layers=4)
    press = Pyramidkv(tokens=20, importance=Window(window=8), allocator=Pyramid(window=8))
    sizes = budgets(80, 4, 20)
    assert len(set(sizes)) == 4
    for view, scores, size, store in zip(prefix.layers, press.importance.score(prefix), sizes, press.compress(prefix).layers, strict=True):
        assert isinstance(store, Plain)
        for head in range(2):
            best = sorted(range(72), key=lambda token: (-float(scores[head, token]), token))[: size - 8]
            assert torch.equal(store.keys[head], view.keys[head, sorted([*best, *range(72, 80)])])


def test_defaults_agree_on_the_window() -> None:
    press = Pyramidkv()
    assert isinstance(press.importance, Window) and isinstance(press.allocator, Pyramid)
    assert press.importance.window == press.allocator.window


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_keeping_all_is_the_full_model_and_bytes_follow_the_budget(architecture: Architecture) -> None:
    check_whole_and_half(architecture, Pyramidkv(keep=1.0), Pyramidkv(keep=0.5, importance=Window(window=4), allocator=Pyramid(window=4)))


@pytest.mark.parametrize(("tokens", "theirs"), [(2048, [2926, 2341, 1756, 1170]), (512, [732, 586, 440, 292])])
def test_steps_of_eight_layers_are_windowkvs_budgets(tokens: int, theirs: list[int]) -> None:
    counts = Pyramid(window=0, beta=1.75, layer_groups=8).allocate(made_prefix(9000, layers=1, heads=1, groups=1, width=1), [torch.zeros(1, 9000)] * 32, tokens)
    assert np.abs(counts[:, 0] - np.repeat(theirs, 8)).max() <= 1 and counts.sum() == 32 * tokens


@pytest.mark.parametrize("layers", [1, 7, 8, 9, 20])
def test_a_last_group_may_be_short_and_the_total_stays_exact(layers: int) -> None:
    counts = Pyramid(window=4, beta=1.75, layer_groups=8).allocate(made_prefix(400, layers=1, heads=1, groups=1, width=1), [torch.zeros(1, 400)] * layers, 100)
    found = counts[:, 0].tolist()
    assert sum(found) == 100 * layers and all(max(found[at : at + 8]) - min(found[at : at + 8]) <= 1 for at in range(0, layers, 8))
    assert found == [100] * layers if layers <= 8 else found[0] > found[-1]
