"""The bandit finds the clusters that resemble the target, and keeps only rows that it has scored."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from curate.core import Budget, Features, Selection
from curate.errors import CurateError
from curate.interfaces import Context
from curate.selectors.bandit import Bandit
from curate.testing import check_selector, sample_features

CHANCES = np.linspace(0.1, 0.9, 9)


class Counted:
    """A similarity that remembers which rows were read."""

    def __init__(self, values: NDArray[np.float64]) -> None:
        self._values, self.read = values, list[int]()
        self.shape, self.dtype = values.shape, values.dtype

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, rows: Any) -> NDArray[np.float64]:
        self.read += np.arange(len(self))[rows].ravel().tolist()
        return self._values[rows]


def planted(per_arm: int, seed: int = 0) -> tuple[Features, NDArray[np.int64]]:
    """Clusters far from one another whose rows are like the target (1) with a chance of their own, and not at all (0) otherwise."""
    generator = np.random.default_rng(seed)
    arm = np.repeat(np.arange(len(CHANCES)), per_arm)
    vectors = np.eye(len(CHANCES))[arm] + 0.01 * generator.normal(size=(len(arm), len(CHANCES)))
    alike = (generator.random(len(arm)) < CHANCES[arm]).astype(np.float64)
    return Features.from_arrays(vectors=vectors.astype(np.float32), similarity=alike[:, None]), arm


def run(pool: Features, rows: int, seed: int = 0, **fields: Any) -> Selection:
    selector = Bandit(**{"oversample": 1.0, "draws": 1, "clusters": len(CHANCES), "neighbour_distance": 0.0, **fields})
    return selector.select(pool, Budget(amount=rows), context=Context(seed=seed))


@pytest.mark.parametrize(
    "fields",
    [{"oversample": 1.0}, {"clusters": 5, "alpha": 0.0}, {"neighbour_distance": 2.0, "draws": 1}, {"alpha": 1e6, "oversample": 1e6}, {"clusters": 100_000}],
)
def test_other_fields_keep_the_contract(fields: dict[str, Any]) -> None:
    check_selector(Bandit(**fields))


def test_a_given_similarity_keeps_the_contract() -> None:
    plain = sample_features(40)
    generator = np.random.default_rng(0)
    alike = {"similarity": generator.normal(size=(40, 5)), "scores": plain.scores, "content": plain.content, "supervised": plain.supervised}
    named = {"ids": plain.ids.tolist(), "groups": plain.groups.tolist(), "lengths": plain.lengths}
    target = Features.from_arrays(ids=[f"goal-{i}" for i in range(5)])
    pool = Features.from_arrays(vectors=plain.vectors, **alike, **named)
    kept = Bandit(oversample=100.0).select(pool, Budget(amount=4), target=target).indices
    assert kept.tolist() == np.argsort(-alike["similarity"].mean(axis=1))[:4].tolist()
    order = generator.permutation(5)
    moved = Features.from_arrays(vectors=plain.vectors, **{**alike, "similarity": alike["similarity"][:, order]}, **named)
    swapped = Features.from_arrays(ids=[f"goal-{i}" for i in order])
    for field in (1.0, 3.0):
        same = (Bandit(oversample=field).select(*case[:1], Budget(amount=9), target=case[1]).indices.tolist() for case in ((pool, target), (moved, swapped)))
        assert next(same) == next(same)


@pytest.mark.parametrize("seed", range(4))
def test_regret_on_planted_bernoulli_arms_grows_like_a_logarithm(seed: int) -> None:
    pool, arm = planted(4000, seed)

    def regret(rows: int, **fields: Any) -> float:
        return float((CHANCES.max() - CHANCES[arm[run(pool, rows, seed, **fields).indices]]).sum())

    short, long = regret(500), regret(4000)
    assert long < 3.2 * short  # eight times the rows: linear would be 8, a root 2.8, a logarithm less than 2
    assert long < 0.25 * regret(4000, alpha=1e6)


def test_the_regret_curve_is_that_of_the_arms_pulled() -> None:
    pool, arm = planted(300)
    chosen = run(pool, 1000)
    scored = chosen.curves["reward"]
    labels = chosen.curves["arm"].astype(int)
    means = {label: scored[labels == label].mean() for label in set(labels)}
    ranked = sorted(means.values(), reverse=True)
    best = np.repeat(ranked, 300)[:1000]
    np.testing.assert_allclose(chosen.curves["regret"], np.cumsum(best - [means[label] for label in labels]))
    assert len(scored) == 1000 and chosen.curves["regret"][-1] < 0.2 * 1000 * (0.9 - 0.5)


def test_without_exploration_the_best_mean_is_always_pulled() -> None:
    pool, _ = planted(500)
    chosen = run(pool, 300, alpha=0.0)
    rewards, arms = chosen.curves["reward"], chosen.curves["arm"].astype(int)
    assert sorted(arms[:9]) == list(range(9))
    for step in range(9, 300):
        means = [rewards[:step][arms[:step] == label].mean() for label in range(9)]
        assert arms[step] == int(np.argmax(means))


def test_with_endless_exploration_all_arms_are_pulled_alike() -> None:
    pool, _ = planted(500)
    counts = np.bincount(run(pool, 450, alpha=1e6).curves["arm"].astype(int))
    assert counts.tolist() == [50] * 9


@pytest.mark.parametrize("unit", ["rows", "tokens"])
def test_what_is_kept_is_what_was_scored(unit: Any) -> None:
    pool, _ = planted(200)
    seen = Counted(np.asarray(pool.similarity))
    lengths = np.random.default_rng(1).integers(1, 50, len(pool))
    watched = Features(pool.ids, lengths, pool.vectors, similarity=seen, supervised=lengths)
    chosen = Bandit(oversample=3.0).select(watched, Budget(amount=95, unit=unit))
    assert set(chosen.indices.tolist()) <= set(seen.read)
    assert len(seen.read) == len(set(seen.read)) == len(chosen.curves["reward"])
    assert len(seen.read) == 285 if unit == "rows" else 285 <= lengths[seen.read].sum() < 335


def test_rows_of_an_arm_are_drawn_at_random_and_not_by_their_ids() -> None:
    pool, arm = planted(200)
    chosen = [run(pool, 150, seed).indices for seed in range(3)]
    places = [rows[arm[rows] == 8] - np.flatnonzero(arm == 8)[0] for rows in chosen]
    assert len({tuple(sorted(rows.tolist())) for rows in places}) == 3
    assert all(60 < rows.mean() < 140 and len(rows) < 150 for rows in places)


def test_the_order_of_target_columns_changes_no_digit() -> None:
    values = np.array([[1e17, 1.0, -1e17], [0.1, 0.2, 0.3], [1.0, 1e17, -1e17]])
    found = []
    for order in ([0, 1, 2], [1, 0, 2], [2, 1, 0]):
        pool = Features.from_arrays(vectors=np.eye(3), similarity=values[:, order])
        target = Features.from_arrays(ids=[f"goal-{i}" for i in order])
        gains = Bandit().select(pool, Budget(amount=3), target=target).gains
        found.append(np.asarray(gains).tolist())
    assert found[0] == found[1] == found[2]


def test_more_scoring_keeps_better_rows_and_beats_random() -> None:
    pool, _ = planted(200)
    alike = np.asarray(pool.similarity).ravel()
    kept = [alike[Bandit(oversample=factor, draws=4).select(pool, Budget(amount=300)).indices].mean() for factor in (1.0, 1.5, 6.0)]
    assert alike.mean() + 0.1 < kept[0] < kept[1] <= kept[2] == 1.0


def test_near_arms_spare_each_other_pulls() -> None:
    generator = np.random.default_rng(0)
    arm = np.repeat(np.arange(40), 50)
    vectors = np.zeros((2000, 42))
    vectors[np.arange(2000), arm // 20] = 10.0  # two bundles of twenty near arms, one of them like the target
    vectors[np.arange(2000), 2 + arm] = 1.0
    alike = (arm < 20) + 0.01 * generator.normal(size=2000)
    pool = Features.from_arrays(vectors=vectors, similarity=alike[:, None])

    def good(distance: float) -> float:
        chosen = Bandit(clusters=40, draws=2, oversample=1.0, neighbour_distance=distance, alpha=0.1).select(pool, Budget(amount=80))
        return float(alike[chosen.indices].mean())

    assert good(0.2) > 0.9 > good(0.0)


def test_a_similarity_of_the_wrong_shape_or_that_is_not_finite_is_refused() -> None:
    vectors = np.eye(4)
    target = Features.from_arrays(ids=["a", "b"])
    with pytest.raises(CurateError, match="2 columns"):
        Bandit().select(Features.from_arrays(vectors=vectors, similarity=np.ones((4, 3))), Budget(amount=2), target=target)
    broken = Features(**{**vars(Features.from_arrays(vectors=vectors)), "similarity": np.array([[1.0], [np.nan], [1.0], [1.0]])})
    with pytest.raises(CurateError, match="similarity of row 1 is not finite"):
        Bandit(oversample=9.0).select(broken, Budget(amount=2))
    with pytest.raises(CurateError, match="bandit needs a target"):
        Bandit().select(Features.from_arrays(vectors=vectors), Budget(amount=2))
    with pytest.raises(CurateError, match="width 4, target vectors 3"):
        Bandit().select(Features.from_arrays(vectors=vectors), Budget(amount=2), target=Features.from_arrays(vectors=np.eye(3)))
