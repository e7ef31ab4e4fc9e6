"""D4: what deduplication leaves, that clusters are made anew, and that typical rows go first."""

from typing import Any

import numpy as np
import pytest

from curate.core import Budget, Features
from curate.interfaces import Context
from curate.randomness import row_keys, uniform
from curate.redundancy import neighbourhoods, precedence
from curate.selectors.d4 import D4
from curate.similarity import unit_rows
from curate.testing import check_selector


def pool_of(rows: int, seed: int = 0) -> Features:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(8, 12))[rng.integers(8, size=rows)] + rng.normal(size=(rows, 12)) * rng.choice([0.1, 1.0], size=(rows, 1))
    return Features.from_arrays(vectors=vectors.astype(np.float32))


def test_the_order_is_that_of_the_two_steps_over_all_pairs() -> None:
    pool = pool_of(150)
    rows, ids = unit_rows(pool), pool.ids
    near = neighbourhoods(rows, row_keys(3, "d4 clusters", ids), 5, 5)
    rank = precedence(near, "hard", uniform(3, "d4 precedence", ids))
    alike = (rows.astype(np.float64) @ rows.astype(np.float64).T).astype(np.float32)
    level = np.where(rank[:, None] > rank[None, :], alike, -1).max(axis=1)
    by_level = np.argsort(level, kind="stable")
    left = np.sort(by_level[:90])
    again = neighbourhoods(rows[left], row_keys(3, "d4 prototypes", ids[left]), 5, 1)
    wanted = np.concatenate([left[np.argsort(again.typical, kind="stable")], by_level[90:]])
    chosen = D4(dedup_share=0.6, clusters=5, probes=5).select(pool, Budget(amount=150), context=Context(seed=3))
    assert chosen.indices.tolist() == wanted.tolist()


def test_rows_far_from_every_centre_come_before_the_typical_ones() -> None:
    rng = np.random.default_rng(1)
    typical = np.repeat(np.eye(6, 30), 30, axis=0) + 0.1 * rng.normal(size=(180, 30))
    odd = rng.normal(size=(20, 30))
    pool = Features.from_arrays(vectors=np.concatenate([typical, odd]).astype(np.float32))
    kept = D4(clusters=6).select(pool, Budget(amount=30)).indices
    assert (kept >= 180).sum() >= 16


def test_a_cluster_of_duplicates_pulls_no_centroid_in_the_second_clustering() -> None:
    rng = np.random.default_rng(2)
    spread = rng.normal(size=(60, 8))
    copies = np.tile(rng.normal(size=(1, 8)), (60, 1))
    pool = Features.from_arrays(vectors=np.concatenate([spread, copies]).astype(np.float32))
    kept = D4(dedup_share=1.0).select(pool, Budget(amount=61)).indices
    assert (kept >= 60).sum() == 1 and len(np.unique(kept[kept < 60])) == 60


def test_a_budget_beyond_the_share_goes_on_with_the_least_redundant() -> None:
    pool = pool_of(100, seed=4)
    half = D4(dedup_share=0.5).select(pool, Budget(amount=50))
    whole = D4(dedup_share=0.5).select(pool, Budget(amount=100))
    assert whole.indices[:50].tolist() == half.indices.tolist() and whole.prefix_consistent
    assert whole.certificate is None and len(np.unique(whole.indices)) == 100


@pytest.mark.parametrize("fields", [{"dedup_share": 0.3, "keep": "random"}, {"dedup_share": 1.0, "keep": "easy", "clusters": 2}, {"probes": 1}])
def test_other_fields_keep_the_contract(fields: dict[str, Any]) -> None:
    check_selector(D4(**fields))
