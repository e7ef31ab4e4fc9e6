"""Greedy on J against the definition of J, row by row, and against every mask."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from curate.core import Budget, Features
from curate.masks.diversity import Form
from curate.masks.objective import MaskObjective
from curate.selectors.mask_greedy import MaskGreedy
from curate.testing import check_selector


def pool(n: int, seed: int = 0) -> Features:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(6, 8))[rng.integers(6, size=n)] + 0.6 * rng.normal(size=(n, 8)) + 0.3
    return Features.from_arrays(vectors=vectors, scores=rng.normal(size=n), lengths=rng.integers(1, 20, n))


def objective(rows: Features, budget: Budget, weight: float, form: Form) -> MaskObjective:
    assert rows.scores is not None
    made = MaskObjective.of(rows, budget, np.asarray(rows.scores, np.float64), weight, form, 64)
    assert made is not None
    return made


def worth(held: MaskObjective, rows: list[int], size: int) -> float:
    """J of a partial mask, its means taken as if it had the final size, from every pair and every anchor."""
    kept = np.asarray(held.pool.vectors, float)[rows]
    kept /= np.linalg.norm(kept, axis=1, keepdims=True)
    alike = kept @ kept.T
    quality = held.quality[rows].sum() / size
    if hasattr(held.form, "rows"):
        diversity = float(((1 + kept @ held.form.rows.T) / 2).max(axis=0).mean())
    else:
        power = getattr(held.form, "power")  # noqa: B009
        np.fill_diagonal(alike, 0)
        diversity = -float((alike**power).sum()) / (size * (size - 1) if power == 1 else size**2)
    return float(np.dot(held.scales, (quality, diversity)))


@pytest.mark.parametrize("fields", [{"diversity": "covariance"}, {"diversity": "facility", "anchors": 5}, {"quality_weight": 0.0}, {"largest": False}])
def test_every_diversity_keeps_the_contract(fields: dict[str, Any]) -> None:
    check_selector(MaskGreedy(**fields))


@pytest.mark.parametrize("form", ["pairwise", "covariance", "facility"])
@pytest.mark.parametrize("weight", [0.0, 0.6])
def test_each_row_is_the_one_that_adds_most(form: Form, weight: float) -> None:
    rows, budget = pool(40), Budget(amount=8)
    chosen, held = MaskGreedy(diversity=form, quality_weight=weight).select(rows, budget), objective(rows, budget, weight, form)
    assert chosen.gains is not None
    kept: list[int] = []
    for row, gain in zip(chosen.indices.tolist(), chosen.gains, strict=True):
        now = worth(held, kept, 8) if kept else 0.0
        gains = [worth(held, [*kept, other], 8) - now if other not in kept else -np.inf for other in range(40)]
        assert gain == pytest.approx(gains[row], abs=1e-4) and gains[row] >= max(gains) - 1e-4
        kept.append(row)


@pytest.mark.parametrize("form", ["pairwise", "covariance", "facility"])
def test_it_comes_near_the_best_of_every_mask_and_no_mask_exceeds_its_bound(form: Form) -> None:
    for seed in range(4):
        rows, budget = pool(12, seed), Budget(amount=4)
        held = objective(rows, budget, 0.5, form)
        every = np.asarray([held.value(np.asarray(mask)) for mask in combinations(range(12), 4)])
        certificate = MaskGreedy(diversity=form).select(rows, budget).certificate
        assert certificate is not None and certificate.objective <= every.max() + 1e-5 <= certificate.bound + 2e-5
        assert certificate.objective - every.mean() >= 0.85 * (every.max() - every.mean())


def test_quality_alone_is_top_k_and_another_weight_is_another_mask() -> None:
    rows = pool(80)
    assert rows.scores is not None
    best = np.argsort(-rows.scores)[:15].tolist()
    assert MaskGreedy(quality_weight=1.0).select(rows, Budget(amount=15)).indices.tolist() == best
    assert set(MaskGreedy().select(rows, Budget(amount=15)).indices.tolist()) != set(best)


def test_a_copy_of_a_kept_row_is_worth_less_than_a_different_row_as_good() -> None:
    rng = np.random.default_rng(0)
    vectors = np.concatenate([np.repeat(np.eye(6)[:1], 5, axis=0), np.eye(6)[1:]])
    rows = Features.from_arrays(vectors=vectors + 1e-4 * rng.normal(size=vectors.shape), scores=np.ones(10))
    for form in ("pairwise", "covariance"):
        kept = MaskGreedy(diversity=form, quality_weight=0.0).select(rows, Budget(amount=6)).indices  # type: ignore[arg-type]
        assert set(range(5, 10)) < set(kept.tolist())
