"""Top-k by score, and by aggregated similarity."""

import numpy as np
import pytest

from curate.core import Budget, Features
from curate.errors import DataError
from curate.selectors.top_k import TopK


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


def test_features_with_nothing_to_rank_by_are_refused() -> None:
    with pytest.raises(DataError, match="scores, or a similarity"):
        TopK().select(Features.from_arrays(vectors=np.ones((3, 2))), Budget(amount=1))
