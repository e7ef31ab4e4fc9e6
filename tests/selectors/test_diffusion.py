"""Diffusion takes, greedily, the rows that reach most sets, and its certificate can be counted again."""

from typing import Any

import numpy as np
import pytest

from curate.cascade import neighbour_digraph, reverse_reachable
from curate.core import Budget, Features
from curate.interfaces import Context
from curate.selectors.diffusion import Diffusion
from curate.similarity import unit_rows
from curate.submodular.neighbours import exact_neighbours
from curate.testing import check_selector


def mixture(rows: int, seed: int = 0, width: int = 8) -> Features:
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(5, width))
    vectors = centres[generator.integers(0, 5, rows)] + 0.6 * generator.normal(size=(rows, width))
    return Features.from_arrays(vectors=vectors.astype(np.float32), lengths=generator.integers(1, 30, rows))


@pytest.mark.parametrize("fields", [{"neighbours": 1}, {"rounds": 300, "neighbours": 4}])
def test_other_fields_keep_the_contract(fields: dict[str, Any]) -> None:
    check_selector(Diffusion(**fields))


def test_rows_are_those_of_a_naive_greedy_over_the_same_sets() -> None:
    pool = mixture(200)
    chosen = Diffusion(neighbours=6, rounds=20).select(pool, Budget(amount=15), context=Context(seed=3))
    graph = neighbour_digraph(*exact_neighbours(unit_rows(pool), 7), 6)
    sets = reverse_reachable(graph, pool.ids, 3, range(50))  # 10,000 sets in all
    left = [set(sets.members[a:b].tolist()) for a, b in zip(sets.start[:-1], sets.start[1:], strict=True)]
    expected, gains = [], []
    for _ in range(15):
        counts = np.bincount([row for members in left for row in members], minlength=200)
        expected.append(int(np.argmax(counts)))
        gains.append(counts.max() / 50)
        left = [members for members in left if expected[-1] not in members]
    assert chosen.indices.tolist() == expected
    assert chosen.gains is not None and chosen.gains.tolist() == gains
    assert chosen.certificate is not None and chosen.certificate.objective == pytest.approx(sum(gains))


def test_the_certificate_orders_greedy_random_and_bound() -> None:
    pool = mixture(300)
    certificate = Diffusion().select(pool, Budget(amount=20)).certificate
    assert certificate is not None
    details = certificate.details
    assert details["random"] < certificate.objective < certificate.bound <= 300
    assert 0 < certificate.gap < 1
    assert certificate.objective >= (1 - 1 / np.e) * certificate.bound
    assert details["estimate"] < certificate.objective - 2 * details["standard_error"]  # greedy flatters itself on the sets that it saw
    assert 0.5 < details["proven_share"] < details["estimate"] / certificate.bound


def test_the_certificate_is_the_same_for_any_order_of_the_pool() -> None:
    pool = mixture(60)
    order = np.random.default_rng(0).permutation(60)
    moved = Features.from_arrays(vectors=np.asarray(pool.vectors)[order], ids=pool.ids[order].tolist(), lengths=pool.lengths[order])
    chosen = Diffusion().select(moved, Budget(amount=9))
    assert Diffusion().certify(moved, Budget(amount=9), chosen.indices) == chosen.certificate == Diffusion().select(pool, Budget(amount=9)).certificate
    worse = Diffusion().certify(moved, Budget(amount=9), np.arange(9))
    assert worse is not None and chosen.certificate is not None and worse.objective < chosen.certificate.objective <= worse.bound


def test_fresh_sets_agree_with_many_more_of_them() -> None:
    pool = mixture(150)
    chosen = Diffusion(rounds=60).select(pool, Budget(amount=10))
    graph = neighbour_digraph(*exact_neighbours(unit_rows(pool), 11), 10)
    exact = reverse_reachable(graph, pool.ids, 99, range(3000)).spread(chosen.indices)
    assert chosen.certificate is not None
    details = chosen.certificate.details
    assert abs(details["estimate"] - exact) < 4 * details["standard_error"]
    assert details["proven_share"] * chosen.certificate.bound < exact


def test_more_sets_choose_rows_of_larger_spread() -> None:
    pool = mixture(4000, width=16)
    graph = neighbour_digraph(*exact_neighbours(unit_rows(pool), 11), 10)
    judge = reverse_reachable(graph, pool.ids, 99, range(30))
    spread = [judge.spread(Diffusion(rounds=rounds).select(pool, Budget(amount=100)).indices) for rounds in (1, 40)]
    random = judge.spread(np.random.default_rng(0).choice(4000, 100, replace=False))
    assert random < spread[0] < spread[1]


def test_a_budget_in_tokens_prefers_reach_per_token() -> None:
    pool = mixture(200)
    short = Diffusion().select(pool, Budget(amount=200, unit="tokens"))
    assert pool.lengths[short.indices].mean() < 0.7 * pool.lengths.mean()
    assert short.certificate is not None and short.certificate.objective >= (1 - 1 / np.e) / 2 * short.certificate.bound


def test_every_cluster_gets_a_row_first() -> None:
    generator = np.random.default_rng(0)
    vectors = np.repeat(np.eye(6), 30, axis=0) + 0.05 * generator.normal(size=(180, 6))
    chosen = Diffusion().select(Features.from_arrays(vectors=vectors), Budget(amount=6)).indices
    assert sorted(chosen // 30) == list(range(6))
