"""The expected worth of the nearest kept rows and its gradient are exact, and the weights that climb it put harmful rows last."""

from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from curate.core import Budget, Features
from curate.errors import DataError
from curate.multilinear import mean_over_lists, multilinear
from curate.selectors.multilinear import Multilinear
from curate.testing import check_selector, sample_features

Numbers = NDArray[np.float64]


def enumerated(present: Numbers, utilities: Numbers, neighbours: int) -> float:
    """U of one list by all 2^L sets of rows that are there."""
    total = 0.0
    for there in product((0, 1), repeat=len(present)):
        chance = float(np.prod(np.where(there, present, 1 - present)))
        total += chance * sum([u for u, is_there in zip(utilities, there, strict=True) if is_there][:neighbours])
    return total / neighbours


def at(present: Numbers, place: int, value: float) -> Numbers:
    moved = present.copy()
    moved[place] = value
    return moved


@pytest.mark.parametrize("neighbours", [1, 2, 3, 9, 20])
@pytest.mark.parametrize("length", [1, 4, 9])
def test_the_value_and_the_gradient_are_those_of_all_sets_of_rows(length: int, neighbours: int) -> None:
    generator = np.random.default_rng(length)
    present, utilities = generator.random((3, length)), generator.normal(size=(3, length))
    present[0, 0], present[1, -1] = 0.0, 1.0
    found = multilinear(present, utilities, neighbours)
    for row in range(3):
        w, u = present[row], utilities[row]
        assert found.value[row] == pytest.approx(enumerated(w, u, neighbours), abs=1e-12)
        for place in range(length):
            slope = enumerated(at(w, place, 1.0), u, neighbours) - enumerated(at(w, place, 0.0), u, neighbours)
            assert found.gradient[row, place] == pytest.approx(slope, abs=1e-12)
        counts = [np.prod(np.where(there, w, 1 - w)) for there in product((0, 1), repeat=length) if sum(there) < neighbours]
        assert found.short[row] == pytest.approx(sum(counts), abs=1e-12)


def test_a_list_with_too_few_rows_loses_all_that_a_row_was_worth() -> None:
    assert multilinear(np.full((1, 1), 0.25), np.full((1, 1), 3.0), 4).gradient[0, 0] == 0.75


def test_lists_are_worked_on_in_parts_without_changing_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    present, utilities = generator.random((7, 12)), generator.random((7, 12))
    whole = multilinear(present, utilities, 3)
    monkeypatch.setattr("curate.multilinear._TABLE", 13 * 3 * 2)
    parts = multilinear(present, utilities, 3)
    assert np.array_equal(whole.value, parts.value) and np.array_equal(whole.gradient, parts.gradient) and np.array_equal(whole.short, parts.short)


def test_gradients_by_place_are_averaged_at_their_rows() -> None:
    assert mean_over_lists(np.array([[2, 0], [2, 1]]), np.array([[1.0, 2.0], [3.0, 4.0]]), 4).tolist() == [1.0, 2.0, 2.0, 0.0]


def retrieval(seed: int, rows: int = 8, targets: int = 3) -> tuple[Features, Features]:
    generator = np.random.default_rng(seed)
    pool = Features.from_arrays(similarity=generator.random((rows, targets)), scores=generator.random(rows))
    return pool, Features.from_arrays(ids=[f"t{i}" for i in range(targets)])


def test_the_ascent_ends_where_no_single_weight_helps_and_near_the_best_of_all_sets() -> None:
    ratios = []
    for seed in range(12):
        pool, target = retrieval(seed)
        scores = np.asarray(pool.scores)
        utilities = (scores - scores.min()) / np.ptp(scores)
        lists = np.argsort(-np.asarray(pool.similarity), axis=0, kind="stable").T
        worth = {there: np.mean([utilities[each[np.asarray(there)[each]]][:2].sum() / 2 for each in lists]) for there in product((False, True), repeat=8)}
        kept = Multilinear(neighbours=2, steps=300, rate=1.0, weights="importance").select(pool, Budget(amount=8), target=target)
        curve = kept.curves["utility"]
        assert (np.diff(kept.weights) <= 0).all()
        assert curve[0] == pytest.approx(multilinear(np.full((3, 8), 0.5), utilities[lists], 2).value.mean(), abs=1e-12)
        weights = np.empty(8)
        weights[kept.indices] = np.where(kept.weights <= 0.0100001, 0, kept.weights)
        chances = {there: np.prod(np.where(there, weights, 1 - weights)) for there in worth}
        assert curve[-1] == curve.max() == pytest.approx(sum(chances[there] * worth[there] for there in worth), abs=1e-6)
        for row in range(8):
            ends = [sum(np.prod(np.delete(np.where(s, weights, 1 - weights), row)) * worth[s] for s in worth if s[row] == end) for end in (False, True)]
            assert max(ends) <= curve[-1] + 1e-6
        ratios.append(curve.max() / max(worth.values()))
    assert np.mean(ratios) > 0.98 and np.mean(np.asarray(ratios) > 1 - 1e-6) > 0.6


def test_a_rate_that_is_too_large_is_halved_until_the_ascent_goes_on() -> None:
    for seed in (11, 16):
        pool, target = retrieval(seed, rows=30, targets=5)
        kept = (Multilinear(neighbours=3, steps=200, rate=rate).select(pool, Budget(amount=30), target=target) for rate in (1.0, 0.1))
        bold, careful = (each.curves["utility"] for each in kept)
        assert bold[-1] == pytest.approx(careful[-1], abs=0.02) and (np.diff(bold) >= 0).all()


def test_rows_that_mislead_come_last_and_rows_that_no_target_row_reaches_come_between() -> None:
    generator = np.random.default_rng(0)
    alike = np.concatenate([np.sort(generator.uniform(0.8, 1.0, 40))[::-1], generator.uniform(-1, 0, 200)])[:, None]
    scores = np.concatenate([np.tile([1.0, 0.0], 20), np.full(200, 0.5)])
    pool = Features.from_arrays(similarity=alike, scores=scores)
    order = Multilinear(neighbours=4).select(pool, Budget(amount=240), target=Features.from_arrays(ids=["t"])).indices
    assert set(order[:4].tolist()) == {0, 2, 4, 6} and {1, 3, 5} <= set(order[-15:].tolist())


def test_scores_by_scale_and_by_sign_say_the_same() -> None:
    pool, target = retrieval(1, rows=30)
    scores = np.asarray(pool.scores)
    plain = Multilinear().select(pool, Budget(amount=30), target=target).indices.tolist()
    turned = Features.from_arrays(similarity=pool.similarity, scores=5 - 300 * scores)
    assert Multilinear(largest=False).select(turned, Budget(amount=30), target=target).indices.tolist() == plain
    assert Multilinear().select(turned, Budget(amount=30), target=target).indices.tolist() != plain
    bare = Features.from_arrays(similarity=pool.similarity)
    named = Multilinear(utility="similarity").select(pool, Budget(amount=30), target=target).indices.tolist()
    assert Multilinear().select(bare, Budget(amount=30), target=target).indices.tolist() == named != plain


def test_the_group_utility_keeps_rows_of_the_target_rows_own_group() -> None:
    generator = np.random.default_rng(2)
    groups = np.where(np.arange(60) % 2, "odd", "even")
    pool = Features.from_arrays(similarity=generator.random((60, 4)), groups=groups.tolist())
    target = Features.from_arrays(ids=["a", "b", "c", "d"], groups=["odd"] * 4)
    kept = Multilinear(utility="group", neighbours=5).select(pool, Budget(amount=15), target=target)
    assert set(groups[kept.indices]) == {"odd"} and kept.certificate is not None and kept.certificate.gap == 0
    with pytest.raises(DataError, match="no group of the target, such as 'none'"):
        Multilinear(utility="group").select(pool, Budget(amount=3), target=Features.from_arrays(ids=["a", "b", "c", "d"], groups=["none"] * 4))
    with pytest.raises(DataError, match="needs groups"):
        Multilinear(utility="group").select(pool, Budget(amount=3))


def test_rows_of_a_group_share_the_mean_of_what_their_own_weights_would_be_in_one_step() -> None:
    pool, target = retrieval(3, rows=12)
    pool = Features.from_arrays(similarity=pool.similarity, scores=pool.scores, groups=["a", "b", "c"] * 4)
    kept = Multilinear(share="group", weights="importance", rate=0.01, neighbours=3).select(pool, Budget(amount=12), target=target)
    shared = np.empty(12)
    shared[kept.indices] = kept.weights
    alone = Multilinear(steps=0, neighbours=3).select(pool, Budget(amount=12), target=target)
    assert alone.gains is not None
    slopes = np.empty(12)
    slopes[alone.indices] = alone.gains
    means = [slopes[group::3].mean() for group in range(3)]
    assert [len(set(shared[group::3].tolist())) for group in range(3)] == [1, 1, 1] and len(set(shared.tolist())) == 3
    assert np.argsort(shared[:3]).tolist() == np.argsort(means).tolist()


def test_a_list_is_read_as_far_as_it_matters_however_many_of_its_first_rows_are_pruned() -> None:
    generator = np.random.default_rng(4)
    scores = np.concatenate([np.zeros(25), generator.uniform(0.5, 1, 125)])
    pool = Features.from_arrays(similarity=np.linspace(1, 0, 150)[:, None], scores=scores)
    kept = Multilinear(neighbours=2, steps=300).select(pool, Budget(amount=10), target=Features.from_arrays(ids=["t"]))
    assert (scores[kept.indices] > 0).all() and kept.curves["utility"][-1] > 0.9


def test_rows_that_are_equally_near_count_in_the_order_of_their_ids() -> None:
    pool, target = retrieval(6, rows=40)
    pool = Features.from_arrays(similarity=np.round(np.asarray(pool.similarity), 1), scores=pool.scores)
    kept = Multilinear(neighbours=3).select(pool, Budget(amount=20), target=target)
    assert kept.certificate == Multilinear(neighbours=3).certify(pool, Budget(amount=20), kept.indices[::-1], target=target)


def test_the_certificate_bounds_every_set_of_rows_by_brute_force() -> None:
    pool, target = retrieval(5, rows=9)
    selector, budget = Multilinear(neighbours=2), Budget(amount=3)
    found = [selector.certify(pool, budget, np.flatnonzero(there), target=target) for there in product((0, 1), repeat=9) if sum(there) == 3]
    objectives = [each.objective for each in found if each is not None]
    mine = selector.select(pool, budget, target=target).certificate
    assert mine is not None and len(objectives) == 84 and mine.objective in objectives
    assert all(each is not None and each.bound == mine.bound for each in found) and max(objectives) <= mine.bound


@pytest.mark.parametrize("fields", [{"utility": "similarity", "metric": "inner"}, {"share": "group", "weights": "importance"}, {"neighbours": 100, "steps": 0}])
def test_other_fields_keep_the_contract(fields: dict[str, Any]) -> None:
    check_selector(Multilinear(**fields))


def test_the_group_utility_keeps_the_contract() -> None:
    pool = sample_features(40)
    target = Features.from_arrays(vectors=np.asarray(pool.vectors)[[3, 4, 8]], groups=["group-0", "group-1", "group-2"])
    check_selector(Multilinear(utility="group", steps=20), features=pool, target=target)
