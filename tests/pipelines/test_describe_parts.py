"""The parts of a description: likeness in blocks, missing rows, exact transport, and samples that rows themselves decide."""

from dataclasses import replace
from itertools import permutations
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from curate.core import Examples, Features, Written
from curate.pipelines.describe_flows import OTHERS, flows, grouped, transported
from curate.pipelines.describe_likeness import Likeness
from curate.pipelines.describe_reasons import Sight, words
from curate.pipelines.describe_space import nearest
from curate.pipelines.describe_spreads import length_edges, score_edges
from curate.pipelines.describe_taken import Taken, sample
from curate.randomness import uniform
from curate.rules import Rules


def likeness(word: str = "cosine", n: int = 40, m: int = 5) -> tuple[Likeness, np.ndarray]:
    """A comparison of 40 rows of a pool of 50, and the (50, M) table of it with minus infinity where a row has no numbers."""
    generator = np.random.default_rng(0)
    rows = np.sort(generator.permutation(n + 10)[:n])
    vectors, goals = generator.normal(size=(n, 6)) * 3, generator.normal(size=(m, 6)) * 2
    table = np.full((n + 10, m), -np.inf)
    table[rows] = vectors @ goals.T
    if word == "cosine":
        table[rows] /= np.linalg.norm(vectors, axis=1)[:, None] * np.linalg.norm(goals, axis=1)
    stored = {"similarity": table[rows].astype(np.float32)} if word == "similarity" else {"vectors": vectors.astype(np.float32)}
    target = Features.from_arrays(vectors=goals.astype(np.float32), content=[Written((("", f"goal {number}"),)) for number in range(m)])
    return Likeness(Features.from_arrays(**stored), rows, target, n + 10, word), table


@pytest.mark.parametrize("word", ["cosine", "inner product", "similarity"])
def test_reach_and_service_are_those_of_the_whole_table(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for block in (2048, 7):
        monkeypatch.setattr("curate.pipelines.describe_likeness._BLOCK", block)
        found, table = likeness(word)
        best, which = found.reach
        held = np.isfinite(table[:, 0])
        assert best == pytest.approx(table.max(1), abs=1e-5) and (which[held] == table[held].argmax(1)).all()
        taken = np.array([31, 2, 17, 44, 8, 23])
        value, who = found.served(taken)
        assert value == pytest.approx(table[taken].max(0), abs=1e-5) and who.tolist() == taken[table[taken].argmax(0)].tolist()
        assert found.having(taken).tolist() == [row for row in taken.tolist() if held[row]]


@pytest.mark.parametrize("word", ["cosine", "inner product", "similarity"])
def test_many_sets_are_measured_in_one_pass_as_each_alone(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curate.pipelines.describe_likeness._BLOCK", 4)
    found, table = likeness(word)
    held = np.flatnonzero(np.isfinite(table[:, 0]))
    sets = [held[[5, 1, 30]], held[[1]], held[::3], held[:0]]
    drawn = held[2:6] if word == "cosine" else held[:0]
    for rows, reached in zip(sets, nearest(found, sets, drawn), strict=True):
        beside = found.vectors(drawn) @ found.vectors(rows).T if len(drawn) and len(rows) else np.full((len(drawn), 1), -np.inf)
        assert reached == pytest.approx(np.concatenate([table[rows].max(0, initial=-np.inf), beside.max(1)]), abs=1e-5)


def test_the_row_taken_that_is_most_alike_is_found_by_cosine_and_never_the_row_itself() -> None:
    found, table = likeness("inner product")
    rows = np.flatnonzero(np.isfinite(table[:, 0]))
    unit = found.vectors(rows).astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    alike = unit[3:20] @ unit[0]
    other = found.nearest_of(int(rows[0]), np.append(rows[3:20], rows[0]))
    assert other is not None and other[0] == rows[3 + int(alike.argmax())] and other[1] == pytest.approx(alike.max(), abs=1e-5)
    assert likeness("similarity")[0].nearest_of(int(rows[0]), rows) is None
    assert found.nearest_of(int(np.flatnonzero(~np.isfinite(table[:, 0]))[0]), rows) is None


def sight(**changed: object) -> tuple[Sight, np.ndarray]:
    found, table = likeness()
    rows = np.argsort(-table.max(1))[[1, 6, 3]]
    lengths = np.arange(50) + 5
    pool = Examples(np.array([f"row-{number:02d}" for number in range(50)]), lengths, lengths, np.array(["web", "code"] * 25), ())
    fields = {"selector": {"name": "top_k"}, **{name: value for name, value in changed.items() if name in ("rules", "filters", "selector")}}
    taken = Taken("near", "3", 0, "key", rows, np.array([0.5, np.nan, 0.25]), np.ones(3), {"fields": fields, "summary": {}})
    scores = changed.get("scores")
    return Sight(taken, pool, None if changed.get("blind") else found, scores if isinstance(scores, np.ndarray) else None), table


def test_rows_almost_taken_are_the_most_alike_of_those_left_that_have_all_numbers() -> None:
    scores = np.random.default_rng(1).normal(size=50)
    scores[::7] = np.nan
    found, table = sight(scores=scores)
    order = [row for row in np.argsort(-table.max(1)).tolist() if np.isfinite(table[row, 0] + scores[row]) and row not in found.taken.rows]
    assert found.almost(4).tolist() == order[:4]
    both, _ = sight(scores=scores, selector={"name": "mmr"})
    blind, _ = sight(scores=scores, blind=True)
    assert both.almost(2).tolist() == blind.almost(2).tolist()
    assert blind.almost(2).tolist() == [row for row in np.argsort(-scores).tolist() if np.isfinite(scores[row]) and row not in found.taken.rows][:2]
    lowest, _ = sight(scores=scores, blind=True, selector={"name": "top_k", "largest": False})
    assert lowest.almost(1).tolist() == [next(row for row in np.argsort(scores).tolist() if row not in found.taken.rows)]
    assert len(sight(blind=True)[0].almost(3)) == 0


def test_reasons_say_only_what_is_known() -> None:
    found, table = sight()
    first, second = (int(row) for row in found.taken.rows[:2])
    assert found.why_taken(first) == f"rank 1 of 3, gain 0.5; nearest target row at cosine {table[first].max():.3f}"
    assert found.why_taken(second).startswith("rank 2 of 3; nearest")
    without = int(np.flatnonzero(~np.isfinite(table[:, 0]))[0])
    assert found.why_left(without) == "it has no usable number in the features that the arm reads"
    assert sight(blind=True)[0].why_left(7) == "the selector reads no feature, so there is no number to compare"
    assert sight(blind=True, selector={"name": "random"})[0].why_left(7) == "not drawn"
    own = sight(selector={"name": "facility_location"})[0]
    assert own.why_taken(first) == "rank 1 of 3, gain 0.5"
    filtered = [{"selector": {"name": "semdedup"}, "keep": "80%"}]
    left = int(np.setdiff1d(np.flatnonzero(np.isfinite(table[:, 0])), found.taken.rows)[0])
    twin = own.likeness.nearest_of(left, own.taken.rows) if own.likeness else None
    assert twin and own.why_left(left) == f"of the rows taken row-{twin[0]:02d} is most like it (cosine {twin[1]:.3f})"
    assert own.why_left(left, other=False) == "others were chosen" and sight(selector={"name": "gone"})[0].why_taken(first) == found.why_taken(first)
    assert sight(filters=filtered)[0].why_left(left) == f"{found.why_left(left)}; before it the filters semdedup left out rows"


def test_a_rule_that_excludes_a_row_is_the_reason() -> None:
    rules = Rules(forbid=["row-03"], tokens=[5, 40], where={"group": ["web"]}).model_dump(mode="json")
    found, _ = sight(rules=rules)
    assert found.why_left(3) == "the arm's rules forbid it"
    assert found.why_left(46) == "it has 51 tokens, and the arm's rules allow 5 to 40"
    assert found.why_left(7) == "its group is code, and the arm's rules allow web"
    assert "rules" not in found.why_left(8)


def test_a_score_is_set_beside_those_of_the_rows_taken() -> None:
    scores = np.arange(50.0)
    found, _ = sight(blind=True, scores=scores)
    low, high, last = scores[found.taken.rows].min(), scores[found.taken.rows].max(), scores[found.taken.rows[-1]]
    held = f"rows taken ({low:.3g} to {high:.3g}; the last has {last:.3g})"
    assert found.why_left(49) == f"score 49 is above those of all {held}" and found.why_left(0) == f"score 0 is below those of all {held}"
    assert found.why_left(int(low) + 1) == f"score {low + 1:.3g} lies among those of the {held}"
    assert found.why_taken(int(high)).endswith(f"score {high:.3g}, above {high / 50:.0%} of the pool")


def test_transport_is_the_cheapest_assignment_of_as_many_rows() -> None:
    costs = np.random.default_rng(0).random((6, 6))
    cheapest = min(sum(costs[i, j] for i, j in enumerate(order)) for order in permutations(range(6)))
    plan = transported(costs)
    assert (plan * costs).sum() * 6 == pytest.approx(cheapest) and plan.sum(0) == pytest.approx(np.full(6, 1 / 6))


def test_the_eight_heaviest_groups_stand_alone_and_no_mass_is_lost() -> None:
    generator = np.random.default_rng(0)
    mass, groups = generator.random((300, 4)), np.array([f"g{number:02d}" for number in generator.integers(0, 12, 300)])
    found, names = grouped(mass, groups)
    weights = {name: mass[groups == name].sum() for name in set(groups.tolist())}
    order = sorted(weights, key=lambda name: -weights[name])
    assert names == [*order[:8], OTHERS] and found.sum(0) == pytest.approx(mass.sum(0))
    assert found[3] == pytest.approx(mass[groups == order[3]].sum(0)) and found[8] == pytest.approx(mass[np.isin(groups, order[8:])].sum(0))
    assert grouped(mass[:2], np.array(["a", "b"]))[1] in (["a", "b"], ["b", "a"])


def test_there_is_no_flow_from_one_group_to_one_group() -> None:
    found, _ = sight()
    common, rows = likeness()[0], found.taken.rows
    for several in (False, True):
        groups = np.array(["web"] * 50, "U4")
        groups[rows[0]] = "code" if several else "web"
        numbers: Any = SimpleNamespace(examples=replace(found.examples, groups=groups), common=lambda aim: ("hidden", common))
        panel: Any = SimpleNamespace(aim=None, first={"near": found.taken}, where={"target": None, "budget": "3"})
        assert [flow.taken for flow in flows(panel, numbers)] == [["web", "code"]][:several]


def test_a_sample_is_decided_by_each_row_alone() -> None:
    ids = np.array([f"row-{number}" for number in range(500)])
    found = sample(ids, np.arange(500), 60)
    assert len(set(found.tolist())) == 60 and sample(ids, np.arange(9), 60).tolist() == list(range(9))
    assert found.tolist() == np.argsort(uniform(0, "describe", ids))[:60].tolist()
    kept = np.setdiff1d(np.arange(500), found[:5])
    assert sample(ids, kept, 55).tolist() == found[5:].tolist()


def test_bins_hold_everything_whatever_the_numbers() -> None:
    for lengths in (np.array([7.0, 7.0]), np.array([1.0, 2000.0]), np.arange(5.0, 60.0)):
        edges = length_edges(lengths)
        assert edges[0] == lengths.min() and edges[-1] == lengths.max() + 1 and (np.diff(edges) > 0).all() and len(edges) <= 21
    long = length_edges(np.array([10.0, 10_000.0]))
    assert np.diff(np.log(long)).max() < 1.2 * np.diff(np.log(long)).min()
    for scores in (np.array([2.0, 2.0, 2.0]), np.array([0.0, 0.1, 0.2, 1e6]), np.random.default_rng(0).normal(size=1000)):
        edges = score_edges(scores)
        assert np.histogram(scores, edges)[0].sum() == len(scores) and (np.diff(edges) > 0).all()


def test_text_is_cut_where_it_is_long() -> None:
    assert words(Written((("user", "hello"), ("assistant", "yes"))), 600) == "user: hello\nassistant: yes"
    assert words(Written((("", "word " * 200),)), 600) == ("word " * 200)[:600].rstrip() + " ..." and words(Written(), 600) == ""
