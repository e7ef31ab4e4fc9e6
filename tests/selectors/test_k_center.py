"""Farthest-first traversal: the rows of a plain float64 loop, within twice the best radius, and a bound that no centres beat."""

from itertools import combinations

import numpy as np
import pytest

import curate.farthest
from curate.core import Budget, Features
from curate.covering import covering_bound, nearest_two
from curate.farthest import Farthest, gaps
from curate.selectors.k_center import KCenter


def unit(vectors: np.ndarray) -> np.ndarray:
    wide = np.asarray(vectors, np.float64)
    return (wide / np.sqrt(np.einsum("nd,nd->n", wide, wide))[:, None]).astype(np.float32)


def distances(vectors: np.ndarray) -> np.ndarray:
    wide = unit(vectors).astype(np.float64)
    return np.sqrt(((wide[:, None] - wide[None]) ** 2).sum(-1))


def radius(apart: np.ndarray, rows: np.ndarray | tuple[int, ...]) -> float:
    return float(apart[:, list(rows)].min(axis=1).max())


def naive(vectors: np.ndarray, kept: int) -> tuple[list[int], list[float]]:
    """Farthest-first by differences in float64, one centre at a time."""
    rows = unit(vectors)
    mean = rows.mean(0, dtype=np.float64)
    order, gains, nearest = [], [], np.full(len(rows), np.inf)
    away = np.sqrt(np.einsum("nd,nd->n", rows - mean, rows - mean))
    free = np.ones(len(rows), bool)
    for _ in range(kept):
        row = int(np.argmax(np.where(free, nearest, -np.inf))) if order else int(np.argmin(away))
        gains.append(float(nearest[row]) if order else 2.0)
        order.append(row)
        free[row] = False
        apart = rows.astype(np.float64) - rows[row]
        nearest = np.minimum(nearest, np.sqrt(np.einsum("nd,nd->n", apart, apart)))
    return order, gains


def cloud(kind: str, rows: int, width: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(12, width))[rng.integers(12, size=rows)]
    noise = rng.normal(size=(rows, width))
    made = {
        "spread": noise,
        "clusters": centres + 0.2 * noise,
        "tight": centres + 1e-4 * noise,
        "cone": rng.normal(size=width) + 1e-4 * noise,
        "copies": centres,
        "corners": np.eye(width)[rng.integers(width, size=rows)],
        "signs": rng.choice([-1.0, 1.0], size=(rows, width)),
    }
    return np.asarray(made[kind], np.float32)


@pytest.mark.parametrize("active", [4, 512])
@pytest.mark.parametrize("kind", ["spread", "clusters", "tight", "cone", "copies", "corners", "signs"])
def test_the_rows_and_gains_are_those_of_a_plain_loop_in_float64(kind: str, active: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curate.farthest, "_ACTIVE", active)
    monkeypatch.setattr(curate.farthest, "_PATIENCE", 3)
    monkeypatch.setattr(curate.farthest, "_PENDING", 7)
    monkeypatch.setattr(curate.farthest, "_BLOCK", 64)
    monkeypatch.setattr(curate.farthest, "_LATE", 16)
    vectors = cloud(kind, 300, 9, 3)
    kept = KCenter().select(Features.from_arrays(vectors=vectors), Budget(amount=120))
    order, gains = naive(vectors, 120)
    assert kept.gains is not None and kept.indices.tolist() == order
    assert kept.gains.tolist() == gains


@pytest.mark.parametrize("seed", range(8))
def test_the_radius_lies_between_the_bound_and_twice_the_brute_force_optimum(seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(11, 3)).astype(np.float32)
    apart = distances(vectors)
    for kept in (1, 2, 3, 4):
        chosen = KCenter().select(Features.from_arrays(vectors=vectors), Budget(amount=kept))
        best = min(radius(apart, rows) for rows in combinations(range(11), kept))
        certificate = chosen.certificate
        assert certificate is not None
        assert certificate.objective == pytest.approx(radius(apart, chosen.indices), abs=1e-9)
        assert certificate.objective / 2 - 1e-9 <= certificate.bound <= best + 1e-9
        assert best - 1e-9 <= certificate.objective <= 2 * best + 1e-9


@pytest.mark.parametrize("seed", range(6))
def test_any_rows_are_certified_by_their_own_radius_and_a_true_bound(seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(10, 4)).astype(np.float32)
    pool, apart = Features.from_arrays(vectors=vectors), distances(vectors)
    rows = rng.permutation(10)[:3]
    certificate = KCenter().certify(pool, Budget(amount=3), rows)
    assert certificate is not None
    assert certificate.objective == pytest.approx(radius(apart, rows), abs=1e-9)
    assert certificate.bound <= min(radius(apart, some) for some in combinations(range(10), 3)) + 1e-9
    assert certificate.details["random"] >= certificate.bound


def test_the_bound_is_the_definition_and_proves_the_optimum_where_half_the_radius_cannot() -> None:
    vectors = np.random.default_rng(2).normal(size=(70, 5)).astype(np.float32)
    points = np.arange(0, 70, 9)
    assert covering_bound(unit(vectors), points) == pytest.approx(np.sort(distances(vectors)[:, points], axis=1)[:, 1].min(), abs=1e-9)
    corners = KCenter().select(Features.from_arrays(vectors=np.eye(8, dtype=np.float32)), Budget(amount=3)).certificate
    assert corners is not None and corners.gap == 0
    assert corners.objective == pytest.approx(np.sqrt(2)) == corners.bound


def test_blocks_of_points_change_nothing_of_the_two_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = cloud("copies", 90, 6, 1)
    vectors[::2] = cloud("spread", 45, 6, 2)
    points = np.arange(0, 90, 4)
    monkeypatch.setattr("curate.covering._POINTS", 3)
    monkeypatch.setattr("curate.covering._BLOCK", 8)
    found = np.stack(nearest_two(unit(vectors), points), axis=1)
    assert np.allclose(found, np.sort(distances(vectors)[:, points], axis=1)[:, :2], atol=1e-9)


def test_more_centres_than_different_rows_cover_everything_and_that_is_proven() -> None:
    pool = Features.from_arrays(vectors=np.repeat(np.eye(4, dtype=np.float32), 3, axis=0))
    kept = KCenter().select(pool, Budget(amount=6))
    assert sorted(kept.indices[:4] // 3) == [0, 1, 2, 3]
    assert kept.certificate is not None and (kept.certificate.objective, kept.certificate.bound, kept.certificate.gap) == (0, 0, 0)
    assert kept.certificate == KCenter().certify(pool, Budget(amount=6), kept.indices)
    copies = Features.from_arrays(vectors=np.repeat(cloud("spread", 5, 300, 0), 4, axis=0))
    for kept in (KCenter().select(copies, Budget(amount=amount)) for amount in (5, 7, 20)):
        assert kept.certificate is not None and kept.certificate.objective == 0 == kept.certificate.gap
        assert kept.certificate == KCenter().certify(copies, Budget(amount=float(len(kept))), kept.indices)


def test_rows_closer_than_products_can_tell_count_as_copies() -> None:
    rows = np.asarray([[1, 0, 0], [1, 1e-7, 0], [0, 1, 0], [0, 1, 1e-3]], np.float32)
    nearest, second = nearest_two(rows, np.asarray([0, 2]))
    assert nearest[:3].tolist() == [0, 0, 0] and nearest[3] == pytest.approx(1e-3, rel=1e-6)
    assert second == pytest.approx(np.full(4, np.sqrt(2)), abs=1e-6)
    certificate = KCenter().select(Features.from_arrays(vectors=rows[:3]), Budget(amount=2)).certificate
    assert certificate is not None and certificate.objective == certificate.bound == certificate.gap == 0


def test_every_cluster_gets_a_row_before_any_gets_two_and_copies_come_last() -> None:
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(6, 20))
    vectors = np.repeat(centres, 5, axis=0) + 0.01 * generator.normal(size=(30, 20))
    vectors[3] = vectors[4]
    chosen = KCenter().select(Features.from_arrays(vectors=vectors.astype(np.float32)), Budget(amount=30))
    assert sorted(chosen.indices[:6] // 5) == list(range(6))
    assert chosen.indices[-1] == 4 and chosen.gains is not None and chosen.gains[-1] == 0
    assert (np.diff(chosen.gains) <= 0).all()


def test_rows_left_out_of_the_mask_are_passed_over_although_they_are_farther() -> None:
    vectors = unit(cloud("spread", 60, 4, 5))
    apart, open_ = distances(vectors), np.arange(60) % 3 == 0
    far = Farthest(vectors)
    for centre in (0, 3, 6):
        far.add(centre)
    assert far.row(open_) == int(np.argmax(np.where(open_, apart[:, [0, 3, 6]].min(axis=1), -1)))
    assert far.radius(0.0)[1] == pytest.approx(radius(apart, (0, 3, 6)), abs=1e-12)
    assert gaps(vectors, np.asarray([5])).shape == (0,)


def test_the_farthest_row_is_the_lowest_of_those_within_the_slack() -> None:
    angle = np.radians([0.0, 80.0, 90.0, 30.0])
    far = Farthest(np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32))
    far.add(0)
    for slack, row in ((0.0, 2), (0.1, 2), (0.2, 1), (2.0, 0)):
        assert far.radius(slack) == (row, pytest.approx(np.sqrt(2), abs=1e-6))


@pytest.mark.parametrize("kind", ["corners", "signs", "clusters", "copies"])
@pytest.mark.parametrize("kept", [3, 9, 40])
def test_ties_for_the_farthest_row_leave_the_certificate_the_same_in_any_order_of_the_pool(kind: str, kept: int) -> None:
    vectors = cloud(kind, 60, 7, 1)
    order = np.random.default_rng(0).permutation(60)
    pool = Features.from_arrays(vectors=vectors, ids=[f"{row:02d}" for row in range(60)])
    moved = Features.from_arrays(vectors=vectors[order], ids=pool.ids[order].tolist())
    chosen = KCenter().select(pool, Budget(amount=kept))
    again = KCenter().certify(moved, Budget(amount=kept), np.argsort(order)[chosen.indices])
    assert chosen.certificate is not None and again is not None
    for name in ("objective", "bound", "gap"):
        assert getattr(again, name) == pytest.approx(getattr(chosen.certificate, name), abs=1e-7)


def test_a_budget_in_tokens_is_filled_without_a_bound() -> None:
    generator = np.random.default_rng(1)
    pool = Features.from_arrays(vectors=generator.normal(size=(40, 5)), lengths=generator.integers(1, 30, 40))
    chosen = KCenter().select(pool, Budget(amount=100, unit="tokens"))
    left = 100 - pool.lengths[chosen.indices].sum()
    rest = np.setdiff1d(np.arange(40), chosen.indices)
    assert 0 <= left < pool.lengths[rest].min() and chosen.certificate is None
