"""Ridge and softmax regression of weighted rows agree with scikit-learn, and their lower bound is one."""

import numpy as np
import pytest
from numpy.typing import NDArray

from curate.linear_models import LinearModel

Matrix = NDArray[np.float64]


def rows(classes: int, n: int = 60, width: int = 5) -> tuple[Matrix, Matrix, Matrix]:
    generator = np.random.default_rng(classes)
    x, w = generator.normal(size=(n, width)), generator.exponential(size=n)
    y = generator.integers(classes, size=n).astype(np.float64) if classes else generator.normal(size=n)
    return x, y, w / w.sum()


def test_ridge_regression_is_that_of_scikit_learn() -> None:
    from sklearn.linear_model import Ridge

    x, y, w = rows(0)
    theirs = Ridge(alpha=0.3, fit_intercept=False, tol=1e-12).fit(x, y, w).coef_
    assert np.abs(LinearModel(0, 0.3).fit(x, y, w)[:, 0] - theirs).max() < 1e-10


def test_softmax_regression_is_that_of_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression

    x, y, w = rows(3)
    theirs = LogisticRegression(C=1 / 0.05, fit_intercept=False, tol=1e-10, max_iter=5000).fit(x, y, w).coef_
    mine = LinearModel(3, 0.05).fit(x, y, w)
    assert np.abs(mine.T - theirs).max() < 1e-5


@pytest.mark.parametrize("classes", [0, 4])
def test_losses_gradients_blocks_and_the_span_of_few_rows(classes: int) -> None:
    model = LinearModel(classes, 0.1)
    x, y, w = rows(classes, n=12, width=30)
    theta = model.fit(x, y, w)
    whole = model.fit_blocks(lambda: iter([(x[:5], y[:5], w[:5]), (x[5:], y[5:], w[5:])]), 30)
    assert np.abs(theta - whole).max() < 1e-6
    value, slope = model.objective(lambda: iter([(x, y, w)]), whole)
    assert value == pytest.approx(w @ model.losses(x, y, whole) + 0.05 * np.sum(whole**2)) and np.abs(slope).max() < 1e-8
    other = whole + np.random.default_rng(1).normal(size=whole.shape)
    slope, moved = model.objective(lambda: iter([(x, y, w)]), other)[1], other.copy()
    moved[3, 0] += 1e-6
    ends = [model.objective(lambda end=end: iter([(x, y, w)]), end)[0] for end in (other, moved)]
    assert (ends[1] - ends[0]) / 1e-6 == pytest.approx(slope[3, 0], rel=1e-4)


@pytest.mark.parametrize("classes", [0, 3])
def test_the_lower_bound_is_below_every_value_and_meets_the_least(classes: int) -> None:
    model = LinearModel(classes, 0.1)
    x, y, w = rows(classes)
    best = model.fit(x, y, w)
    least = model.objective(lambda: iter([(x, y, w)]), best)[0]
    generator = np.random.default_rng(0)
    for size in (0.0, 0.01, 0.3, 3.0):
        theta = best + size * generator.normal(size=best.shape)
        assert model.least(lambda: iter([(x, y, w)]), theta) <= least + 1e-12 <= model.objective(lambda: iter([(x, y, w)]), theta)[0] + 2e-12
    assert model.least(lambda: iter([(x, y, w)]), best) == pytest.approx(least, abs=1e-9)


def test_a_class_without_rows_and_losses_of_a_thousand_do_no_harm() -> None:
    model = LinearModel(3, 0.1)
    x, y, w = rows(2)
    assert np.isfinite(model.fit(x, y, w)).all()
    assert model.losses(1000 * x, y, np.ones((5, 3)) * [1, 0, -1]).max() > 1000 and np.isfinite(model.losses(1000 * x, y, np.ones((5, 3)))).all()
