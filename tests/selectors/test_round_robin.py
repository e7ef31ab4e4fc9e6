"""Round robin against a full search at every turn."""

from typing import Literal

import numpy as np
import pytest

from curate.core import Budget, Features
from curate.selectors.round_robin import RoundRobin
from curate.selectors.top_k import TopK


def turns(alike: np.ndarray, k: int, on_taken: str) -> list[int]:
    """Targets in turn; skip: best row not yet taken; lose_turn: next row of its list, kept only if it is not yet taken."""
    n, m = alike.shape
    lists = [np.argsort(-alike[:, j], kind="stable").tolist() for j in range(m)]
    kept: list[int] = []
    turn = 0
    while len(kept) < min(k, n):
        mine = lists[turn % m]
        if on_taken == "skip":
            kept.append(next(row for row in mine if row not in kept))
        elif mine and (row := mine.pop(0)) not in kept:
            kept.append(row)
        turn += 1
    return kept


@pytest.mark.parametrize("on_taken", ["skip", "lose_turn"])
@pytest.mark.parametrize("seed", range(5))
def test_every_turn_takes_what_a_full_search_would(on_taken: Literal["skip", "lose_turn"], seed: int) -> None:
    alike = np.random.default_rng(seed).integers(0, 8, size=(60, 4)).astype(float)
    for k in (1, 5, 23, 60):
        kept = RoundRobin(on_taken=on_taken).select(Features.from_arrays(similarity=alike), Budget(amount=k))
        assert kept.indices.tolist() == turns(alike, k, on_taken)


def test_with_one_target_row_it_is_top_k() -> None:
    pool = Features.from_arrays(vectors=np.random.default_rng(0).normal(size=(50, 4)))
    goal = Features.from_arrays(vectors=np.ones((1, 4)))
    once = RoundRobin().select(pool, Budget(amount=12), target=goal)
    assert once.indices.tolist() == TopK().select(pool, Budget(amount=12), target=goal).indices.tolist()


def test_the_gains_are_the_similarities_of_the_takers() -> None:
    alike = np.random.default_rng(0).normal(size=(20, 3))
    kept = RoundRobin().select(Features.from_arrays(similarity=alike), Budget(amount=9))
    assert kept.gains is not None
    assert kept.gains.tolist() == [alike[row, turn % 3] for turn, row in enumerate(kept.indices)]


def test_it_serves_every_mode_of_a_target_where_the_mean_serves_one() -> None:
    rng = np.random.default_rng(0)
    modes = np.eye(3)[[0, 0, 0, 1, 2]]
    pool = Features.from_arrays(vectors=np.repeat(np.eye(3), 20, axis=0) + 0.1 * rng.normal(size=(60, 3)))
    goal = Features.from_arrays(vectors=modes)
    served = set((RoundRobin().select(pool, Budget(amount=10), target=goal).indices // 20).tolist())
    by_mean = set((TopK().select(pool, Budget(amount=10), target=goal).indices // 20).tolist())
    assert served == {0, 1, 2}
    assert by_mean == {0}


def test_a_token_budget_passes_over_rows_that_are_too_dear() -> None:
    pool = Features.from_arrays(similarity=[[3.0], [2.0], [1.0]], lengths=[50, 8, 2])
    assert RoundRobin().select(pool, Budget(amount=10, unit="tokens")).indices.tolist() == [1, 2]
