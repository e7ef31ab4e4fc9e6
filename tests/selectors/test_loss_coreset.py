"""The weighted rows keep every sum of losses, fill any budget, and train a model nearly as good as all rows do."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from curate.core import Budget, Features, Selection
from curate.errors import DataError, NumericError
from curate.interfaces import Context
from curate.linear_models import LinearModel
from curate.selectors.loss_coreset import LossCoreset
from curate.testing import check_selector, sample_features

Matrix = NDArray[np.float64]


def clusters(n: int = 2000, width: int = 12, seed: int = 0) -> Features:
    """Four clusters of unequal noise; the groups are three ranges of the score."""
    generator = np.random.default_rng(seed)
    member = generator.integers(4, size=n)
    vectors = generator.normal(size=(4, width))[member] * 1.5 + generator.normal(size=(n, width)) * np.exp(-np.arange(width) / 6)
    scores = vectors @ generator.normal(size=width) + 0.5 * generator.normal(size=n) * (1 + member)
    groups = np.digitize(scores, np.quantile(scores, [0.5, 0.8])).astype(str)
    return Features.from_arrays(vectors=vectors.astype(np.float32), scores=scores, groups=groups.tolist())


def prepared(pool: Features, label: str) -> tuple[Matrix, Matrix, LinearModel]:
    """x, y and the model as the docstring says, by plain numpy."""
    x = np.asarray(pool.vectors, np.float64)
    x = x - x.mean(axis=0)
    x = np.c_[x / np.sqrt((x**2).sum(axis=1).mean()), np.ones(len(x))]
    scores = np.asarray(pool.scores)
    if label == "score":
        return x, (scores - scores.mean()) / scores.std(), LinearModel(0, 1e-3)
    return x, np.unique(pool.groups, return_inverse=True)[1].astype(np.float64), LinearModel(3, 1e-3)


def weighed(kept: Selection, n: int) -> Matrix:
    weights = np.zeros(n)
    weights[kept.indices] = kept.weights
    return weights / n


@pytest.mark.parametrize("label", ["score", "group"])
def test_the_certificate_is_the_loss_of_the_model_and_no_other_weights_do_better_than_its_bound(label: str) -> None:
    pool = clusters()
    x, y, model = prepared(pool, label)
    even = np.full(2000, 1 / 2000)
    kept = LossCoreset(label=label).select(pool, Budget(amount=120))
    certificate = kept.certificate
    assert certificate is not None and kept.weights.min() > 0 and kept.weights.sum() == pytest.approx(2000, rel=1e-6)

    def value(weights: Matrix) -> float:
        rows = np.flatnonzero(weights)
        return model.objective(lambda: iter([(x, y, even)]), model.fit(x[rows], y[rows], weights[rows]))[0]

    assert certificate.objective == pytest.approx(value(weighed(kept, 2000)), rel=1e-5)
    assert certificate.bound == pytest.approx(value(even), rel=1e-6)
    assert certificate.bound <= value(even) + 1e-12
    assert certificate.details["sum_error"] < 1e-6 and certificate.gap < 0.02
    others = [np.bincount(np.random.default_rng(seed).choice(2000, 120, replace=False), minlength=2000) / 120 for seed in range(5)]
    assert all(certificate.bound < certificate.objective < value(each) for each in others)
    assert kept.curves["loss"][-1] == pytest.approx(certificate.objective) and (np.diff(kept.curves["loss"]) <= 0).all()


@pytest.mark.parametrize(("label", "limit"), [("score", 0.1), ("group", 0.03)])
def test_losses_at_models_that_were_never_fitted_are_close_and_closer_than_those_of_random_rows(label: str, limit: float) -> None:
    pool = clusters()
    x, y, model = prepared(pool, label)
    best = model.fit(x, y, np.full(2000, 1 / 2000))
    weights = weighed(LossCoreset(label=label).select(pool, Budget(amount=200)), 2000)
    mine, random = [], []
    for seed in range(30):
        generator = np.random.default_rng(seed)
        theta = best + generator.normal(size=best.shape) * np.abs(best).mean() * generator.choice([0.1, 0.3, 1.0])
        losses = model.losses(x, y, theta)
        mine.append(abs(weights @ losses / losses.mean() - 1))
        random.append(abs(losses[generator.choice(2000, 200, replace=False)].mean() / losses.mean() - 1))
    assert max(mine) < limit and np.mean(mine) < 0.4 * np.mean(random)


def test_every_budget_is_filled_with_positive_weights_even_below_the_number_of_sums() -> None:
    pool = clusters(n=150, width=4)
    for kept in (1, 2, 3, 5, 8, 13, 40, 149, 150):
        selection = LossCoreset(queries=6).select(pool, Budget(amount=kept))
        assert len(selection) == kept and selection.weights.min() > 0 and selection.weights.sum() == pytest.approx(150, rel=1e-6)
        assert (np.diff(selection.weights) <= 1e-5).all()
        assert selection.certificate is not None and (kept == 150 or selection.certificate.details["directions_kept"] >= min(kept - 1, 6))
    assert np.allclose(selection.weights, 1)


@pytest.mark.parametrize("label", ["score", "group"])
def test_every_stretch_of_labels_gets_its_share_of_the_rows(label: str) -> None:
    pool = clusters()
    kept = LossCoreset(label=label, rounds=1).select(pool, Budget(amount=200)).indices
    order = np.argsort(np.asarray(pool.scores), kind="stable")
    ends = np.arange(0, 2001, 200) if label == "score" else np.array([0, 1000, 1600, 2000])
    assert [int(np.isin(order[low:high], kept).sum()) for low, high in zip(ends, ends[1:], strict=False)] == (np.diff(ends) // 10).tolist()


def test_a_small_budget_keeps_the_sums_along_which_losses_vary_most() -> None:
    pool = clusters(n=400)
    error = [LossCoreset(queries=8).select(pool, Budget(amount=kept)).certificate for kept in (2, 4, 100)]
    found = [each.details["sum_error"] for each in error if each is not None]
    assert 1 < found[0] and 1e-3 < found[1] < 0.5 and found[2] < 1e-6


def test_a_budget_in_tokens_counts_rows_that_are_too_dear_in_the_sums_but_never_keeps_them() -> None:
    pool = clusters(n=300)
    lengths = np.random.default_rng(0).integers(1, 40, 300)
    lengths[::50] = 5000
    pool = Features.from_arrays(vectors=pool.vectors, scores=pool.scores, lengths=lengths)
    for amount in (30, 700, 3000):
        kept = LossCoreset(rounds=10).select(pool, Budget(amount=float(amount), unit="tokens"))
        left = amount - lengths[kept.indices].sum()
        assert 0 <= left < np.delete(lengths, kept.indices).min() and kept.weights.sum() == pytest.approx(300, rel=1e-6)
        assert kept.certificate is not None and (amount < 700 or kept.certificate.details["sum_error"] < 1e-6)


def test_more_rounds_are_never_worse_and_it_stops_when_none_helps() -> None:
    pool = clusters(n=600)
    curves = [LossCoreset(rounds=rounds, patience=5).select(pool, Budget(amount=40)).curves["loss"] for rounds in (1, 4, 100)]
    assert [len(curve) for curve in curves[:2]] == [1, 4] and curves[0][0] == curves[1][0] == curves[2][0]
    assert len(curves[2]) < 100 and (curves[2][-6:] == curves[2][-1]).all() and curves[2][-7] > curves[2][-1]


def test_the_seed_draws_other_queries_and_copies_of_the_pool_are_refused_without_anything_to_predict() -> None:
    pool = clusters(n=300)
    one, other = (LossCoreset().select(pool, Budget(amount=30), context=Context(seed=seed)).indices for seed in (0, 1))
    assert set(one.tolist()) != set(other.tolist())
    with pytest.raises(DataError, match="nothing to predict"):
        LossCoreset().select(Features.from_arrays(vectors=np.eye(4)), Budget(amount=2))
    broken = np.eye(4)
    broken[2, 1] = np.inf
    with pytest.raises(NumericError, match="row b is not finite"):
        LossCoreset().select(Features(ids=np.array(["c", "a", "b", "d"]), lengths=np.ones(4, int), vectors=broken, scores=np.arange(4.0)), Budget(amount=2))


@pytest.mark.parametrize("fields", [{"label": "group", "rounds": 3}, {"rounds": 1, "queries": 1, "penalty": 10.0}])
def test_other_fields_keep_the_contract(fields: dict[str, Any]) -> None:
    check_selector(LossCoreset(**fields), features=sample_features(24))
