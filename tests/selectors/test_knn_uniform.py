"""K against an exhaustive check of the inequality, the mass against the linear program that it solves, and the ranks."""

import numpy as np
import pytest
from scipy.stats import chisquare

from curate import similarity as service
from curate.core import Budget, Features
from curate.interfaces import Context
from curate.neighbour_mass import Neighbours, depth, mass, spread
from curate.selectors.knn_uniform import KnnUniform
from curate.testing import check_selector


def cosines(n: int, m: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    pool, goal = rng.normal(size=(n, 3)), rng.normal(size=(m, 3))
    alike: np.ndarray = pool @ goal.T / np.linalg.norm(pool, axis=1)[:, None] / np.linalg.norm(goal, axis=1)
    return alike


def smallest(away: np.ndarray, alpha: float, scale: float) -> int:
    """The smallest K of the inequality, every K tried, every sum taken anew; the longest list where there is none. `away` (M, L) sorted."""
    m, length = away.shape
    for k in range(1, length):
        gaps = sum(away[i, k] - away[i, near] for i in range(m) for near in range(k))
        if alpha / scale * gaps >= (1 - alpha) * m:
            return k
    return length


@pytest.mark.parametrize(("alpha", "scale"), [(0.01, 5.0), (0.5, 1.0), (0.5, 5.0), (0.9, 1.0), (0.97, 0.2), (1.0, 1.0)])
@pytest.mark.parametrize("seed", range(6))
def test_k_is_the_smallest_that_meets_the_inequality(seed: int, alpha: float, scale: float) -> None:
    away = np.sort(1 - cosines(60, 4, seed).T, axis=1)
    found = spread(away, np.ones_like(away), (1 / alpha - 1) * scale * 4)
    assert found == smallest(away, alpha, scale)
    short = away[:, :9]
    assert spread(short, np.ones_like(short), (1 / alpha - 1) * scale * 4) == smallest(short, alpha, scale)


def test_a_toll_that_is_just_met_is_met_and_one_just_above_asks_for_another_neighbour() -> None:
    away = np.cumsum(np.random.default_rng(0).integers(1, 9, size=(3, 20)), axis=1).astype(float)
    even = np.ones_like(away)
    for k in range(1, 20):
        gaps = float((away[:, [k]] - away[:, :k]).sum())
        assert spread(away, even, gaps) == k
        assert spread(away, even, gaps + 0.5) == k + 1


def test_the_inequality_has_every_kind_of_answer() -> None:
    answers = {smallest(np.sort(1 - cosines(60, 4, 0).T, axis=1), alpha, 1.0) for alpha in (0.01, 0.2, 0.5, 0.9, 1.0)}
    assert min(answers) == 1 and max(answers) == 60 and len(answers) >= 4


def program(away: np.ndarray, alpha: float, scale: float) -> tuple[float, np.ndarray]:
    """(optimum, mass of each pool row) of min alpha / C <g, d> + (1 - alpha) M max g, row sums 1 / M, by scipy."""
    from scipy.optimize import linprog

    m, n = away.shape
    cost = np.append(alpha / scale * away.ravel(), (1 - alpha) * m)
    below = np.hstack([np.eye(m * n), -np.ones((m * n, 1))])
    sums = np.hstack([np.kron(np.eye(m), np.ones(n)), np.zeros((m, 1))])
    solved = linprog(cost, A_ub=below, b_ub=np.zeros(m * n), A_eq=sums, b_eq=np.full(m, 1 / m), method="highs")
    assert solved.status == 0
    return float(solved.fun), solved.x[:-1].reshape(m, n).sum(axis=0)


@pytest.mark.parametrize("alpha", [0.05, 0.4, 0.7, 0.9])
@pytest.mark.parametrize("seed", range(4))
def test_the_mass_solves_the_linear_program(seed: int, alpha: float) -> None:
    alike = cosines(8, 3, seed)
    near = Neighbours.of(Features.from_arrays(similarity=alike), None, "cosine", 8)
    even = np.ones_like(near.away)
    count = spread(near.away, even, (1 / alpha - 1) * 1.0 * 3)
    received = mass(near, even, count)
    optimum, theirs = program(1 - alike.T, alpha, 1.0)
    closeness = sum(near.away[i, : int(count)].sum() for i in range(3)) / (3 * count)
    assert alpha * closeness + (1 - alpha) / count == pytest.approx(optimum, abs=1e-9)
    assert received == pytest.approx(theirs, abs=1e-9)
    assert received.sum() == pytest.approx(1)


@pytest.mark.parametrize(("alpha", "scale"), [(0.9, 1.0), (0.9, 0.3), (0.7, 1.0), (0.01, 5.0)])
def test_the_gains_are_the_masses_of_the_k_that_alpha_and_scale_ask_for(alpha: float, scale: float) -> None:
    alike = cosines(60, 4, 7)
    kept = KnnUniform(alpha=alpha, scale=scale, share=0.5).select(Features.from_arrays(similarity=alike), Budget(amount=60))
    near = np.argsort(-alike, axis=0, kind="stable")[:30]
    count = smallest(1 - np.take_along_axis(alike, near, axis=0).T, alpha, scale)
    wanted = np.bincount(near[:count].ravel(), minlength=60) / (4 * count)
    assert kept.gains == pytest.approx(wanted[kept.indices])
    assert kept.gains is not None and (np.diff(kept.gains) <= 1e-12).all()


def test_rows_are_ranked_by_mass_then_by_nearness_then_by_id() -> None:
    alike = np.asarray([[0.9, 0.1], [0.8, 0.7], [0.2, 0.8], [0.1, 0.2], [0.1, 0.3], [0.1, 0.2]])
    kept = KnnUniform(share=0.4, alpha=0.01).select(Features.from_arrays(similarity=alike), Budget(amount=6))
    assert kept.indices.tolist() == [1, 0, 2, 4, 3, 5]  # row 1 is among the two nearest of both
    assert kept.gains == pytest.approx([0.5, 0.25, 0.25, 0, 0, 0])


def test_the_share_of_the_pool_is_exact_and_one_row_at_least() -> None:
    assert [depth(n, 5000, 0.1) for n in (1, 9, 30, 70, 10**7)] == [1, 1, 3, 7, 5000]
    assert depth(100, 5000, 0.29) == 29


def test_a_sampled_row_comes_in_proportion_to_its_mass_and_rows_without_any_come_last() -> None:
    alike = cosines(40, 5, 1)
    pool = Features.from_arrays(similarity=alike)
    ranked = KnnUniform().select(pool, Budget(amount=40))
    assert ranked.gains is not None
    p = np.zeros(40)
    p[ranked.indices] = ranked.gains
    first = np.zeros(40)
    for seed in range(1500):
        kept = KnnUniform(take="sampled").select(pool, Budget(amount=20), context=Context(seed=seed)).indices
        holds = int((p > 0).sum())
        assert set(kept[:holds].tolist()) == set(np.flatnonzero(p).tolist())
        first[kept[0]] += 1
    assert chisquare(first[p > 0], 1500 * p[p > 0]).pvalue > 1e-3


def test_blocks_of_any_size_give_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    pool, goal = Features.from_arrays(vectors=rng.normal(size=(300, 5))), Features.from_arrays(vectors=rng.normal(size=(6, 5)))
    whole = KnnUniform().select(pool, Budget(amount=120), target=goal).indices.tolist()
    for block in (1, 17):
        monkeypatch.setattr(service, "_BLOCK", block)
        assert KnnUniform().select(pool, Budget(amount=120), target=goal).indices.tolist() == whole


def test_other_fields_keep_the_contract() -> None:
    for selector in (KnnUniform(take="sampled"), KnnUniform(share=1.0, alpha=0.9, scale=1.0), KnnUniform(neighbours=1), KnnUniform(metric="inner")):
        check_selector(selector)
