"""Top-k by score, and by aggregated similarity."""

from typing import Literal

import numpy as np
import pytest
from pydantic import ValidationError

from curate import similarity as service
from curate.core import Budget, Features
from curate.errors import ConfigError, DataError
from curate.selectors.top_k import TopK
from curate.similarity import similarity
from curate.testing import check_selector


def test_the_largest_scores_are_kept_in_order_and_the_smallest_on_request() -> None:
    scores = np.random.default_rng(0).normal(size=30)
    pool = Features.from_arrays(scores=scores)
    assert TopK().select(pool, Budget(amount=8)).indices.tolist() == np.argsort(-scores)[:8].tolist()
    assert TopK(largest=False).select(pool, Budget(amount=8)).indices.tolist() == np.argsort(scores)[:8].tolist()


def test_the_mean_is_taken_within_each_target_group_and_the_best_group_counts() -> None:
    alike = np.random.default_rng(1).normal(size=(40, 5))
    groups = ["x", "y", "x", "y", "y"]
    goal = Features.from_arrays(ids=list("abcde"), groups=groups)
    pool = Features.from_arrays(similarity=alike)
    value = np.maximum(alike[:, [0, 2]].mean(axis=1), alike[:, [1, 3, 4]].mean(axis=1))
    assert TopK().select(pool, Budget(amount=9), target=goal).indices.tolist() == np.argsort(-value)[:9].tolist()
    nearest = TopK(aggregate="max").select(pool, Budget(amount=9), target=goal).indices
    assert nearest.tolist() == np.argsort(-alike.max(axis=1))[:9].tolist()


def values(alike: np.ndarray, groups: list[str], ids: list[str], weights: dict[str, float], aggregate: str) -> list[float]:
    """Of each pool row, from the definition, one number after the other."""
    found = []
    for row in alike:
        best = []
        for group in set(groups):
            mine = [(weights.get(i, 1.0), s) for i, g, s in zip(ids, groups, row, strict=True) if g == group]
            mean = sum(w * s for w, s in mine) / sum(w for w, _ in mine)
            best.append(weights.get(group, 1.0) * (mean if aggregate == "mean" else max(w * s for w, s in mine)))
        found.append(max(best))
    return found


@pytest.mark.parametrize("aggregate", ["mean", "max"])
@pytest.mark.parametrize("seed", range(4))
def test_weights_multiply_a_group_and_share_out_its_mean_among_its_rows(aggregate: Literal["mean", "max"], seed: int) -> None:
    rng = np.random.default_rng(seed)
    alike = rng.normal(size=(50, 6))
    ids, groups = list("fedcba"), ["maths", "code", "maths", "code", "law", "maths"]
    weights = {"maths": 0.5, "law": 2.0, "c": 7.0, "e": 0.1}
    goal, pool = Features.from_arrays(ids=ids, groups=groups), Features.from_arrays(similarity=alike)
    kept = TopK(aggregate=aggregate, target_weights=weights).select(pool, Budget(amount=20), target=goal)
    wanted = np.asarray(values(alike, groups, ids, weights, aggregate))
    assert kept.indices.tolist() == np.argsort(-wanted)[:20].tolist()
    assert kept.gains == pytest.approx(wanted[kept.indices])
    assert kept.indices.tolist() != TopK(aggregate=aggregate).select(pool, Budget(amount=20), target=goal).indices.tolist()


def test_a_weight_that_names_nothing_or_two_things_is_refused_in_one_line() -> None:
    goal = Features.from_arrays(ids=["a", "b"], groups=["b", "c"])
    pool = Features.from_arrays(similarity=np.ones((4, 2)))
    with pytest.raises(ConfigError, match=r"'maths' is no target row and none of its groups \(b, c\)"):
        TopK(target_weights={"maths": 2.0}).select(pool, Budget(amount=1), target=goal)
    with pytest.raises(ConfigError, match="'b' is both a target row and a target group"):
        TopK(target_weights={"b": 2.0}).select(pool, Budget(amount=1), target=goal)
    with pytest.raises(DataError, match="no target was given"):
        TopK(target_weights={"b": 2.0}).select(pool, Budget(amount=1))
    with pytest.raises(ValidationError):
        TopK(target_weights={"b": 0.0})


@pytest.mark.parametrize("aggregate", ["mean", "max"])
@pytest.mark.parametrize(("block", "entries"), [(1, 1 << 21), (7, 1 << 21), (2048, 30)])
def test_blocks_of_any_size_give_the_rows_of_the_whole_matrix(
    monkeypatch: pytest.MonkeyPatch, aggregate: Literal["mean", "max"], block: int, entries: int
) -> None:
    rng = np.random.default_rng(block)
    vectors = rng.normal(size=(90, 4))
    vectors[30:60] = vectors[:30] * 3
    pool = Features.from_arrays(vectors=vectors)
    goal = Features.from_arrays(vectors=rng.normal(size=(7, 4)), groups=list("abcabca"))
    alike = similarity(pool, goal).T.astype(np.float64)
    value = np.asarray(values(alike, list("abcabca"), goal.ids.tolist(), {}, aggregate)).round(12)
    monkeypatch.setattr(service, "_BLOCK", block)
    monkeypatch.setattr(service, "_ENTRIES", entries)
    for k in (1, 40, 90):
        kept = TopK(aggregate=aggregate).select(pool, Budget(amount=k), target=goal)
        assert kept.indices.tolist() == np.argsort(-value, kind="stable")[:k].tolist()


def test_a_target_without_groups_is_one_group() -> None:
    alike = np.random.default_rng(2).normal(size=(30, 3))
    pool = Features.from_arrays(similarity=alike)
    goal = Features(np.asarray(["a", "b", "c"]), np.ones(3, np.int64))
    assert TopK().select(pool, Budget(amount=9), target=goal).indices.tolist() == np.argsort(-alike.mean(axis=1))[:9].tolist()


def test_features_with_nothing_to_rank_by_are_refused() -> None:
    with pytest.raises(DataError, match="scores, or a similarity"):
        TopK().select(Features.from_arrays(vectors=np.ones((3, 2))), Budget(amount=1))


def test_it_keeps_the_contract_without_scores() -> None:
    from dataclasses import replace

    from curate.testing import sample_features

    bare = replace(sample_features(40), scores=None)
    for selector in (TopK(), TopK(aggregate="max"), TopK(metric="inner"), TopK(largest=False)):
        check_selector(selector, features=bare)
