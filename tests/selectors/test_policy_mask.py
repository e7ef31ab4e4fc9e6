"""The learnt mask against every mask, against top-k, and against greedy."""

import tracemalloc
from dataclasses import replace
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pytest

from curate.core import Budget, Features
from curate.interfaces import Context
from curate.masks.diversity import Form
from curate.masks.objective import MaskObjective
from curate.masks.policy import Policy
from curate.selectors.policy_mask import PolicyMask
from curate.testing import check_selector, sample_features


def pool(n: int, seed: int = 0) -> Features:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(6, 8))[rng.integers(6, size=n)] + 0.6 * rng.normal(size=(n, 8)) + 0.3
    return Features.from_arrays(vectors=vectors, scores=rng.normal(size=n), lengths=rng.integers(1, 20, n))


def every_value(rows: Features, size: int, weight: float, form: Form, anchors: int = 64) -> np.ndarray:
    """J of every mask of the size."""
    assert rows.scores is not None
    held = MaskObjective.of(rows, Budget(amount=size), np.asarray(rows.scores, np.float64), weight, form, anchors)
    assert held is not None
    return np.asarray([held.value(np.asarray(mask)) for mask in combinations(range(len(rows)), size)])


@pytest.mark.parametrize(
    "fields",
    [
        {"policy": "bernoulli", "restarts": 1},
        {"policy": "bernoulli", "credit": "shared", "diversity": "facility", "anchors": 7, "restarts": 1},
        {"diversity": "covariance", "restarts": 1},
        {"diversity": "facility", "largest": False, "restarts": 1},
        {"partition_rows": 9, "restarts": 2, "steps": 3},
        {"partition_rows": 5, "restarts": 1, "steps": 3, "policy": "bernoulli"},
        {"quality_weight": 1.0, "restarts": 1},
    ],
)
def test_every_policy_diversity_and_partition_keeps_the_contract(fields: dict[str, Any]) -> None:
    check_selector(PolicyMask(**{"steps": 8, **fields}))


@pytest.mark.parametrize("policy", ["plackett_luce", "bernoulli"])
@pytest.mark.parametrize("credit", ["marginal", "shared"])
@pytest.mark.parametrize("largest", [True, False])
def test_with_quality_alone_it_converges_to_top_k(policy: Policy, credit: Literal["marginal", "shared"], largest: bool) -> None:
    rows = pool(80)
    assert rows.scores is not None
    chosen = PolicyMask(quality_weight=1.0, policy=policy, credit=credit, largest=largest).select(rows, Budget(amount=15))
    assert set(chosen.indices.tolist()) == set(np.argsort(-rows.scores if largest else rows.scores)[:15].tolist())
    assert chosen.certificate is not None and chosen.certificate.gap == pytest.approx(0, abs=1e-9)


def test_from_uniform_logits_quality_alone_comes_to_top_k_too() -> None:
    rows = pool(80)
    assert rows.scores is not None
    chosen = PolicyMask(quality_weight=1.0, temperature=1e6).select(rows, Budget(amount=15))
    assert set(chosen.indices.tolist()) == set(np.argsort(-rows.scores)[:15].tolist())
    assert chosen.curves["objective"][0] < chosen.curves["objective"][-1] - 5


@pytest.mark.parametrize("form", ["pairwise", "covariance", "facility"])
@pytest.mark.parametrize("policy", ["plackett_luce", "bernoulli"])
def test_with_diversity_alone_three_of_ten_rows_are_nearly_the_best_three(form: Form, policy: Policy) -> None:
    reached = []
    for seed in range(5):
        rows = pool(10, seed)
        certificate = PolicyMask(quality_weight=0.0, diversity=form, policy=policy).select(rows, Budget(amount=3)).certificate
        every = every_value(rows, 3, 0.0, form)
        assert certificate is not None and certificate.objective <= every.max() + 1e-5
        assert form != "facility" or certificate.objective >= 0.95 * every.max()
        reached.append((certificate.objective - every.mean()) / (every.max() - every.mean()))
    assert min(reached) > 0.75 and np.mean(reached) > (0.95 if policy == "plackett_luce" else 0.93)


@pytest.mark.parametrize("weight", [0.1, 0.5, 0.9])
def test_on_mixed_objectives_it_nears_the_best_of_every_mask(weight: float) -> None:
    for seed in range(4):
        rows = pool(12, seed)
        certificate = PolicyMask(quality_weight=weight).select(rows, Budget(amount=4)).certificate
        every = every_value(rows, 4, weight, "pairwise")
        assert certificate is not None and certificate.objective <= every.max() + 1e-5
        assert every.max() <= certificate.bound + 1e-5
        assert certificate.objective - every.mean() >= 0.95 * (every.max() - every.mean())


@pytest.mark.parametrize("form", ["pairwise", "covariance", "facility"])
@pytest.mark.parametrize("budget", [Budget(amount=60), Budget(amount=600, unit="tokens")])
def test_it_comes_within_a_hair_of_greedy_or_beats_it_and_says_which(form: Form, budget: Budget) -> None:
    certificate = PolicyMask(diversity=form, restarts=2).select(pool(600), budget).certificate
    assert certificate is not None and 0 <= certificate.gap < 0.5
    details = certificate.details
    scale = details["greedy"] - details["random"]
    assert certificate.objective - details["random"] >= 0.97 * scale > 0
    assert details["lead"] == pytest.approx(details["mean"] - details["greedy"])
    reach = 12.7062 * details["deviation"] / 2**0.5  # Student's t of one degree of freedom
    assert (details["lead_low"], details["lead_high"]) == pytest.approx((details["lead"] - reach, details["lead"] + reach), abs=1e-4)


def test_curves_hold_the_climb_and_the_spread_over_restarts() -> None:
    chosen = PolicyMask(steps=20, restarts=4).select(pool(300), Budget(amount=30))
    assert chosen.certificate is not None
    assert {name: len(curve) for name, curve in chosen.curves.items()} == {"objective": 20, "best": 20, "spread": 4}
    assert chosen.certificate.objective == pytest.approx(chosen.curves["spread"].max())
    assert chosen.curves["best"][-1] == pytest.approx(chosen.certificate.objective, abs=1e-4)
    assert chosen.curves["objective"][-5:].mean() > chosen.curves["objective"][0]
    assert chosen.certificate.details["deviation"] == pytest.approx(chosen.curves["spread"].std(ddof=1))


def test_parts_learnt_apart_come_near_the_whole_and_keep_exactly_the_budget() -> None:
    rows = pool(2000)
    for budget in (Budget(amount=101), Budget(amount=1000, unit="tokens")):
        whole, apart = (PolicyMask(partition_rows=size, restarts=2).select(rows, budget).validate(rows, budget) for size in (2000, 300))
        assert whole.certificate is not None and apart.certificate is not None
        assert apart.certificate.objective - apart.certificate.details["random"] > 0.9 * (whole.certificate.objective - whole.certificate.details["random"])
    assert len(PolicyMask(partition_rows=300, restarts=2).select(rows, Budget(amount=101))) == 101


def test_the_same_seed_gives_the_same_rows_and_the_certificate_can_be_recomputed_to_the_last_detail() -> None:
    rows, budget = pool(500), Budget(amount=50)
    once, again, other = (PolicyMask(restarts=1, partition_rows=100).select(rows, budget, context=Context(seed=seed)) for seed in (4, 4, 5))
    assert once.indices.tolist() == again.indices.tolist() != other.indices.tolist()
    shuffle = np.random.default_rng(0).permutation(500)
    moved = replace(rows, **{name: np.asarray(getattr(rows, name))[shuffle] for name in ("ids", "lengths", "vectors", "scores", "groups", "supervised")})
    places = np.argsort(shuffle)[once.indices]
    recomputed = PolicyMask().certify(moved, budget, places)
    assert recomputed is not None and once.certificate is not None
    shared = {name: once.certificate.details[name] for name in recomputed.details}
    assert recomputed.details == pytest.approx(shared, abs=1e-9) and {"greedy", "mmr", "random"} <= set(shared)


def test_another_seed_draws_other_masks_of_a_pool_that_is_one_part() -> None:
    rows, budget = pool(100), Budget(amount=10)
    climbs = [PolicyMask(restarts=1).select(rows, budget, context=Context(seed=seed)).curves["objective"] for seed in (0, 1, -1)]
    assert all(not np.array_equal(one, other) for one, other in combinations(climbs, 2))


def test_a_mask_of_one_row_is_the_row_of_best_quality() -> None:
    rows = pool(30)
    assert rows.scores is not None
    assert PolicyMask().select(rows, Budget(amount=1)).indices.tolist() == [int(rows.scores.argmax())]


def test_equal_rows_leave_nothing_to_learn() -> None:
    rows = replace(sample_features(20), scores=np.ones(20), vectors=np.ones((20, 3)))
    chosen = PolicyMask().select(rows, Budget(amount=5))
    assert chosen.certificate is not None and np.ptp(chosen.curves["spread"]) == pytest.approx(0, abs=1e-6)


class Made:
    """Vectors that are computed when they are read, as those on disk are read."""

    def __init__(self, n: int, width: int) -> None:
        self._directions = np.random.default_rng(0).normal(size=(2048, width)).astype(np.float32)
        self.shape, self.dtype, self.ndim = (n, width), np.dtype(np.float32), 2

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        rows = np.arange(len(self))[key]
        return np.asarray(self._directions[rows % 2048] + self._directions[rows // 2048])


def test_memory_is_a_part_and_a_few_numbers_per_row_not_the_vectors() -> None:
    n, width = 100_000, 160
    rows = Features(np.arange(n).astype("U6"), np.ones(n, np.int64), Made(n, width), np.random.default_rng(1).normal(size=n))
    rows = replace(rows, ids=np.sort(rows.ids))
    tracemalloc.start()
    try:
        chosen = PolicyMask(partition_rows=2000, steps=2, samples=2, restarts=1).select(rows, Budget(amount=2000))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(chosen) == 2000
    assert peak < n * width * 4 / 2
