"""A basis has full rank over the reals, overlaps no more than the pivoted QR, and as little as any basis of a small pool."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from curate.basis_exchange import Overlap, independent_rows, least_overlapping, overlaps
from curate.core import Budget, Certificate, Features
from curate.errors import DataError
from curate.interfaces import Context
from curate.selectors.basis import Basis
from curate.testing import check_selector, sample_features

Matrix = NDArray[np.float64]


def alike(a: Matrix, b: Matrix, kind: Overlap) -> float:
    if kind == "jaccard":
        mine, theirs = set(np.flatnonzero(a)), set(np.flatnonzero(b))
        return len(mine & theirs) / len(mine | theirs) if mine | theirs else 1.0
    return float(abs(a @ b) / (np.linalg.norm(a) * np.linalg.norm(b)))


def cost(vectors: Matrix, rows: Any, kind: Overlap) -> float:
    return sum(alike(vectors[a], vectors[b], kind) for a, b in combinations(rows, 2))


def matrix(kind: Overlap, seed: int) -> Matrix:
    """Ten rows, dependent ones among them, none of zeros."""
    generator = np.random.default_rng(seed)
    width = int(generator.integers(3, 7))
    if kind == "jaccard":
        ones = (generator.random((10, width)) < 0.4).astype(np.float64)
        return ones[ones.any(axis=1)]
    return np.asarray(generator.normal(size=(10, width - 2)) @ generator.normal(size=(width - 2, width)))


def certified(selector: Basis, pool: Features, kept: int) -> tuple[NDArray[np.int64], Certificate]:
    selection = selector.select(pool, Budget(amount=kept))
    assert selection.certificate is not None
    return selection.indices, selection.certificate


@pytest.mark.parametrize("kind", ["jaccard", "cosine"])
def test_the_rows_are_the_best_of_all_independent_sets_and_never_worse_than_the_qr_start(kind: Overlap) -> None:
    best_found, cases = 0, 0
    for seed in range(40):
        vectors = matrix(kind, seed)
        rank = int(np.linalg.matrix_rank(vectors))
        draws = np.random.default_rng(seed).random((6, len(vectors)))
        for size in {rank, max(rank - 1, 1)}:
            rows, total = least_overlapping(vectors, size, kind, restarts=10.0 ** (-2 * draws))
            every = [each for each in combinations(range(len(vectors)), size) if np.linalg.matrix_rank(vectors[list(each)]) == size]
            best = min(cost(vectors, each, kind) for each in every)
            assert len(rows) == size == np.linalg.matrix_rank(vectors[rows])
            assert total == pytest.approx(cost(vectors, rows, kind))
            start = independent_rows(vectors, size, 1e-6)[0]
            assert best - 1e-9 <= total <= cost(vectors, start, kind) + 1e-9
            best_found += total <= best + 1e-9
            cases += 1
    assert best_found >= 0.97 * cases


@pytest.mark.parametrize("kind", ["jaccard", "cosine"])
def test_without_restarts_no_single_exchange_helps(kind: Overlap) -> None:
    for seed in range(3):
        generator = np.random.default_rng(seed)
        vectors = (generator.random((40, 9)) < 0.5).astype(np.float64) if kind == "jaccard" else generator.normal(size=(40, 9)) + 1
        vectors = vectors[vectors.any(axis=1)]
        rows, total = least_overlapping(vectors, 9, kind)
        for place in range(9):
            for row in set(range(len(vectors))) - set(rows.tolist()):
                swapped = [*rows[:place], row, *rows[place + 1 :]]
                assert cost(vectors, swapped, kind) >= total - 1e-9 or np.linalg.matrix_rank(vectors[swapped]) < 9


def test_many_exchanges_keep_the_rank_and_the_count_of_the_cost() -> None:
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(400, 40)) * np.exp(-np.arange(40) / 8) + 0.5
    between = np.stack([overlaps(vectors, row, "cosine") for row in vectors])
    for size in (40, 25):
        rows, total = least_overlapping(vectors, size, "cosine")
        assert np.linalg.matrix_rank(vectors[rows]) == len(rows) == size and total == pytest.approx(cost(vectors, rows, "cosine"))
        assert total < 0.95 * cost(vectors, independent_rows(vectors, size, 1e-6)[0], "cosine")
        sums = between[:, rows].sum(axis=1)
        change = sums[:, None] - between[:, rows] - (sums[rows] - 1)
        change[rows] = 0
        allowed = np.abs(np.linalg.solve(vectors[rows].T, vectors.T).T) > 1e-3 if size == 40 else np.ones_like(change, bool)
        assert change[allowed].min() > -1e-6


def test_exchanges_are_looked_for_in_runs_of_rows_without_changing_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(1).normal(size=(150, 10)) + 1
    rows, total = least_overlapping(vectors, 10, "cosine")
    monkeypatch.setattr("curate.basis_exchange._CACHED", 70)
    runs = least_overlapping(vectors, 10, "cosine")
    assert runs[0].tolist() == rows.tolist() and runs[1] == pytest.approx(total)


def test_overlap_with_rows_outside_counts_too() -> None:
    vectors = np.eye(4)[[0, 0, 1, 2]]
    rows, total = least_overlapping(vectors, 1, "jaccard", outside=np.array([3.0, 2.0, 1.0, 0.5]))
    assert rows.tolist() == [3] and total == 0.5


def test_rank_is_over_the_reals_and_not_over_two() -> None:
    pool = Features.from_arrays(vectors=np.array([[1, 1, 0], [0, 1, 1], [1, 0, 1], [1, 0, 1]], np.float32))
    indices, certificate = certified(Basis(), pool, 3)
    assert sorted(indices) == [0, 1, 2] and (certificate.objective, certificate.bound, certificate.gap) == (3, 3, 0)
    assert certificate.details["overlap"] == pytest.approx(1 / 3)


def test_a_budget_beyond_the_rank_takes_basis_after_basis() -> None:
    generator = np.random.default_rng(1)
    vectors = (generator.normal(size=(60, 5)) @ generator.normal(size=(5, 9))).astype(np.float32)
    pool = Features.from_arrays(vectors=vectors)
    indices, certificate = certified(Basis(), pool, 23)
    assert [np.linalg.matrix_rank(vectors[indices[start : start + 5]], tol=1e-3) for start in range(0, 20, 5)] == [5] * 4
    assert np.linalg.matrix_rank(vectors[indices[20:]], tol=1e-3) == 3
    assert certificate.bound == 5 == certificate.objective and certificate.details["overlap"] < certificate.details["random_overlap"]
    assert certified(Basis(), pool, 3)[1].bound == 3


def test_rows_that_lack_rank_are_found_out() -> None:
    pool = Features.from_arrays(vectors=np.eye(6)[[0, 0, 0, 1, 2, 3]])
    certificate = Basis().certify(pool, Budget(amount=4), np.array([0, 1, 2, 3]))
    assert certificate is not None and (certificate.objective, certificate.bound, certificate.gap) == (2, 4, 0.5)
    assert Basis().certify(pool, Budget(amount=4), np.array([0, 3, 4, 5])) == Basis().select(pool, Budget(amount=4)).certificate


def test_a_later_basis_keeps_away_from_near_copies_of_an_earlier_one() -> None:
    angles = np.radians([0, 90, 1, 91, 45, 135])
    pool = Features.from_arrays(vectors=np.c_[np.cos(angles), np.sin(angles)])
    assert sorted(certified(Basis(), pool, 4)[0].tolist()) == [0, 1, 4, 5]


def test_zeros_crowded_rows_and_copies_wait_their_turn() -> None:
    vectors = np.array([[0, 0, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]], np.float32)
    pool = Features.from_arrays(vectors=vectors)
    order = Basis(fullest=0.8).select(pool, Budget(amount=7)).indices.tolist()
    assert set(order[:3]) == {2, 4, 5} and order[3:] == [1, 0, 3, 6]
    assert set(Basis().select(pool, Budget(amount=4)).indices.tolist()) == {1, 2, 4, 5}


def test_jaccard_is_taken_for_zeros_and_ones_and_refused_for_others() -> None:
    ones = np.array([[1, 1, 0], [0, 0, 0]], np.float64)
    assert overlaps(ones, np.array([1.0, 0, 1]), "jaccard").tolist() == pytest.approx([1 / 3, 0]) and overlaps(ones, ones[1], "jaccard").tolist() == [0, 1]
    assert overlaps(ones, np.array([1.0, 0, 0]), "jaccard").tolist() == [0.5, 0]
    assert overlaps(0.1 * ones, np.array([-1.0, 0, 0]), "cosine").tolist() == pytest.approx([0.5**0.5, 1])
    with pytest.raises(DataError, match="zeros and ones"):
        Basis(overlap="jaccard").select(sample_features(12), Budget(amount=3))


def test_another_seed_may_find_another_basis_but_never_one_worse_than_the_qr() -> None:
    vectors = np.random.default_rng(3).normal(size=(120, 12)) + 1
    pool = Features.from_arrays(vectors=vectors)
    start = cost(vectors, independent_rows(np.float32(vectors).astype(np.float64), 12, 1e-6)[0], "cosine")
    for seed in range(5):
        rows = Basis().select(pool, Budget(amount=12), context=Context(seed=seed)).indices
        assert cost(vectors, rows, "cosine") <= start


@pytest.mark.parametrize("fields", [{"restarts": 0}, {"exchanges": 0}, {"fullest": 0.5, "overlap": "cosine"}])
def test_other_fields_keep_the_contract(fields: dict[str, Any]) -> None:
    check_selector(Basis(**fields))


def test_a_pool_of_zeros_and_ones_keeps_the_contract() -> None:
    plain = sample_features(40)
    ones = (np.random.default_rng(0).random((40, 8)) < 0.4).astype(np.float32)
    ones[5] = ones[6] = 0
    distinct = Features.from_arrays(vectors=np.c_[ones, np.eye(40)[:, :20] + np.eye(40)[:, 20:]], ids=plain.ids.tolist(), lengths=plain.lengths)
    check_selector(Basis(overlap="jaccard", fullest=0.3), features=distinct)
