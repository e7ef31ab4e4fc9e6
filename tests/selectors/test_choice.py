"""Choice with an oracle is stochastic greedy; with a language model it asks what it says, resumes, and refuses what cannot work."""

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from curate.core import Budget, Features, Written
from curate.errors import CurateError, DataError
from curate.interfaces import Context
from curate.randomness import draw, row_keys
from curate.selectors.choice import Choice
from curate.testing import check_selector
from tests.fake_endpoint import Answer, FakeEndpoint, candidates_in, shown_in


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def facility(vectors: NDArray[np.floating]) -> Callable[[Sequence[int]], float]:
    wide = vectors.astype(np.float64) / np.linalg.norm(vectors, axis=1, keepdims=True)
    alike = (1 + wide @ wide.T) / 2
    return lambda rows: float(alike[:, list(rows)].max(axis=1).mean()) if len(rows) else 0.0


def plain(rows: int, seed: int = 0, width: int = 4) -> Features:
    vectors = np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)
    return Features.from_arrays(vectors=vectors, content=[Written(turns=(("user", f"row {i}"),)) for i in range(rows)])


def stochastic_greedy(pool: Features, kept: int, seed: int) -> list[int]:
    """Naive, from the definition: ten rows of smallest random number, and of these the one that raises f most."""
    value, keys = facility(np.asarray(pool.vectors)), row_keys(seed, "choice candidates", pool.ids)
    chosen: list[int] = []
    while len(chosen) < kept:
        rest = np.setdiff1d(np.arange(len(pool)), chosen)
        drawn = sorted(rest[np.argsort(-draw(keys[rest], len(chosen)), kind="stable")][:10].tolist())
        chosen.append(max(drawn, key=lambda row: round(value([*chosen, row]), 7)))
    return chosen


def endpoint(server: FakeEndpoint, **fields: Any) -> dict[str, Any]:
    return {"kind": "endpoint", "url": server.url, "model": "oracle", "backoff": 0.0, **fields}


def number(text: str) -> int:
    return int(re.findall(r"\d+", text)[0])


def oracle(pool: Features) -> Callable[[str], Answer]:
    """A language model that sees all kept rows and names the candidate of the largest facility location."""
    value = facility(np.asarray(pool.vectors))

    def answer(prompt: str) -> Answer:
        held = [number(text) for text in shown_in(prompt)]
        worth = {letter: round(value([*held, number(text)]), 7) for letter, text in candidates_in(prompt).items()}
        return f"[[{max(worth, key=lambda letter: worth[letter])}]]"

    return answer


@pytest.mark.parametrize("fields", [{"random_start": 5, "candidates": 3}, {"chooser": {"kind": "similarity", "reference": 7}}])
def test_other_fields_keep_the_contract(fields: dict[str, Any]) -> None:
    check_selector(Choice(**fields))


def test_a_language_model_keeps_the_contract() -> None:
    def longest(prompt: str) -> Answer:
        worth = {letter: (number(text) * 7919) % 101 for letter, text in candidates_in(prompt).items()}
        return f"[[{max(worth, key=lambda letter: worth[letter])}]]"

    with FakeEndpoint(longest) as server:
        check_selector(Choice(chooser=endpoint(server), random_start=2, candidates=4, shown=3, orders=2))


@pytest.mark.parametrize("seed", range(4))
def test_the_default_is_stochastic_greedy_with_ten_candidates(seed: int) -> None:
    pool = plain(80, seed)
    chosen = Choice().select(pool, Budget(amount=25), context=Context(seed=seed))
    assert chosen.indices.tolist() == stochastic_greedy(pool, 25, seed)
    value = facility(np.asarray(pool.vectors))
    steps = [value(chosen.indices[:k].tolist()) for k in range(26)]
    np.testing.assert_allclose(np.asarray(chosen.gains), np.diff(steps), atol=1e-6)


@pytest.mark.parametrize("seed", range(2))
def test_an_oracle_behind_an_endpoint_is_stochastic_greedy_too(seed: int) -> None:
    pool = plain(60, seed)
    with FakeEndpoint(oracle(pool)) as server:
        chosen = Choice(chooser=endpoint(server)).select(pool, Budget(amount=15), context=Context(seed=seed))
    assert chosen.indices.tolist() == stochastic_greedy(pool, 15, seed)
    assert len(server.requests) == 15 and chosen.prefix_consistent and chosen.certificate is None
    assert chosen.curves["fallback"].sum() == 0 and chosen.curves["asked"].tolist() == [1.0] * 15


def test_on_average_the_oracle_reaches_its_share_of_the_brute_force_optimum() -> None:
    pool, kept = plain(14, 3, 3), 4
    value = facility(np.asarray(pool.vectors))
    best = max(value(rows) for rows in combinations(range(14), kept))
    reached = [value(Choice().select(pool, Budget(amount=kept), context=Context(seed=seed)).indices.tolist()) for seed in range(40)]
    random = np.mean([value(rows) for rows in combinations(range(14), kept)])
    assert np.mean(reached) >= (1 - 1 / np.e - np.exp(-10 * kept / 14)) * best
    assert np.mean(reached) > random + 0.7 * (best - random)


def test_a_reference_sample_is_nearly_as_good_as_the_pool() -> None:
    pool = plain(500, 1, 6)
    value = facility(np.asarray(pool.vectors))
    whole, part, none = (
        value(selector.select(pool, Budget(amount=20)).indices.tolist())
        for selector in (Choice(), Choice(chooser={"kind": "similarity", "reference": 100}), Choice(random_start=20))
    )
    assert none + 0.7 * (whole - none) < part <= whole + 0.005


def test_the_random_start_is_part_of_the_budget_and_shown_first() -> None:
    pool = plain(40)
    with FakeEndpoint(oracle(pool)) as server:
        chosen = Choice(chooser=endpoint(server), random_start=6, shown=4).select(pool, Budget(amount=10))
    assert len(chosen) == 10 and len(server.requests) == 4
    start = set(chosen.indices[:6].tolist())
    assert {number(text) for text in shown_in(server.prompts[0])} < start and len(shown_in(server.prompts[0])) == 4
    seen = [frozenset(map(number, shown_in(prompt))) for prompt in server.prompts]
    assert min(len(one & other) for one, other in zip(seen, seen[1:], strict=False)) < 3  # another sample for every decision


def test_nothing_is_asked_where_everything_fits() -> None:
    pool = plain(12)
    with FakeEndpoint(oracle(pool)) as server:
        chosen = Choice(chooser=endpoint(server)).select(pool, Budget(amount=12))
    assert sorted(chosen.indices) == list(range(12)) and server.requests == [] and not chosen.prefix_consistent


class Memory:
    def __init__(self, limit: int = 10**9) -> None:
        self.held, self.limit = list[Mapping[str, Any]](), limit

    def entries(self) -> Sequence[Mapping[str, Any]]:
        return list(self.held)

    def append(self, entry: Mapping[str, Any]) -> None:
        if len(self.held) == self.limit:
            raise OSError("the disk is full")
        self.held.append(entry)


def test_a_stopped_run_goes_on_where_it_was_and_ends_in_the_same_rows() -> None:
    pool = plain(50)
    with FakeEndpoint(oracle(pool)) as server:
        selector = Choice(chooser=endpoint(server), orders=2)
        whole = selector.select(pool, Budget(amount=12), context=Context(seed=1)).indices.tolist()
        assert len(server.requests) == 24
        journal = Memory(limit=7)
        with pytest.raises(OSError):
            selector.select(pool, Budget(amount=12), context=Context(seed=1, journal=journal))
        journal.limit = 10**9
        before = len(server.requests)
        resumed = selector.select(pool, Budget(amount=12), context=Context(seed=1, journal=journal))
        assert resumed.indices.tolist() == whole and len(server.requests) - before == 10  # five decisions of two orders
        larger = selector.select(pool, Budget(amount=14), context=Context(seed=1, journal=journal))
        assert larger.indices[:12].tolist() == whole and len(server.requests) - before == 14
        with pytest.raises(CurateError, match="its settings differs"):
            selector.select(pool, Budget(amount=12), context=Context(seed=2, journal=journal))
        smaller = Features.from_arrays(vectors=np.asarray(pool.vectors)[:49], content=list(pool.content or ())[:49])
        with pytest.raises(CurateError, match="differs; restore pool"):
            selector.select(smaller, Budget(amount=12), context=Context(seed=1, journal=journal))
        moved = Choice(chooser={**endpoint(server), "retries": 1, "url": "http://127.0.0.1:9/v1"}, orders=2, retries=7)
        assert moved.select(pool, Budget(amount=14), context=Context(seed=1, journal=journal)).indices.tolist() == larger.indices.tolist()


def test_malformed_and_failing_replies_are_survived_and_counted() -> None:
    pool = plain(40)
    right, asked = oracle(pool), list[str]()

    def moody(prompt: str) -> Answer:
        asked.append(prompt)
        return [(503, "busy"), "I like them all", right(prompt), "[[Z]]", right(prompt)][len(asked) % 5]

    with FakeEndpoint(moody) as server:
        chosen = Choice(chooser=endpoint(server)).select(pool, Budget(amount=8))
    assert len(chosen) == 8 and chosen.curves["fallback"].sum() == 0 and chosen.curves["asked"].sum() > 8
    with FakeEndpoint(lambda prompt: "no idea") as server:
        lost = Choice(chooser=endpoint(server), retries=1).select(pool, Budget(amount=5))
    assert len(lost) == 5 and lost.curves["fallback"].tolist() == [1.0] * 5 and len(server.requests) == 10
    with FakeEndpoint(lambda prompt: (500, "broken")) as server, pytest.raises(CurateError, match="gave no answer in 3 tries"):
        Choice(chooser=endpoint(server, retries=2)).select(pool, Budget(amount=5))


def test_long_rows_are_cut_in_the_question() -> None:
    pool = Features.from_arrays(ids=["a", "b", "c"], content=[Written(turns=(("", letter * 5000),)) for letter in "xyz"])
    with FakeEndpoint(lambda prompt: "[[A]]") as server:
        Choice(chooser=endpoint(server), row_characters=100).select(pool, Budget(amount=1))
    assert sorted(candidates_in(server.prompts[0]).values()) == [letter * 100 + " [...]" for letter in "xyz"]


def test_a_local_model_chooses_the_likeliest_letter_in_every_order(tiny: Path) -> None:
    pool = plain(9)
    selector = Choice(chooser={"kind": "local", "model": str(tiny)}, candidates=3, orders=3, shown=2, row_characters=50)
    journal = Memory()
    chosen = selector.select(pool, Budget(amount=4), context=Context(journal=journal))
    for entry, row in zip(journal.held, chosen.indices, strict=True):
        total = {name: sum(line["weights"][line["order"].index(name)] for line in entry["asked"]) for name in entry["candidates"]}
        assert max(total, key=lambda name: total[name]) == entry["chosen"] == pool.ids[row] and len(entry["asked"]) == 3
    assert chosen.indices.tolist() == selector.select(pool, Budget(amount=4)).indices.tolist()


def test_what_cannot_work_is_refused_in_a_line() -> None:
    silent = Features.from_arrays(ids=["a", "b", "c"])
    with pytest.raises(DataError, match="carry no content"):
        Choice(chooser={"kind": "endpoint", "url": "http://127.0.0.1:9/v1", "model": "m"}).select(silent, Budget(amount=1))
    empty = Features.from_arrays(ids=["a", "b", "c"], content=[Written()] * 3)
    with pytest.raises(DataError, match="row . has no text"):
        Choice(chooser={"kind": "endpoint", "url": "http://127.0.0.1:9/v1", "model": "m"}).select(empty, Budget(amount=1))
    with pytest.raises(DataError, match="needs vectors"):
        Choice().select(silent, Budget(amount=1))
    for wrong, words in (
        ({"chooser": {"kind": "endpoint", "model": "m"}}, "url"),
        ({"chooser": {"kind": "local"}}, "model"),
        ({"orders": 11, "chooser": {"kind": "local", "model": "m"}}, "orders: 11 is more than candidates: 10"),
        ({"orders": 2, "shown": 3}, "so shown, orders would do nothing"),
    ):
        with pytest.raises(ValidationError, match=words):
            Choice(**wrong)


def test_only_the_default_needs_vectors() -> None:
    assert Choice().needs == {"vectors"}
    assert Choice(chooser={"kind": "local", "model": "m"}).needs == frozenset()
