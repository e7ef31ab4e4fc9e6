"""Pruning inside training: InfoBatch is unbiased, SeTa's window comes to every row, and savings are what the formulas say."""

import itertools
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from curate.core import Integers, Strings
from curate.errors import DataError, NumericError
from curate.training import pruning
from curate.training.pruning import AnyPruning, Infobatch, Pruning, Seta

EVERY = [Infobatch(), Infobatch(ratio=0.0), Seta(), Seta(groups=3, window=0.4, drop=0.0)]


def names(n: int) -> Strings:
    return np.array([f"row {i:04d}" for i in range(n)])


def losses_of(n: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.Generator(np.random.Philox(seed)).lognormal(size=n).astype(np.float32)


def unseen(n: int) -> NDArray[np.float32]:
    return np.full(n, np.nan, np.float32)


def clustered(sizes: list[int]) -> NDArray[np.float32]:
    """Losses in so many tight clusters, shuffled: any large enough sample of them falls into the same groups."""
    values = np.repeat(np.arange(len(sizes)) * 10.0, sizes) + losses_of(sum(sizes)) * 1e-3
    return np.random.Generator(np.random.Philox(9)).permutation(values).astype(np.float32)


def mean_share(method: Pruning, epochs: float, losses: NDArray[np.float32], seeds: int) -> float:
    """The share of rows that runs of this many epochs visit, where a visited row's loss is seen and stays; the last epoch may be cut short."""
    ids, visited = names(len(losses)), 0.0
    for seed in range(seeds):
        seen = unseen(len(losses))
        for number in range(math.ceil(epochs)):
            rows = method.epoch(number, epochs, seen, ids, seed).rows
            seen[rows] = losses[rows]
            visited += len(rows) * min(1.0, epochs - number)
    return visited / (epochs * len(losses) * seeds)


# InfoBatch


def row_gradients(n: int) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """(n, P) the gradient of every row's loss in a small network by autograd, in float64, and the losses."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 5)).double()
        inputs, labels = torch.randn(n, 3, dtype=torch.float64), torch.arange(n) % 5
    each = torch.nn.functional.cross_entropy(model(inputs), labels, reduction="none")
    gradients = [torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)]) for loss in each]
    return torch.stack(gradients).numpy(), each.detach().float().numpy()


def keeping(method: Infobatch, losses: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch) -> float:
    """The probability that a row below the mean stays, measured: the draw at which it changes over, by bisection."""
    low, high, row = 0.0, 1.0, int(np.argmin(losses))
    for _ in range(60):
        middle = (low + high) / 2
        monkeypatch.setattr(pruning, "uniform", lambda seed, purpose, ids, middle=middle: np.full(len(ids), middle))
        stays = row in method.epoch(1, 8, losses, names(len(losses)), 0).rows
        low, high = (low, middle) if stays else (middle, high)
    return 1 - high


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("n", [1, 7, 10])
def test_infobatch_is_unbiased_over_all_patterns_of_kept_rows(n: int, ratio: float, monkeypatch: pytest.MonkeyPatch) -> None:
    gradients, losses = row_gradients(n)
    method = Infobatch(ratio=ratio)
    below = np.flatnonzero(losses < losses.astype(np.float64).mean())
    assert len(below) > 1 or n == 1
    keep = keeping(method, losses, monkeypatch) if len(below) else 1 - ratio
    assert keep == pytest.approx(1 - ratio, rel=1e-7)
    expected, certain = np.zeros(gradients.shape[1]), 0.0
    for pattern in itertools.product([False, True], repeat=len(below)):
        drawn = np.full(n, 0.0)  # rows that are not below the mean stay whatever is drawn
        drawn[below] = np.where(pattern, 1 - 1e-9, 0.0 if ratio else 1e-9)
        monkeypatch.setattr(pruning, "uniform", lambda seed, purpose, ids, drawn=drawn: drawn)
        visit = method.epoch(1, 8, losses, names(n), 0)
        probability = math.prod(keep if kept else 1 - keep for kept in pattern)
        certain += probability
        expected += probability * (visit.factors.astype(np.float64) @ gradients[visit.rows])
    assert certain == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(expected, gradients.sum(axis=0), rtol=0, atol=1e-12)


def test_infobatch_drops_rows_below_the_mean_one_by_one_with_its_ratio() -> None:
    losses, ids, seeds = losses_of(40), names(40), 4000
    visits = np.zeros((seeds, 40), bool)
    for seed in range(seeds):
        visits[seed, Infobatch(ratio=0.3).epoch(2, 8, losses, ids, seed).rows] = True
    below = losses < losses.astype(np.float64).mean()
    assert visits[:, ~below].all()
    assert np.abs(visits[:, below].mean(axis=0) - 0.7).max() < 5 * math.sqrt(0.21 / seeds)
    joint = np.cov(visits[:, below].T.astype(float))
    assert np.abs(joint - 0.21 * np.eye(below.sum())).max() < 5 * 0.3 / math.sqrt(seeds)


def test_infobatch_leaves_rows_alone_that_are_unseen_or_not_below_the_mean() -> None:
    losses = np.array([1, 6, 2, np.nan, np.nan], np.float32)
    for seed in range(40):
        visit = Infobatch(ratio=0.75).epoch(1, 8, losses, names(5), seed)
        expected = {0: 4.0, 1: 1.0, 2: 4.0, 3: 1.0, 4: 1.0}
        assert [expected[row] for row in visit.rows] == visit.factors.tolist()
        assert {1, 3, 4} <= set(visit.rows)


@pytest.mark.parametrize("n", [1, 3, 7, 1000])
def test_infobatch_visits_everything_where_all_losses_are_equal_or_unseen(n: int) -> None:
    for losses in (np.full(n, 0.1, np.float32), unseen(n)):
        visit = Infobatch(ratio=0.9).epoch(3, 8, losses, names(n), 0)
        assert np.array_equal(visit.rows, np.arange(n)) and (visit.factors == 1).all()


def test_infobatch_with_ratio_0_is_no_pruning() -> None:
    visit = Infobatch(ratio=0.0).epoch(1, 8, losses_of(50), names(50), 3)
    assert np.array_equal(visit.rows, np.arange(50)) and (visit.factors == 1).all()


@pytest.mark.parametrize("epochs", [1, 3, 6, 8, 2.4, 4.75])
def test_infobatch_saves_what_its_formula_says(epochs: float) -> None:
    losses, method = losses_of(60), Infobatch(ratio=0.6, anneal=0.25)
    assert mean_share(method, epochs, losses, 300) == pytest.approx(method.expected_share(epochs, losses), abs=0.004)


def test_infobatch_over_eight_epochs_saves_six_eighths_of_the_ratio_of_rows_below_the_mean() -> None:
    losses = np.array([0, 0, 0, 4], np.float32)
    assert Infobatch().expected_share(8, losses) == pytest.approx(1 - 6 / 8 * 0.5 * 0.75)


# SeTa


def test_seta_visits_every_row_in_any_full_slide() -> None:
    losses, ids = losses_of(300), names(300)
    for groups, window in ((10, 0.5), (7, 0.4), (5, 1.0), (4, 0.25)):
        method = Seta(groups=groups, window=window, drop=0.0, anneal=0.0)
        slide = groups - round(groups * window) + 1
        for first in (1, 2, 5):
            visits = [set(method.epoch(number, 100, losses, ids, 0).rows) for number in range(first, first + slide)]
            assert set.union(*visits) == set(range(300))
            assert slide == 1 or any(set.union(*visits[:i], *visits[i + 1 :]) != set(range(300)) for i in range(slide))


def test_seta_slides_from_easy_to_hard_over_groups_of_similar_loss_and_starts_again() -> None:
    losses = clustered([5, 9, 4, 7])
    method = Seta(groups=4, window=0.5, drop=0.0, anneal=0.0)
    for number, kept in enumerate([{0, 1, 2, 3}, {1, 2}, {2, 3}, {0, 1}, {1, 2}]):
        visit = method.epoch(number, 5, losses, names(25), 0)
        assert visit.rows.tolist() == [row for row in range(25) if int(losses[row] // 10) in kept]
        assert (visit.factors == 1).all()


def test_seta_groups_the_rows_that_the_draw_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    losses, drawn = np.array([0, 1, 5, 6, 90], np.float32), np.array([0.5, 0.5, 0.5, 0.5, 0.01])
    monkeypatch.setattr(pruning, "uniform", lambda seed, purpose, ids: drawn)
    method = Seta(groups=2, window=0.5, drop=0.1, anneal=0.0)
    assert method.epoch(1, 5, losses, names(5), 0).rows.tolist() == [2, 3]
    assert method.epoch(2, 5, losses, names(5), 0).rows.tolist() == [0, 1]


def test_seta_drops_every_row_alike_in_its_first_and_in_annealed_epochs() -> None:
    method, seeds = Seta(drop=0.25), 1500
    for number, losses in ((0, unseen(30)), (0, losses_of(30)), (7, losses_of(30))):
        counts = sum(np.bincount(method.epoch(number, 8, losses, names(30), seed).rows, minlength=30) for seed in range(seeds))
        assert np.abs(np.asarray(counts) / seeds - 0.75).max() < 5 * math.sqrt(0.1875 / seeds)


def test_seta_takes_rows_without_a_loss_into_every_window() -> None:
    losses = np.append(clustered([6, 6, 6]), unseen(4))
    method = Seta(groups=3, window=0.34, drop=0.0, anneal=0.0)
    for number in (1, 2, 3):
        assert {18, 19, 20, 21} <= set(method.epoch(number, 9, losses, names(22), 0).rows)
        assert len(method.epoch(number, 9, losses, names(22), 0).rows) == 10
    assert len(method.epoch(4, 9, unseen(22), names(22), 0).rows) == 22


@pytest.mark.parametrize(("epochs", "drop"), [(1, 0.2), (6, 0.0), (6, 0.2), (9, 0.5), (7.3, 0.3)])
def test_seta_saves_what_its_formula_says(epochs: float, drop: float) -> None:
    losses, method = clustered([30, 60, 20, 40]), Seta(groups=4, window=0.5, drop=drop, anneal=0.25)
    visited = mean_share(method, epochs, losses, 100 if drop else 1)
    assert visited == pytest.approx(method.expected_share(epochs, losses), abs=0.006 if drop else 1e-12)


def test_seta_over_a_full_slide_of_equal_groups_visits_the_window() -> None:
    losses = clustered([10] * 10)
    method = Seta(drop=0.0, anneal=0.0)
    assert method.shares(7, losses).tolist() == pytest.approx([1] + [0.5] * 6)
    assert method.expected_share(7, losses) == pytest.approx((1 + 6 * 0.5) / 7)


def test_seta_with_fewer_values_than_groups_has_a_group_for_each() -> None:
    losses = np.array([1, 1, 2, 2, 2], np.float32)
    method = Seta(drop=0.0, anneal=0.0)
    assert method.epoch(1, 9, losses, names(5), 0).rows.tolist() == [2, 3, 4]
    assert method.epoch(2, 9, losses, names(5), 0).rows.tolist() == [0, 1]
    assert len(method.epoch(1, 9, np.full(5, 0.1, np.float32), names(5), 0).rows) == 5
    assert method.expected_share(3, losses) == pytest.approx((1 + 0.6 + 0.4) / 3)


def test_seta_never_visits_nothing() -> None:
    for seed in range(200):
        assert Seta(drop=0.9).epoch(1, 8, losses_of(1), names(1), seed).rows.tolist() == [0]
        assert len(Seta(drop=0.9).epoch(1, 8, losses_of(3), names(3), seed).rows) > 0


# Both


@pytest.mark.parametrize("method", EVERY, ids=repr)
def test_a_visit_is_sorted_pure_and_hangs_on_seed_epoch_and_ids_but_not_on_the_order_of_rows(method: Pruning) -> None:
    losses, ids = losses_of(80), names(80)
    losses[::9] = np.nan
    before, visit = losses.copy(), method.epoch(3, 8, losses, ids, 5)
    again = method.epoch(3, 8, losses, ids, 5)
    assert np.array_equal(losses, before, equal_nan=True)
    assert np.array_equal(visit.rows, again.rows) and np.array_equal(visit.factors, again.factors)
    assert (np.diff(visit.rows) > 0).all() and visit.rows.dtype == np.int64
    assert visit.factors.dtype == np.float32 and len(visit.factors) == len(visit.rows)
    mixed: Integers = np.random.Generator(np.random.Philox(2)).permutation(80)
    other = method.epoch(3, 8, losses[mixed], ids[mixed], 5)
    assert dict(zip(ids[mixed][other.rows], other.factors, strict=True)) == dict(zip(ids[visit.rows], visit.factors, strict=True))


@pytest.mark.parametrize("method", [Infobatch(), Seta(window=1.0, drop=0.5)], ids=repr)
def test_another_seed_and_another_epoch_draw_other_rows(method: Pruning) -> None:
    losses, ids = losses_of(80), names(80)
    drawn = {tuple(method.epoch(number, 9, losses, ids, seed).rows) for number in range(1, 5) for seed in range(4)}
    assert len(drawn) == 16


@pytest.mark.parametrize(
    ("anneal", "epochs", "first"),
    [
        *((0.125, 8, 7), (0.125, 16, 14), (0.125, 3, 3), (0.125, 4, 3), (0.125, 2.5, 2), (0.7, 10, 3), (0.3, 10, 7), (0.4, 3, 2)),
        *((0.0, 2.4, 99), (0.05, 2.4, 3), (0.58, 25, 10)),
    ],
)
def test_annealing_takes_its_share_of_the_epochs_to_the_nearest(anneal: float, epochs: float, first: int) -> None:
    losses = np.array([0, 0, 0, 0, 9], np.float32)
    whole = [len(Infobatch(ratio=0.999, anneal=anneal).epoch(number, epochs, losses, names(5), 0).rows) == 5 for number in range(20)]
    assert whole == [number >= first for number in range(20)]


@pytest.mark.parametrize("method", EVERY, ids=repr)
def test_no_rows_are_no_visit(method: Pruning) -> None:
    assert len(method.epoch(1, 8, unseen(0), names(0), 0).rows) == 0


@pytest.mark.parametrize("method", EVERY, ids=repr)
def test_losses_that_do_not_fit_are_refused_in_one_line(method: Pruning) -> None:
    with pytest.raises(DataError, match="2 losses for 3 rows"):
        method.epoch(1, 8, losses_of(2), names(3), 0)
    with pytest.raises(NumericError, match="loss of row row 0001 is inf"):
        method.epoch(1, 8, np.array([1, np.inf, 2], np.float32), names(3), 0)


def test_a_recipe_names_the_method() -> None:
    read = TypeAdapter(AnyPruning).validate_python
    assert read({"name": "infobatch", "ratio": 0.25}) == Infobatch(ratio=0.25)
    assert read({"name": "seta"}) == Seta(groups=10, window=0.5, drop=0.1, anneal=0.125)
    assert (Infobatch.rescales, Seta.rescales) == (True, False)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "infobatch", "ratio": 1.0}, "less than 1"),
        ({"name": "infobatch", "groups": 3}, "Extra inputs"),
        ({"name": "seta", "groups": 0}, "greater than or equal to 1"),
        ({"name": "seta", "window": 0.05}, "less than one group; use at least 0.1"),
        ({"name": "seta", "anneal": 1.0}, "less than 1"),
        ({"name": "loss"}, "'infobatch', 'seta'"),
    ],
)
def test_bad_fields_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(AnyPruning).validate_python(fields)
