"""The closed form against POT's unbalanced Sinkhorn, which it is the limit of, and against the plain softmax."""

import numpy as np
import pytest

from curate import similarity as service
from curate.core import Budget, Features
from curate.errors import NumericError
from curate.selectors.softmax_mass import SoftmaxMass, log_mass
from curate.similarity import Similarities
from curate.testing import check_selector


def plain(alike: np.ndarray, epsilon: float) -> np.ndarray:
    """(N,) mean_j softmax_i(-C_ij / epsilon) in long double, nothing shifted."""
    weight = np.exp(-(1 - alike.astype(np.longdouble)) / 2 / epsilon)
    mean: np.ndarray = (weight / weight.sum(axis=0)).mean(axis=1)
    return mean


def cosines(n: int, m: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    pool, goal = rng.normal(size=(n, 6)), rng.normal(size=(m, 6))
    alike: np.ndarray = pool @ goal.T / np.linalg.norm(pool, axis=1)[:, None] / np.linalg.norm(goal, axis=1)
    return alike


def received(alike: np.ndarray, epsilon: float, penalty: float) -> np.ndarray:
    """(N,) what the pool's rows receive by POT's solver, with this penalty on the pool's side."""
    ot = pytest.importorskip("ot")
    n, m = alike.shape
    a, b = np.full(m, 1 / m), np.full(n, 1 / n)
    plan = ot.unbalanced.sinkhorn_unbalanced(a, b, (1 - alike.T) / 2, epsilon, (float("inf"), penalty), reg_type="kl", numItermax=5000, stopThr=1e-14)
    assert plan.sum(axis=1) == pytest.approx(a)
    mass: np.ndarray = plan.sum(axis=0)
    return mass


@pytest.mark.parametrize("epsilon", [0.01, 0.1])
@pytest.mark.parametrize("seed", range(2))
def test_unbalanced_transport_comes_to_the_closed_form_as_the_pool_is_freed(seed: int, epsilon: float) -> None:
    alike = cosines(120, 8, seed)
    mine = np.exp(log_mass(Similarities(Features.from_arrays(similarity=alike), None), epsilon))
    kept = SoftmaxMass(epsilon=epsilon).select(Features.from_arrays(similarity=alike), Budget(amount=40)).indices
    for freedom in (1e-4, 1e-6, 1e-9):  # the first is the published one
        theirs = received(alike, epsilon, freedom)
        assert np.abs(theirs - mine).max() < freedom / epsilon * mine.max()
        assert set(np.argsort(-theirs)[:40]) == set(kept.tolist())
    assert kept.tolist() == np.argsort(-theirs)[:40].tolist()


@pytest.mark.parametrize("epsilon", [0.003, 0.01, 1.0, 1e6])
def test_the_mass_is_the_mean_of_softmaxes_whatever_the_blocks(epsilon: float, monkeypatch: pytest.MonkeyPatch) -> None:
    alike = cosines(200, 7, 5)
    pool = Features.from_arrays(similarity=alike)
    wanted = plain(alike, epsilon).astype(np.float64)
    for block in (1, 13, 2048):
        monkeypatch.setattr(service, "_BLOCK", block)
        mass = np.exp(log_mass(Similarities(pool, None), epsilon))
        assert mass == pytest.approx(wanted, rel=1e-11)
        assert mass.sum() == pytest.approx(1)
        kept = SoftmaxMass(epsilon=epsilon).select(pool, Budget(amount=150))
        if epsilon < 1e6:  # where all masses are 1 / N but for rounding
            assert kept.indices.tolist() == np.argsort(-wanted, kind="stable")[:150].tolist()
        assert kept.gains == pytest.approx(wanted[kept.indices])


def test_masses_below_the_smallest_float_still_rank_rows() -> None:
    alike = np.linspace(1, -1, 50)[:, None]
    kept = SoftmaxMass(epsilon=1e-6).select(Features.from_arrays(similarity=alike[::-1]), Budget(amount=50))
    assert kept.indices.tolist() == list(range(50))[::-1]
    assert kept.gains is not None and kept.gains[-1] == 0


def test_similarities_beyond_what_can_be_told_apart_are_refused() -> None:
    with pytest.raises(NumericError, match="scale them"):
        SoftmaxMass().select(Features.from_arrays(similarity=[[1e300], [1.0]]), Budget(amount=1))


def test_other_fields_keep_the_contract() -> None:
    for selector in (SoftmaxMass(epsilon=1e-6), SoftmaxMass(epsilon=1e6), SoftmaxMass(metric="inner")):
        check_selector(selector)
