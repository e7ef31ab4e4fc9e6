"""The mass against its linear program and against mass poured out step by step; copies share what one row would get."""

import numpy as np
import pytest

from curate.core import Budget, Features
from curate.errors import DataError
from curate.neighbour_mass import Neighbours, mass, spread
from curate.selectors import knn_kde
from curate.selectors.knn_kde import KnnKde, densities
from curate.similarity import similarity, unit_rows
from curate.testing import check_selector


def vectors(n: int, seed: int, width: int = 3) -> np.ndarray:
    found: np.ndarray = np.random.default_rng(seed).normal(size=(n, width))
    return found


def brute(rows: np.ndarray, sigma: float) -> np.ndarray:
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    apart = ((unit[:, None] - unit[None]) ** 2).sum(axis=2)
    found: np.ndarray = np.maximum(0, 1 - apart / sigma**2).sum(axis=1)
    return found


def program(away: np.ndarray, density: np.ndarray, alpha: float, scale: float = 1.0) -> tuple[float, np.ndarray]:
    """(optimum, mass of each pool row) of min alpha / C <g, d> + (1 - alpha) M max_ij density_j g_ij, row sums 1 / M, by scipy."""
    from scipy.optimize import linprog

    m, n = away.shape
    cost = np.append(alpha / scale * away.ravel(), (1 - alpha) * m)
    below = np.hstack([np.diag(np.tile(density, m)), -np.ones((m * n, 1))])
    sums = np.hstack([np.kron(np.eye(m), np.ones(n)), np.zeros((m, 1))])
    solved = linprog(cost, A_ub=below, b_ub=np.zeros(m * n), A_eq=sums, b_eq=np.full(m, 1 / m), method="highs")
    assert solved.status == 0
    return float(solved.fun), solved.x[:-1].reshape(m, n).sum(axis=0)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.7, 0.9, 0.97])
@pytest.mark.parametrize("seed", range(5))
def test_the_mass_solves_the_linear_program(seed: int, alpha: float) -> None:
    pool, goal = Features.from_arrays(vectors=vectors(8, seed)), Features.from_arrays(vectors=vectors(3, seed + 100))
    near = Neighbours.of(pool, goal, "cosine", 8)
    rho = brute(np.asarray(pool.vectors), 0.75)
    density = rho[near.rows]
    s = spread(near.away, density, (1 / alpha - 1) * 3)
    received = mass(near, density, s)
    away = np.empty((3, 8))
    np.put_along_axis(away, near.rows, near.away, axis=1)
    optimum, theirs = program(away, rho, alpha)
    share = np.clip(s - np.cumsum(1 / density, axis=1) + 1 / density, 0, 1 / density) / (3 * s)
    assert alpha * (share * near.away).sum() + (1 - alpha) / s == pytest.approx(optimum, abs=1e-9)
    assert received == pytest.approx(theirs, abs=1e-8)
    assert received.sum() == pytest.approx(1)


@pytest.mark.parametrize(("alpha", "scale", "sigma"), [(0.5, 0.2, 0.75), (0.5, 2.0, 0.75), (0.8, 1.0, 1.5)])
def test_the_gains_are_the_masses_that_the_fields_ask_for(alpha: float, scale: float, sigma: float) -> None:
    pool, goal = Features.from_arrays(vectors=vectors(9, 21)), Features.from_arrays(vectors=vectors(3, 22))
    kept = KnnKde(alpha=alpha, scale=scale, sigma=sigma, share=1.0).select(pool, Budget(amount=9), target=goal)
    away = 1 - similarity(pool, goal).astype(float)
    theirs = program(away, brute(np.asarray(pool.vectors), sigma), alpha, scale)[1]
    assert kept.gains == pytest.approx(theirs[kept.indices], abs=1e-6)
    assert kept.gains is not None and (np.diff(kept.gains) <= 1e-12).all()


def poured(away: np.ndarray, density: np.ndarray, toll: float) -> float:
    """s as Algorithm 2 grows it: the target row with the least s serves one neighbour more, until the cost of that reaches the toll."""
    m, length = away.shape
    served, count, cost = [0] * m, (1 / density[:, 0]).tolist(), [0.0] * m
    while True:
        i = int(np.argmin(count))
        s = count[i]
        if served[i] == length - 1:
            return s
        near = slice(0, served[i] + 1)
        cost[i] = away[i, served[i] + 1] * count[i] - (away[i, near] / density[i, near]).sum()
        if sum(cost) >= toll:
            return s
        served[i] += 1
        count[i] += 1 / density[i, served[i]]


@pytest.mark.parametrize("toll", [0.01, 0.5, 3.0, 20.0, 1e9])
@pytest.mark.parametrize("seed", range(5))
def test_s_is_where_pouring_the_mass_out_neighbour_by_neighbour_stops(seed: int, toll: float) -> None:
    rng = np.random.default_rng(seed)
    away, density = np.sort(rng.random((5, 30)), axis=1), 1 + 4 * rng.random((5, 30))
    assert spread(away, density, toll) == pytest.approx(poured(away, density, toll), rel=1e-12)


@pytest.mark.parametrize("sigma", [0.05, 0.75, 2.0])
def test_densities_are_those_of_all_pairs_whatever_the_tiles(sigma: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = vectors(70, 3)
    rows[10:20] = rows[0]
    unit = unit_rows(Features.from_arrays(vectors=rows))
    for tile in (1, 16, 1024):
        monkeypatch.setattr(knn_kde, "_TILE", tile)
        assert densities(unit, sigma) == pytest.approx(brute(rows, sigma), rel=1e-3)


def test_copies_of_a_row_receive_together_what_the_row_alone_would() -> None:
    rows, goal = vectors(30, 0, 6), Features.from_arrays(vectors=vectors(3, 9, 6))
    crowded = np.concatenate([rows, np.repeat(rows[[4]], 9, axis=0)])
    selector = KnnKde(share=1.0, alpha=0.3, sigma=0.05)
    assert brute(rows, 0.05) == pytest.approx(np.ones(30))  # only copies crowd

    def received(values: np.ndarray) -> np.ndarray:
        kept = selector.select(Features.from_arrays(vectors=values), Budget(amount=len(values)), target=goal)
        found = np.zeros(len(values))
        found[kept.indices] = kept.gains
        return found

    alone, shared = received(rows), received(crowded)
    assert alone[4] > 0
    assert shared[[4, *range(30, 39)]] == pytest.approx(np.full(10, alone[4] / 10), rel=1e-4)
    assert shared[[*range(4), *range(5, 30)]] == pytest.approx(alone[[*range(4), *range(5, 30)]], rel=1e-4)


def test_a_similarity_alone_does_not_tell_how_rows_crowd() -> None:
    with pytest.raises(DataError, match="needs vectors of the pool"):
        KnnKde().select(Features.from_arrays(similarity=np.ones((20, 2))), Budget(amount=3))


def test_other_fields_keep_the_contract() -> None:
    for selector in (KnnKde(take="sampled"), KnnKde(share=1.0, alpha=0.9, scale=1.0), KnnKde(neighbours=1), KnnKde(sigma=0.01), KnnKde(sigma=2.0)):
        check_selector(selector)
