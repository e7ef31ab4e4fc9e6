"""PrefixKV: one threshold on the layers' own curves, exact in total, and one set of tokens per layer."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from curate.compression.allocators.prefixkv import CURVES, POINTS, Prefixkv, cumulative, one_threshold
from curate.compression.importances.received import Received
from curate.compression.prefix import Prefix
from curate.errors import ConfigError, DataError, ModelError
from curate.inference.stores import Plain
from curate.presses.prefixkv import Prefixkv as Press
from curate.testing.random_models import ARCHITECTURES, Architecture
from tests.presses.sequences import MODEL, attention_of, check_whole_and_half, made_prefix, real_prefix


def curves_of(rows: list[list[int]]) -> NDArray[np.float64]:
    return np.stack([cumulative(torch.tensor([row], dtype=torch.float32), i) for i, row in enumerate(rows)])


def needed(row: list[int], share: Fraction) -> int:
    """min{m : F(m) >= share}, in exact fractions."""
    best, total = sorted(row, reverse=True), sum(row)
    return next(m for m in range(1, len(row) + 1) if Fraction(sum(best[:m]), total) >= share)


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[list[int]], int, int]:
    """Scores per layer, tokens per layer, and how many are protected."""
    layers, n = draw(st.integers(1, 5)), draw(st.integers(1, 12))
    rows = [draw(st.lists(st.integers(0, 6), min_size=n, max_size=n).filter(any)) for _ in range(layers)]
    return rows, draw(st.integers(1, n)), draw(st.integers(0, 3))


@given(problems())
def test_the_threshold_is_the_largest_that_fits_of_all_breakpoints(problem: tuple[list[list[int]], int, int]) -> None:
    rows, tokens, protect = problem
    n, total = len(rows[0]), len(rows) * tokens
    counts = one_threshold(curves_of(rows), tokens, protect)
    assert int(counts.sum()) == total and counts.dtype == np.int64
    levels = sorted({Fraction(sum(sorted(row, reverse=True)[:m]), sum(row)) for row in rows for m in range(1, n + 1)})
    kept = [[min(n, needed(row, level) + protect) for row in rows] for level in levels] + [[n] * len(rows)]
    fitting = [found for found in kept if sum(found) <= total]
    if not fitting:
        assert counts.tolist() == [tokens] * len(rows)
        return
    following = kept[len(fitting)] if len(fitting) < len(kept) else fitting[-1]
    room = [more - less for more, less in zip(following, fitting[-1], strict=True)]
    given = [0] * len(rows)
    for _ in range(total - sum(fitting[-1])):
        given[min((i for i in range(len(rows)) if room[i]), key=lambda i: (Fraction(2 * given[i] + 1, room[i]), i))] += 1
    assert counts.tolist() == [less + more for less, more in zip(fitting[-1], given, strict=True)]


@given(problems())
def test_more_budget_never_takes_a_token_from_a_layer(problem: tuple[list[list[int]], int, int]) -> None:
    rows, _, protect = problem
    curves = curves_of(rows)
    counts = np.stack([one_threshold(curves, tokens, protect) for tokens in range(1, len(rows[0]) + 1)])
    assert (np.diff(counts, axis=0) >= 0).all() and (counts[-1] == len(rows[0])).all()


def bisected(curves: NDArray[np.float64], drop: float, protect: int) -> NDArray[np.int64]:
    """The published search, up to its scaling: halve p until the dropped tokens are within 5 of what is asked."""
    layers, n = curves.shape
    low, high = 0.0, 1.0
    while True:
        middle = (low + high) / 2
        forget = np.array([max(0, n - (int(np.argmax(curve >= middle)) + 1) - protect) for curve in curves])
        if abs(forget.sum() - drop * layers * n) < 5:
            return forget
        low, high = (middle, high) if forget.sum() > drop * layers * n else (low, middle)


@pytest.mark.parametrize("seed", range(5))
def test_the_published_bisection_differs_by_less_than_its_tolerance(seed: int) -> None:
    draws = np.random.default_rng(seed)
    scores = draws.gamma(draws.uniform(0.05, 3, (12, 1)), size=(12, 200))
    curves = np.stack([cumulative(torch.from_numpy(row)[None], i) for i, row in enumerate(scores)])
    for tokens in (20, 77, 140):
        theirs = 200 - bisected(curves, 1 - tokens / 200, 5)
        counts = one_threshold(curves, tokens, 5)
        assert counts.sum() == 12 * tokens
        # both grow with p in every layer, so that they differ by exactly as much as their sums
        assert np.abs(theirs - counts).sum() == abs(theirs.sum() - counts.sum()) <= 5


def test_equal_curves_give_equal_numbers_and_a_layer_with_one_heavy_token_the_least() -> None:
    draws = np.random.default_rng(0)
    row = draws.random(50)
    alike = [torch.from_numpy(draws.permutation(row)).float().expand(3, -1) for _ in range(4)]
    prefix = made_prefix(50)
    assert Prefixkv().allocate(prefix, alike, 17).tolist() == [[17] * 3] * 4
    heavy = torch.zeros(3, 50)
    heavy[:, 8] = 1
    counts = Prefixkv().allocate(prefix, [*alike, heavy], 17)
    assert counts[4].tolist() == [6] * 3 and counts.sum() == 5 * 3 * 17
    assert np.ptp(counts[:4]) <= 1 and (counts.min(1) == counts.max(1)).all()


def test_beyond_all_scores_layers_get_what_is_left_in_proportion() -> None:
    """Three and five of seven tokens hold everything; of the two tokens left, one goes to each, and not both to the layer with more room."""
    assert one_threshold(curves_of([[1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0, 0]]), 5, 0).tolist() == [4, 6]


def test_scores_of_nothing_are_shared_evenly_and_negative_ones_refused() -> None:
    prefix = made_prefix(10)
    assert Prefixkv(protect=0).allocate(prefix, [torch.zeros(2, 10), torch.ones(2, 10)], 4).tolist() == [[4, 4]] * 2
    with pytest.raises(ConfigError, match="layer 1 has -2"):
        Prefixkv().allocate(prefix, [torch.ones(2, 10), torch.full((2, 10), -2.0)], 4)


def test_a_press_keeps_the_first_four_the_last_and_the_most_attended_by_all_heads() -> None:
    prefix = made_prefix(60, layers=4)
    for view in prefix.layers:  # nobody looks at the first four and the last
        view.queries[..., 0], view.keys[..., 0] = 5.0, 0.0
        view.keys[:, [0, 1, 2, 3, 59], 0] = -3.0
    memory = Press(tokens=20).compress(prefix)
    scores = [attention_of(view).mean(0).sum(0).tolist() for view in prefix.layers]
    sizes = []
    for view, row, store in zip(prefix.layers, scores, memory.layers, strict=True):
        assert isinstance(store, Plain)  # all heads alike
        sizes.append(store.keys.shape[1])
        best = sorted(range(4, 59), key=lambda token: -row[token])[: sizes[-1] - 5]
        kept = sorted({0, 1, 2, 3, 59, *best})
        assert torch.equal(store.keys, view.keys[:, kept]) and torch.equal(store.values, view.values[:, kept])
    assert sum(sizes) == 4 * 20 and len(set(sizes)) > 1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_keeping_all_is_the_full_model_and_bytes_follow_the_budget(architecture: Architecture) -> None:
    check_whole_and_half(architecture, Press(keep=1.0), Press(keep=0.5))


def profile_of(texts: list[list[int]]) -> torch.Tensor:
    state = Prefixkv(curves="profile").calibrate(MODEL, texts, 0)
    assert state is not None
    found = state[CURVES]
    assert isinstance(found, torch.Tensor)
    return found


def test_a_profile_is_the_mean_curve_of_the_texts() -> None:
    texts = [[7 * i % 90 + 2 for i in range(n)] for n in (256, 64)]
    found = profile_of(texts)
    assert found.shape == (3, POINTS)
    expected = torch.zeros(3, 65, dtype=torch.float64)  # at every 64th of a text
    for text in texts:
        with torch.inference_mode():
            views = real_prefix(MODEL, text).layers
        for layer, view in enumerate(views):
            best = attention_of(view).mean(0).sum(0).sort(descending=True).values
            shares = torch.cat([torch.zeros(1), best.cumsum(0) / best.sum()])
            expected[layer] += shares[:: len(text) // 64] / 2
    torch.testing.assert_close(found[:, ::4], expected, rtol=1e-5, atol=1e-6)


def test_a_profile_decides_in_place_of_the_prompt() -> None:
    prefix, draws = made_prefix(64, layers=3), np.random.default_rng(0)
    profiled = [torch.from_numpy(draws.gamma(shape, size=(1, 64))) for shape in (0.1, 0.5, 3)]
    state = {CURVES: torch.from_numpy(np.stack([np.interp(np.arange(POINTS) / 4, np.arange(65), [0, *cumulative(row, 0)]) for row in profiled]))}
    known = Prefix(prefix.tokens, prefix.layers, prefix.model, prefix.follow, state)
    scores = Received(share="layer").score(prefix)
    counts = Prefixkv(curves="profile").allocate(known, scores, 20)
    assert counts[:, 0].tolist() == Prefixkv().allocate(prefix, profiled, 20)[:, 0].tolist() != Prefixkv().allocate(prefix, scores, 20)[:, 0].tolist()
    assert Prefixkv().calibrate(MODEL, [[2, 3]], 0) is None
    assert Press(allocator=Prefixkv(curves="profile")).calibrate(MODEL, [[2, 3]], 0) is not None


def test_a_profile_that_is_not_there_is_asked_for() -> None:
    prefix = made_prefix(20)
    with pytest.raises(ModelError, match="calibrate"):
        Press(allocator=Prefixkv(curves="profile")).compress(prefix)
    with pytest.raises(DataError, match="calibration texts"):
        Prefixkv(curves="profile").calibrate(MODEL, [[]], 0)
