"""The forms of mutual information against their formulas, every subset, and each other."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from curate.core import Budget, Features
from curate.errors import DataError
from curate.selectors.mutual_information import MutualInformation
from curate.selectors.top_k import TopK


def features(n: int, seed: int, width: int = 4) -> Features:
    rng = np.random.default_rng(seed)
    return Features.from_arrays(vectors=rng.normal(size=(n, width)), lengths=rng.integers(4, 9, n), ids=[f"{seed}-{i:02d}" for i in range(n)])


def unit(rows: Features) -> np.ndarray:
    return np.asarray(rows.vectors, np.float64) / np.linalg.norm(rows.vectors, axis=1, keepdims=True)


def value(form: str, x: np.ndarray, y: np.ndarray, kept: list[int], e: float) -> float:
    own, cross = (1 + x @ x.T) / 2, (1 + x @ y.T) / 2
    if form == "flqmi":
        return float(cross[kept].max(axis=0).sum() + e * cross[kept].max(axis=1).sum())
    if form == "flvmi":
        return float(np.minimum(own[:, kept].max(axis=1), e * cross.max(axis=1)).sum())
    if form == "gcmi":
        return float(cross[kept].sum())
    rest = np.linalg.slogdet(np.eye(len(kept)) + x[kept] @ x[kept].T - e**2 * x[kept] @ y.T @ np.linalg.inv(np.eye(len(y)) + y @ y.T) @ y @ x[kept].T)[1]
    return float(np.linalg.slogdet(np.eye(len(kept)) + x[kept] @ x[kept].T)[1] - rest)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("form", ["flqmi", "flvmi", "gcmi", "logdetmi"])
def test_the_objective_is_the_formula_and_the_bound_is_never_below_the_optimum(form: Any, seed: int) -> None:
    pool, target = features(10, seed), features(3, seed + 50)
    x, y = unit(pool), unit(target)
    for budget in (Budget(amount=3), Budget(amount=18, unit="tokens")):
        costs, capacity = budget.costs(pool)
        sets = [list(some) for size in range(1, 5) for some in combinations(range(10), size) if costs[list(some)].sum() <= capacity]
        best = max(value(form, x, y, some, 0.9) for some in sets)
        kept = MutualInformation(form=form, strength=0.9).select(pool, budget, target=target)
        assert kept.certificate is not None
        assert kept.certificate.objective == pytest.approx(value(form, x, y, kept.indices.tolist(), 0.9), abs=1e-5)
        assert kept.certificate.objective <= best + 1e-5 <= kept.certificate.bound + 2e-5
        if form != "logdetmi":
            assert (1 - 1 / np.e) * (1 if budget.unit == "rows" else 0.5) * best <= kept.certificate.objective + 1e-5


def test_every_kind_of_target_row_finds_a_kept_row_where_the_mean_serves_the_commonest() -> None:
    pool = Features.from_arrays(vectors=np.repeat(np.eye(4), 10, axis=0) + 0.05 * np.random.default_rng(0).normal(size=(40, 4)))
    target = Features.from_arrays(vectors=np.eye(4)[[0, 0, 0, 0, 0, 1, 2]], ids=list("abcdefg"))
    kinds = np.repeat(np.arange(4), 10)
    kept = {form: set(kinds[MutualInformation(form=form, strength=0.1).select(pool, Budget(amount=3), target=target).indices]) for form in ("flqmi", "gcmi")}  # type: ignore[arg-type]
    assert kept == {"flqmi": {0, 1, 2}, "gcmi": {0}}


def test_gcmi_takes_the_rows_of_the_mean_similarity_and_proves_them_optimal() -> None:
    pool, target = features(50, 1), features(4, 2)
    kept = MutualInformation(form="gcmi").select(pool, Budget(amount=8), target=target)
    assert kept.indices.tolist() == TopK().select(pool, Budget(amount=8), target=target).indices.tolist()
    assert kept.certificate is not None and kept.certificate.gap == pytest.approx(0, abs=1e-9)


def test_a_given_similarity_takes_the_place_of_vectors_and_its_scale_does_not_matter() -> None:
    pool, target = features(40, 3), features(5, 4)
    cross = unit(pool) @ unit(target).T
    by_vectors = MutualInformation().select(pool, Budget(amount=6), target=target).indices.tolist()
    for matrix in (cross, 30 * cross - 7):
        given = Features.from_arrays(similarity=matrix, ids=pool.ids.tolist())
        assert MutualInformation().select(given, Budget(amount=6)).indices.tolist() == by_vectors


@pytest.mark.parametrize("form", ["flvmi", "logdetmi"])
def test_forms_that_compare_pool_rows_say_that_they_need_vectors(form: Any) -> None:
    given = Features.from_arrays(similarity=np.ones((6, 2)))
    with pytest.raises(DataError, match=f"form {form} compares pool rows with one another, so it needs vectors"):
        MutualInformation(form=form).select(given, Budget(amount=2))


def test_logdetmi_without_a_target_says_so() -> None:
    with pytest.raises(DataError, match="needs the vectors of a target"):
        MutualInformation(form="logdetmi").select(features(6, 0), Budget(amount=2))
