"""Transport against every subset and linear programming, the symmetries of its distance, and sizes chosen by cross-validation."""

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import ot
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import linprog

from curate.core import Budget, Certificate, Features, Selection
from curate.interfaces import Context
from curate.order import subset
from curate.selectors.transport import Transport
from curate.testing import check_selector
from curate.testing.selection import Backwards, OnDisk
from curate.transport.whitening import WhitenedDistances

Wide = NDArray[np.float64]


def problem(n: int = 40, m: int = 4, width: int = 5, seed: int = 0) -> tuple[Wide, Wide]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, width)) * np.arange(1, width + 1), rng.normal(size=(m, width)) + 1


def chosen(pool: Wide, goal: Wide, k: int, **fields: Any) -> Selection:
    return Transport(**fields).select(Features.from_arrays(vectors=pool), Budget(amount=k), target=Features.from_arrays(vectors=goal))


def kept(pool: Wide, goal: Wide, k: int, **fields: Any) -> list[int]:
    return [int(row) for row in chosen(pool, goal, k, **fields).indices]


def distances(pool: Wide, goal: Wide) -> Wide:
    narrow = goal.astype(np.float32).astype(np.float64)
    return WhitenedDistances(Features.from_arrays(vectors=pool), narrow, 1e-3).of(np.arange(len(pool))).astype(np.float64)


def cost(away: Wide, rows: Any) -> float:
    return float(ot.emd2([], [], np.ascontiguousarray(away[np.asarray(rows)])))


def proven(selection: Selection) -> Certificate:
    assert selection.certificate is not None
    return selection.certificate


@pytest.mark.parametrize(
    "fields",
    [
        {"rule": "layers"},
        {"rule": "layers", "exact_limit": 0, "weights": "potential"},
        {"exact_limit": 0},
        {"exact_limit": 0, "hold_limit": 1},
        {"hold_limit": 0, "weights": "potential"},
    ],
)
def test_other_fields_keep_the_contract(fields: dict[str, Any]) -> None:
    check_selector(Transport(**fields))


@pytest.mark.parametrize(("n", "m", "k"), [(10, 3, 3), (9, 2, 4), (10, 1, 3)])
def test_where_the_targets_divide_the_budget_the_rows_are_the_best_of_all_subsets(n: int, m: int, k: int) -> None:
    for seed in range(6):
        pool, goal = problem(n, m, seed=seed)
        away = distances(pool, goal)
        certificate = proven(chosen(pool, goal, k))
        best = min(cost(away, some) for some in combinations(range(n), k))
        assert certificate.objective == pytest.approx(best, abs=1e-6)
        assert certificate.bound == pytest.approx(best, abs=1e-6) and certificate.gap == pytest.approx(0, abs=1e-5)


def test_elsewhere_the_cost_is_close_to_the_best_subset_and_far_below_the_mean_one() -> None:
    places = []
    for seed in range(24):
        pool, goal = problem(10, (4, 5, 8)[seed % 3], seed=seed)
        away = distances(pool, goal)
        every = [cost(away, some) for some in combinations(range(10), 3)]
        certificate = proven(chosen(pool, goal, 3))
        assert certificate.bound - 1e-6 <= min(every) <= certificate.objective + 1e-6
        places.append((certificate.objective - min(every)) / (np.mean(every) - min(every)))
    assert np.mean(places) < 0.1 and max(places) < 1


def test_the_kept_set_is_never_dearer_than_the_published_layers() -> None:
    for seed in range(12):
        pool, goal = problem(60, 7, seed=seed)
        for k in (4, 7, 12, 21):
            ours, published = (proven(chosen(pool, goal, k, rule=rule)).objective for rule in ("capacity", "layers"))
            assert ours <= published * 1.001 + 1e-9


def test_the_certificate_is_the_definition() -> None:
    pool, goal = problem(30, 4)
    rows = np.random.default_rng(5).permutation(30)[:6]
    certificate = Transport().certify(Features.from_arrays(vectors=pool), Budget(amount=6), rows, target=Features.from_arrays(vectors=goal))
    away = distances(pool, goal)
    assert certificate is not None and certificate.objective == pytest.approx(cost(away, rows), abs=1e-6)
    over, under = np.kron(np.eye(30), np.ones(4)), np.kron(np.ones(30), np.eye(4))
    relaxed = linprog(away.ravel(), A_ub=over, b_ub=np.full(30, 1 / 6), A_eq=under, b_eq=np.full(4, 1 / 4))
    assert certificate.bound == pytest.approx(float(relaxed.fun), abs=1e-6)
    random = certificate.details["random"]
    assert certificate.gap == pytest.approx((certificate.bound - certificate.objective) / (certificate.bound - random))


def test_rows_are_certified_in_a_pool_of_any_order() -> None:
    pool, goal = kinds(100, 10)
    moved = subset(pool, np.random.default_rng(4).permutation(100))
    selection = Transport().select(moved, Budget(amount=15), target=goal)
    again = Transport().certify(moved, Budget(amount=15), selection.indices, target=goal)
    assert again is not None and again.objective == pytest.approx(proven(selection).objective, abs=1e-9)
    places = np.searchsorted(pool.ids, moved.ids[selection.indices])
    there = Transport().certify(pool, Budget(amount=15), places, target=goal)
    assert there is not None and there.objective == pytest.approx(again.objective, abs=1e-9)


def test_beyond_the_limit_the_details_enclose_the_exact_cost() -> None:
    pool, goal = problem(300, 12)
    selection = chosen(pool, goal, 48, exact_limit=0)
    certificate, true = proven(selection), cost(distances(pool, goal), selection.indices)
    assert certificate.details["exact"] == 0 and 0 < certificate.details["dual_gap"] < 0.02 * true
    assert certificate.objective - certificate.details["dual_gap"] - 1e-6 <= true <= certificate.objective + 1e-6
    assert certificate.details["marginal_residual"] < 1e-3
    assert proven(chosen(pool, goal, 48)).details["dual_gap"] == pytest.approx(0, abs=1e-9)


def test_a_pool_that_holds_the_target_gives_exactly_the_target_at_no_cost() -> None:
    for rule in ("capacity", "layers"):
        pool, goal = problem(30, 6)
        pool[[3, 8, 11, 17, 20, 29]] = goal
        selection = chosen(pool, goal, 6, rule=rule)
        assert sorted(selection.indices.tolist()) == [3, 8, 11, 17, 20, 29]
        assert proven(selection).objective == 0 and proven(selection).gap == 0


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), width=st.integers(2, 30), k=st.integers(1, 12))
def test_shifting_scaling_and_rotating_the_features_changes_no_row(seed: int, width: int, k: int) -> None:
    pool, goal = problem(30, 4, width, seed)
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))[0]
    assert kept(pool, goal, k) == kept(7 + 0.03 * pool @ rotation, 7 + 0.03 * goal @ rotation, k)


def test_without_damping_no_affine_map_of_the_features_changes_a_row() -> None:
    pool, goal = problem()
    mix = np.random.default_rng(2).normal(size=(5, 5))
    assert kept(pool, goal, 10, damping=0.0) == kept(pool @ mix + 1, goal @ mix + 1, 10, damping=0.0)


@pytest.mark.parametrize("size", ["budget", "cross_validated"])
def test_repeated_target_rows_change_nothing(size: str) -> None:
    pool, goal = problem(80, 12)
    once, again = (chosen(pool, rows, 30, size=size, weights="potential") for rows in (goal, np.vstack([goal, goal[:2], goal[:1]])))
    assert once.indices.tolist() == again.indices.tolist()
    assert np.allclose(once.weights, again.weights)


def test_weights_fall_with_the_potential_and_average_one_and_the_best_served_come_first() -> None:
    pool, goal = problem()
    selection = chosen(pool, goal, 13, weights="potential")
    away = distances(pool, goal)[selection.indices]
    potentials = ot.emd([], [], away, log=True)[1]["u"]
    assert selection.weights.mean() == pytest.approx(1, abs=1e-6)
    assert 0.5 - 1e-6 <= selection.weights.min() < selection.weights.max() <= 1.5 + 1e-6
    assert np.corrcoef(potentials, selection.weights)[0, 1] == pytest.approx(-1, abs=1e-6)
    assert (np.diff(potentials) >= -1e-9).all()


def test_a_streamed_pool_gives_the_rows_of_one_in_memory() -> None:
    pool, goal = problem(3000, 6)
    for k in (12, 50):
        held, streamed = (chosen(pool, goal, k, hold_limit=limit) for limit in (10**6, 10_000))
        assert held.indices.tolist() == streamed.indices.tolist()


def test_a_pool_too_large_for_its_candidates_is_chosen_almost_as_well() -> None:
    pool, goal = problem(3000, 6)
    whole, thin = (proven(chosen(pool, goal, 600, exact_limit=limit, hold_limit=hold)) for limit, hold in ((10**6, 10**6), (0, 4000)))
    rows, target = Features.from_arrays(vectors=pool), Features.from_arrays(vectors=goal)
    exact = Transport().certify(rows, Budget(amount=600), chosen(pool, goal, 600, exact_limit=0, hold_limit=4000).indices, target=target)
    assert whole.gap == pytest.approx(0, abs=1e-6) and exact is not None and exact.gap < 0.03
    assert whole.bound - 0.01 <= thin.bound <= whole.bound + 1e-6


def kinds(n: int = 600, m: int = 40, seed: int = 0) -> tuple[Features, Features]:
    """A pool of eight kinds in turn, and a target of the first three."""
    rng = np.random.default_rng(seed)
    centres = 2 * rng.normal(size=(8, 12))
    pool, goal = (centres[np.arange(size) % many] + rng.normal(size=(size, 12)) for size, many in ((n, 8), (m, 3)))
    lengths = rng.integers(1, 30, n)
    return Features.from_arrays(vectors=pool.astype(np.float32), lengths=lengths), Features.from_arrays(vectors=goal.astype(np.float32))


@pytest.mark.parametrize("rule", ["capacity", "layers"])
def test_cross_validation_keeps_most_rows_of_the_wanted_kinds_and_leaves_the_budget_unspent(rule: str) -> None:
    pool, goal = kinds()
    selection = Transport(size="cross_validated", rule=rule).select(pool, Budget(amount=600), target=goal).validate(pool, Budget(amount=600))
    assert 60 < len(selection) < 260
    assert np.mean(selection.indices % 8 < 3) > 0.8
    more = Transport(size="cross_validated", rule=rule).select(pool, Budget(amount=500.0), target=goal)
    assert more.indices.tolist() == selection.indices.tolist()


@pytest.mark.parametrize("rule", ["capacity", "layers"])
def test_cross_validation_never_passes_the_budget_in_any_unit(rule: str) -> None:
    pool, goal = kinds()
    selector = Transport(size="cross_validated", rule=rule)
    for budget in (Budget(amount=0), Budget(amount=1), Budget(amount=25), Budget(amount=0.05, unit="fraction"), Budget(amount=300, unit="tokens")):
        selection = selector.select(pool, budget, target=goal).validate(pool, budget)
        costs, left = budget.costs(pool)
        assert (len(selection) == 0) == (budget.amount == 0)
        assert left - costs[selection.indices].sum() < costs.max()
    asked = len(selector.select(pool, Budget(amount=600), target=goal))
    assert len(selector.select(pool, Budget(amount=float(pool.lengths.sum()), unit="tokens"), target=goal)) == asked


def test_cross_validation_stores_the_costs_of_every_fold_and_stops_after_its_patience() -> None:
    pool, goal = kinds()
    for patience in (1, 4):
        curves = Transport(size="cross_validated", folds=5, patience=patience).select(pool, Budget(amount=600), target=goal).curves
        folds = [values for name, values in curves.items() if "fold" in name]
        assert len(folds) == 5
        assert all(len(values) - 1 - int(np.argmin(values)) == patience for values in folds)


def test_cross_validation_does_not_depend_on_order_seed_workers_or_storage() -> None:
    pool, goal = kinds(300, 20)
    selector = Transport(size="cross_validated", weights="potential")
    once = selector.select(pool, Budget(amount=200), target=goal)
    rng = np.random.default_rng(3)
    moved, other_goal = subset(pool, rng.permutation(300)), subset(goal, rng.permutation(20))
    again = selector.select(moved, Budget(amount=200), target=other_goal, context=Context(seed=9, cluster=Backwards()))
    stored = selector.select(replace(pool, vectors=OnDisk(pool.vectors)), Budget(amount=200), target=goal)
    for other, rows in ((again, moved), (stored, pool)):
        assert pool.ids[once.indices].tolist() == rows.ids[other.indices].tolist()
        assert np.allclose(once.weights, other.weights)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (5, 1), (1, 4), (40, 2), (12, 12)])
def test_cross_validation_works_for_very_few_rows_and_target_rows(n: int, m: int) -> None:
    pool, goal = problem(n, m)
    selection = chosen(pool, goal, n, size="cross_validated")
    assert 1 <= len(selection) <= n
    certificate = proven(selection)
    again = Transport(size="cross_validated").certify(
        Features.from_arrays(vectors=pool), Budget(amount=n), selection.indices, target=Features.from_arrays(vectors=goal)
    )
    assert again is not None and certificate.bound <= certificate.objective + 1e-9
    for name in ("objective", "bound", "gap"):
        assert getattr(again, name) == pytest.approx(getattr(certificate, name), abs=1e-6)


def test_a_target_row_alone_asks_for_its_nearest_row() -> None:
    pool, goal = problem(40, 1)
    assert kept(pool, goal, 40, size="cross_validated") == [int(distances(pool, goal)[:, 0].argmin())]
