"""Round robin against a full search at every turn."""

from typing import Literal

import numpy as np
import pytest

from curate import similarity as service
from curate.core import Budget, Features
from curate.selectors import round_robin
from curate.selectors.round_robin import RoundRobin
from curate.selectors.top_k import TopK
from curate.similarity import similarity
from curate.testing import check_selector
from curate.testing.selection import OnDisk


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


@pytest.mark.parametrize("on_taken", ["skip", "lose_turn"])
@pytest.mark.parametrize(("block", "entries"), [(7, 1), (7, 12), (16, 40), (2048, 20)])
def test_lists_cut_short_and_read_again_give_the_rows_of_the_whole_matrix(
    monkeypatch: pytest.MonkeyPatch, on_taken: Literal["skip", "lose_turn"], block: int, entries: int
) -> None:
    rng = np.random.default_rng(block + entries)
    vectors = rng.normal(size=(60, 3)).round(1) + 0.05
    vectors[20:30] = vectors[3]
    pool, goal = Features.from_arrays(vectors=vectors), Features.from_arrays(vectors=np.concatenate([vectors[:3], rng.normal(size=(2, 3))]))
    whole = similarity(pool, goal).T
    given = Features.from_arrays(similarity=rng.integers(0, 5, size=(60, 5)).astype(np.float32))
    monkeypatch.setattr(service, "_BLOCK", block)
    monkeypatch.setattr(round_robin, "_ENTRIES", entries)
    selector = RoundRobin(on_taken=on_taken)
    for k in (4, 31, 60):
        assert selector.select(pool, Budget(amount=k), target=goal).indices.tolist() == turns(whole, k, on_taken)
        assert selector.select(given, Budget(amount=k)).indices.tolist() == turns(given.similarity, k, on_taken)


class Counting(OnDisk):
    """Rows on disk that count how often they are read."""

    reads = 0

    def __getitem__(self, rows: slice) -> np.ndarray:
        type(self).reads += rows.stop - rows.start
        found: np.ndarray = super().__getitem__(rows)
        return found


def test_the_pool_is_read_once_where_the_lists_hold_the_budget() -> None:
    alike = np.random.default_rng(0).normal(size=(5000, 3)).astype(np.float32)
    pool = Features.from_arrays(scores=np.zeros(5000))
    Counting.reads = 0
    kept = RoundRobin().select(Features(pool.ids, pool.lengths, similarity=Counting(alike)), Budget(amount=900))
    assert len(kept) == 900 and 5000 <= Counting.reads < 5000 + service._BLOCK


@pytest.mark.parametrize("on_taken", ["skip", "lose_turn"])
def test_lists_grow_where_target_rows_want_the_same_rows(on_taken: Literal["skip", "lose_turn"]) -> None:
    rng = np.random.default_rng(0)
    alike = np.repeat(rng.normal(size=(900, 1)), 40, axis=1).astype(np.float32)
    alike[:, 0] = rng.normal(size=900)
    Counting.reads = 0
    pool = Features.from_arrays(scores=np.zeros(900))
    kept = RoundRobin(on_taken=on_taken).select(Features(pool.ids, pool.lengths, similarity=Counting(alike)), Budget(amount=500))
    assert kept.indices.tolist() == turns(alike, 500, on_taken)
    assert 2 < Counting.reads / service._BLOCK < 6  # lists of 82 rows are not enough, nor of 164


def test_the_contract_holds_where_every_list_holds_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(round_robin, "_ENTRIES", 1)
    check_selector(RoundRobin())
    check_selector(RoundRobin(on_taken="lose_turn"))


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
