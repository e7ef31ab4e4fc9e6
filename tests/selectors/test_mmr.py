"""Maximal marginal relevance against its formula, step by step."""

from typing import Any

import numpy as np
import pytest

from curate.core import Budget, Features
from curate.selectors.mask_greedy import MaskGreedy
from curate.selectors.mmr import Mmr
from curate.testing import check_selector


def pool(n: int, seed: int = 0) -> Features:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(6, 8))[rng.integers(6, size=n)] + 0.6 * rng.normal(size=(n, 8)) + 0.3
    return Features.from_arrays(vectors=vectors, scores=rng.normal(size=n), lengths=rng.integers(1, 20, n))


@pytest.mark.parametrize("fields", [{"diversity": "facility", "anchors": 5}, {"quality_weight": 0.0}, {"largest": False, "diversity": "covariance"}])
def test_every_setting_keeps_the_contract(fields: dict[str, Any]) -> None:
    check_selector(Mmr(**fields))


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.8])
def test_each_row_is_the_best_by_the_formula(weight: float) -> None:
    rows = pool(200)
    unit = np.asarray(rows.vectors) / np.linalg.norm(np.asarray(rows.vectors), axis=1, keepdims=True)
    cosines, chosen = unit @ unit.T, Mmr(quality_weight=weight).select(rows, Budget(amount=20))
    assert rows.scores is not None and chosen.gains is not None
    worth = weight * (rows.scores - rows.scores.mean()) / rows.scores.std()
    first, second = chosen.indices[:2]
    price = (worth[second] - chosen.gains[1]) / cosines[second, first]
    assert price == pytest.approx((1 - weight) / cosines[np.triu_indices(200, 1)].std(), rel=0.15)  # it is taken on a hundred pairs
    for step, (row, gain) in enumerate(zip(chosen.indices, chosen.gains, strict=True)):
        kept = chosen.indices[:step]
        values = worth - price * (cosines[:, kept].max(axis=1) if step else 0)
        values[kept] = -np.inf
        assert values[row] == pytest.approx(values.max(), abs=1e-4)
        assert gain == pytest.approx(values[row], abs=1e-4)


def test_all_distinct_rows_come_before_any_copy_when_unlikeness_is_all() -> None:
    rng = np.random.default_rng(0)
    vectors = np.repeat(rng.normal(size=(10, 8)), 4, axis=0)
    kept = Mmr(quality_weight=0.0).select(Features.from_arrays(vectors=vectors, scores=rng.normal(size=40)), Budget(amount=10)).indices
    assert len(set((kept // 4).tolist())) == 10


def test_quality_alone_is_top_k() -> None:
    rows = pool(80)
    assert rows.scores is not None
    assert Mmr(quality_weight=1.0).select(rows, Budget(amount=15)).indices.tolist() == np.argsort(-rows.scores)[:15].tolist()


def test_its_certificate_is_in_the_unit_of_greedy_s() -> None:
    rows, budget = pool(300), Budget(amount=30)
    mine, greedy = Mmr().select(rows, budget).certificate, MaskGreedy().select(rows, budget).certificate
    assert mine is not None and greedy is not None
    for name in ("random", "sigma_quality", "sigma_diversity"):
        assert mine.details[name] == greedy.details[name]
    assert mine.details["random"] < mine.objective < greedy.objective < greedy.bound + 1e-9


def test_a_pool_of_one_direction_is_ordered_by_quality() -> None:
    rows = Features.from_arrays(vectors=np.ones((6, 3)), scores=np.asarray([3.0, 1, 2, 6, 5, 4]))
    assert Mmr().select(rows, Budget(amount=3)).indices.tolist() == [3, 4, 5]
