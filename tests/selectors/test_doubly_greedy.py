"""Doubly greedy against the greedy it is named for: the most alike pair, again and again."""

import numpy as np
import pytest

from curate import similarity as service
from curate.core import Budget, Features
from curate.interfaces import Selector
from curate.selectors.doubly_greedy import DoublyGreedy
from curate.selectors.knn_uniform import KnnUniform
from curate.selectors.round_robin import RoundRobin
from curate.selectors.softmax_mass import SoftmaxMass
from curate.selectors.top_k import TopK
from curate.similarity import similarity
from curate.testing import check_selector


def pairs(alike: np.ndarray, k: int) -> list[int]:
    """The row of the largest entry of (N, M), that row struck out, and again."""
    left = alike.astype(float).copy()
    kept = []
    for _ in range(k):
        row = int(np.argmax(left.max(axis=1)))
        kept.append(row)
        left[row] = -np.inf
    return kept


@pytest.mark.parametrize("seed", range(4))
def test_it_takes_the_most_alike_pair_of_a_target_row_and_a_free_row_every_time(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    pool, goal = Features.from_arrays(vectors=rng.normal(size=(70, 3)).round(1) + 0.01), Features.from_arrays(vectors=rng.normal(size=(5, 3)))
    alike = similarity(pool, goal).T
    monkeypatch.setattr(service, "_BLOCK", 9)
    kept = DoublyGreedy().select(pool, Budget(amount=25), target=goal)
    assert kept.indices.tolist() == pairs(alike, 25)
    assert kept.gains is not None and np.array_equal(kept.gains, alike.max(axis=1)[kept.indices])
    assert kept.indices.tolist() == TopK(aggregate="max").select(pool, Budget(amount=25), target=goal).indices.tolist()


@pytest.mark.parametrize("selector", [RoundRobin(), DoublyGreedy(), SoftmaxMass(), KnnUniform()], ids=lambda selector: str(selector.name))
def test_with_one_target_row_every_rule_of_similarity_gives_the_order_of_top_k(selector: Selector) -> None:
    rng = np.random.default_rng(3)
    pool, goal = Features.from_arrays(vectors=rng.normal(size=(80, 4))), Features.from_arrays(vectors=rng.normal(size=(1, 4)))
    for k in (1, 20, 80):
        wanted = TopK().select(pool, Budget(amount=k), target=goal).indices.tolist()
        assert selector.select(pool, Budget(amount=k), target=goal).indices.tolist() == wanted


def test_the_inner_product_keeps_the_contract() -> None:
    check_selector(DoublyGreedy(metric="inner"))
