"""Exact and near-duplicates against brute force over all pairs."""

import random
import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.hygiene.exact import firsts, keys_of
from curate.hygiene.near import (
    BANDS,
    bands_of,
    candidates,
    components,
    probability_of_a_miss,
    shingles_of,
    similarity,
    text_of,
)


def turns(question: str, answer: str) -> tuple[tuple[str, str], ...]:
    return ("user", question), ("assistant", answer)


def test_rows_that_differ_in_case_and_spacing_only_are_the_same() -> None:
    rows = [
        turns("What is 3 + 5?", "8"),
        turns("what  is 3 + 5?\n", "8"),
        turns("What is 3 - 5?", "8"),
        turns("What is 3 + 5?", "9"),
        (("", "What is 3 + 5?8"),),
    ]
    assert firsts(keys_of(rows)).tolist() == [0, 0, 2, 3, 4]


def test_rows_without_text_are_no_duplicates() -> None:
    assert firsts(keys_of([(), (), turns("a", "b")])).tolist() == [0, 1, 2]


@given(st.lists(st.integers(1, 6), max_size=40))
def test_the_first_of_equal_keys_is_found(values: list[int]) -> None:
    keys = np.array([[value, value % 2] for value in values], np.uint64).reshape(-1, 2)
    assert firsts(keys).tolist() == [values.index(value) for value in values]


def edited_rows(seed: int) -> list[tuple[tuple[str, str], ...]]:
    """Random rows, and copies of some with a few words changed."""
    source = random.Random(seed)
    words = ["".join(source.choices(string.ascii_lowercase, k=6)) for _ in range(3000)]
    rows = [source.choices(words, k=source.randint(30, 120)) for _ in range(300)]
    for _ in range(200):
        copy = list(source.choice(rows[:300]))
        for _ in range(source.randint(0, 3)):
            copy[source.randrange(len(copy))] = source.choice(words)
        rows.append(copy)
    return [turns(" ".join(row[:-10]), " ".join(row[-10:])) for row in rows]


def test_pairs_above_the_threshold_are_those_of_brute_force() -> None:
    rows = edited_rows(1)
    texts = [text_of(row) for row in rows]
    sets = [shingles_of(text) for text in texts]
    wanted = {(i, j) for j in range(len(rows)) for i in range(j) if len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= 0.8 and similarity(rows[i], rows[j])}
    bands = bands_of(texts)
    pairs = candidates((bands[:, band] for band in range(BANDS)), np.arange(len(rows)))
    found = {(i, j) for i, j in pairs.tolist() if similarity(rows[i], rows[j]) >= 0.8}
    assert found == wanted and len(wanted) > 100


def test_candidates_below_the_threshold_are_never_duplicates() -> None:
    one, other = turns("a b c d e f g h i j", "x"), turns("a b c d e f g h i k l m n", "x")
    both, either = shingles_of("a b c d e f g h i j x"), shingles_of("a b c d e f g h i k l m n x")
    assert similarity(one, other) == len(both & either) / len(both | either) < 0.8


def test_the_same_passage_with_another_answer_is_no_duplicate() -> None:
    passage = " ".join(f"word{n}" for n in range(200))
    assert similarity(turns(passage + " is it so", "yes"), turns(passage + " is it so", "no")) == 0
    assert similarity(turns(passage + " is it so", "yes"), turns(passage + " is it so now", "yes")) > 0.9


def test_system_turns_do_not_make_rows_alike() -> None:
    system = ("system", " ".join(f"rule{n}" for n in range(100)))
    assert similarity((system, *turns("Name a bird.", "A wren.")), (system, *turns("Name a fish of the sea.", "A cod."))) < 0.1


def test_short_rows_are_one_shingle_and_rows_without_words_none() -> None:
    bands = bands_of(["one two", "one two", "one three", "", "?!"])
    assert (bands[0] == bands[1]).all() and (bands[0] != bands[2]).all()
    pairs = candidates((bands_of(["", ""])[:, band] for band in range(BANDS)), np.arange(2))
    assert pairs.tolist() == []


def test_large_buckets_give_few_pairs_that_still_join_all_of_their_rows() -> None:
    column = np.full(500, 7, np.uint64)
    pairs = candidates([column, column], np.arange(500))
    assert len(pairs) < 1000 and (components(map(tuple, pairs.tolist()), 500) == 0).all()


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30))
def test_components_are_led_by_their_first_row(pairs: list[tuple[int, int]]) -> None:
    import networkx

    graph = networkx.Graph()
    graph.add_nodes_from(range(20))
    graph.add_edges_from(pairs)
    wanted = {row: min(group) for group in networkx.connected_components(graph) for row in group}
    assert components(pairs, 20).tolist() == [wanted[row] for row in range(20)]


def test_the_stated_probability_of_a_miss_is_what_is_seen() -> None:
    """At a Jaccard similarity of a half, where misses are common enough to be counted: 200 pairs, three standard errors."""
    source = random.Random(5)
    texts = []
    for number in range(200):
        said = [f"w{number}x{source.randrange(10**9)}" for _ in range(84)]
        texts += [" ".join(said[:64]), " ".join(said[20:])]
    same = [len(shingles_of(a) & shingles_of(b)) / len(shingles_of(a) | shingles_of(b)) for a, b in zip(texts[::2], texts[1::2], strict=True)]
    assert same == pytest.approx([0.5] * 200)
    bands = bands_of(texts)
    missed = float(((bands[::2] == bands[1::2]).sum(axis=1) == 0).mean())
    chance = probability_of_a_miss(0.5)
    assert abs(missed - chance) < 3 * (chance * (1 - chance) / 200) ** 0.5
    assert probability_of_a_miss(0.8) < 1e-4
