"""Stratified: quotas against every allocation, groups that run out, and the order within a group."""

from itertools import product
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from curate.core import Budget, Features
from curate.errors import DataError
from curate.interfaces import Context
from curate.quotas import spending, water_level
from curate.selectors.stratified import Stratified
from curate.testing import check_selector


def pool_of(sizes: dict[str, int], **arrays: Any) -> Features:
    return Features.from_arrays(groups=[name for name, size in sizes.items() for _ in range(size)], **arrays)


def counts(pool: Features, selector: Stratified, kept: float, unit: Any = "rows") -> dict[str, int]:
    chosen = selector.select(pool, Budget(amount=kept, unit=unit)).indices
    return {str(name): int((pool.groups[chosen] == name).sum()) for name in np.unique(pool.groups)}


@pytest.mark.parametrize("seed", range(6))
def test_no_allocation_of_whole_rows_is_nearer_to_the_quotas(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = {name: int(size) for name, size in zip("abc", rng.integers(1, 9, 3), strict=True)}
    share = {name: float(rng.integers(1, 6)) for name in sizes}
    pool, total = pool_of(sizes), np.asarray(list(share.values()))
    for quotas, weights in (("proportional", np.asarray(list(sizes.values()))), ("equal", np.ones(3)), (share, total)):
        for kept in range(1, sum(sizes.values()) + 1):
            given = np.asarray(list(counts(pool, Stratified(quotas=quotas), kept).values()))
            every = [np.asarray(some) for some in product(*(range(size + 1) for size in sizes.values())) if sum(some) == kept]

            def miss(allocation: np.ndarray, weights: np.ndarray = weights, kept: int = kept) -> float:
                return float(((allocation - kept * weights / weights.sum()) ** 2 / weights).sum())

            assert given.sum() == kept
            assert miss(given) == pytest.approx(min(miss(some) for some in every))


def test_quotas_hold_to_a_row_and_a_group_that_runs_out_leaves_its_share_in_proportion() -> None:
    pool = pool_of({"code": 500, "math": 20, "web": 480})
    assert counts(pool, Stratified(), 100) == {"code": 50, "math": 2, "web": 48}
    assert counts(pool, Stratified(quotas="equal"), 30) == {"code": 10, "math": 10, "web": 10}
    assert counts(pool, Stratified(quotas="equal"), 120) == {"code": 50, "math": 20, "web": 50}
    assert counts(pool, Stratified(quotas={"code": 2.0, "math": 6.0, "web": 1.0}), 110) == {"code": 60, "math": 20, "web": 30}
    assert counts(pool, Stratified(quotas={"math": 1.0}), 120) == {"code": 51, "math": 20, "web": 49}


@pytest.mark.parametrize("quotas", ["proportional", "equal"])
def test_quotas_in_tokens_hold_to_a_row(quotas: Any) -> None:
    rng = np.random.default_rng(0)
    lengths = np.concatenate([rng.integers(1, 10, 300), rng.integers(40, 60, 300)])
    pool = pool_of({"long": 300, "short": 300}, lengths=lengths[::-1])
    chosen = Stratified(quotas=quotas, within="random").select(pool, Budget(amount=1000.0, unit="tokens")).indices
    spent = {name: pool.lengths[chosen][pool.groups[chosen] == name].sum() for name in ("long", "short")}
    total = {name: pool.lengths[pool.groups == name].sum() for name in spent}
    share = total["long"] / (total["long"] + total["short"]) if quotas == "proportional" else 0.5
    assert abs(spent["long"] - 1000 * share) <= 60 and sum(spent.values()) > 990


def test_within_a_group_the_best_score_comes_first_and_without_scores_chance() -> None:
    rng = np.random.default_rng(0)
    pool = pool_of({"a": 50, "b": 50}, scores=rng.normal(size=100))
    for largest in (True, False):
        chosen = Stratified(largest=largest).select(pool, Budget(amount=20)).indices
        for start in (0, 50):
            order = np.argsort(-pool.scores[start : start + 50] if largest else pool.scores[start : start + 50])  # type: ignore[index]
            assert [row - start for row in chosen if start <= row < start + 50] == order[:10].tolist()
    bare = pool_of({"a": 50, "b": 50})
    for some in (Stratified(), Stratified(within="random")):
        draws = [set(some.select(bare, Budget(amount=20), context=Context(seed=seed)).indices.tolist()) for seed in (0, 1)]
        assert draws[0] != draws[1]
    assert set(Stratified(within="random").select(pool, Budget(amount=20)).indices.tolist()) == draws_of(bare)


def draws_of(pool: Features) -> set[int]:
    return set(Stratified().select(pool, Budget(amount=20)).indices.tolist())


def test_every_row_of_a_group_is_drawn_equally_often() -> None:
    pool, drawn = pool_of({"a": 6, "b": 2}), np.zeros(8)
    for seed in range(1000):
        drawn[Stratified(within="random").select(pool, Budget(amount=4), context=Context(seed=seed)).indices] += 1
    assert drawn.sum() == 4000 and abs(drawn - 500).max() < 5 * np.sqrt(1000 * 0.25)


def test_the_certificate_is_the_least_served_group_against_the_water_level() -> None:
    pool = pool_of({"a": 10, "b": 10, "c": 2})
    selector = Stratified(quotas="equal")
    fair = selector.select(pool, Budget(amount=12)).certificate
    unfair = selector.certify(pool, Budget(amount=12), np.asarray([*range(8), 10, 11, 20, 21]))
    assert fair is not None and unfair is not None
    assert fair.gap == pytest.approx(0) and fair.objective == pytest.approx(15)
    assert unfair.objective == pytest.approx(6) and unfair.gap == pytest.approx(0.6)
    assert fair.details == {"groups": 3.0, "exhausted_groups": 1.0}


def test_groups_that_cannot_be_served_are_explained() -> None:
    with pytest.raises(DataError, match="quotas name the group 'maths', which the pool lacks; its groups are code, web"):
        Stratified(quotas={"code": 1.0, "maths": 1.0}).select(pool_of({"code": 3, "web": 3}), Budget(amount=2))
    for quotas in ({}, {"a": 0.0}, {"a": -1.0}, {"a": 1e12}, "half"):
        with pytest.raises(ValidationError):
            Stratified(quotas=quotas)  # type: ignore[arg-type]


@pytest.mark.parametrize("fields", [{"quotas": "equal"}, {"within": "random"}, {"quotas": {"group-0": 1.0}, "largest": False}])
def test_other_fields_keep_the_contract(fields: dict[str, Any]) -> None:
    check_selector(Stratified(**fields))


@pytest.mark.parametrize("seed", range(5))
def test_the_water_level_spends_the_capacity_and_never_more(seed: int) -> None:
    rng = np.random.default_rng(seed)
    total, weights = rng.integers(0, 20, 6).astype(float), rng.uniform(0.1, 3, 6)
    for capacity in (0.0, 3.0, total.sum() / 2, total.sum() + 1):
        level = water_level(total, capacity, weights=weights)
        spent = np.minimum(total, level * weights).sum()
        assert spent == pytest.approx(min(capacity, total.sum()))
    assert spending(np.asarray([1, 0, 1, 0]), np.asarray([5, 2, 1, 4]), np.asarray([0.9, 0.5, 0.1, 0.5])).tolist() == [6, 2, 1, 6]
