"""The gate on planted leaks and on what only looks like one."""

import random
import string

import numpy as np
import pytest
from pydantic import ValidationError

from curate.hygiene.benchmark import Benchmark, Item, LeakRules
from curate.hygiene.leaks import Gate, Hit
from curate.hygiene.vectors import near_by_vectors

LONG = "A train leaves the station at seven in the morning and reaches the coast after four hours and a half. When does it arrive at the coast?"
OTHER = "Eleven gardeners planted sixty tulips each along the northern wall of the palace before the frost came. How many tulips stand along the wall?"


def gate(*questions: str, **rules: object) -> Gate:
    return Gate.of([Benchmark("b", [Item(f"i{n}", question, f"answer {n}") for n, question in enumerate(questions)])], LeakRules.model_validate(rules))


def verdicts(held: Gate, *rows: str) -> dict[tuple[int, str], str]:
    """The verdict on each pair of a row and an item."""
    return {(hit.row, held.benchmarks[hit.benchmark].items[hit.item].id): held.verdict(hit) for hit in held.scan([(row,) for row in rows])}


def test_a_copy_is_found_whatever_its_case_spacing_and_punctuation() -> None:
    copies = [LONG, LONG.upper(), LONG.replace(" ", "\n"), LONG.replace(".", " . ").replace("?", " ??"), f"Q: {LONG}\nA:", LONG.replace("seven", "se\u00adven")]
    assert verdicts(gate(LONG, OTHER), *copies) == {(n, "i0"): "dirty" for n in range(len(copies))}


def test_cover_is_the_share_of_the_items_letters_that_the_row_holds() -> None:
    held = gate(LONG)
    letters = LONG.replace(" ", "").replace(".", "").replace("?", "")
    (hit,) = held.scan([(LONG[: LONG.index("hours")],)])
    assert hit.cover == pytest.approx(len(LONG[: LONG.index("hours")].replace(" ", "")) / len(letters))
    assert held.verdict(hit) == "suspicious"
    (hit,) = held.scan([(LONG.replace("coast?", "shore?"),)])
    assert 0.9 < hit.cover < 1 and held.verdict(hit) == "dirty"
    (hit,) = held.scan([(LONG.replace("four", "nine"),)])
    assert hit.cover == pytest.approx(64 / len(letters)) and held.verdict(hit) == "suspicious"  # less than a window stands behind the edit


def test_a_row_that_shares_less_than_a_window_is_clean() -> None:
    assert verdicts(gate(LONG), "A train leaves the station at seven in the evening", OTHER) == {}


def test_planted_copies_are_all_found_and_nothing_else_is() -> None:
    """Random texts, some rows with an item inside: recall and precision of exact copies are one."""
    source = random.Random(0)

    def text(words: int) -> str:
        return " ".join("".join(source.choices(string.ascii_lowercase, k=source.randint(1, 9))) for _ in range(words))

    questions = [text(source.randint(14, 40)) for _ in range(50)]
    rows, planted = [], set()
    for number in range(400):
        row = text(source.randint(5, 80))
        if source.random() < 0.25:
            item = source.randrange(50)
            row = f"{row} {questions[item]}. {text(source.randint(0, 30))}"
            planted.add((number, f"i{item}"))
        rows.append(row)
    assert set(verdicts(gate(*questions), *rows)) == planted


def test_a_short_question_has_to_stand_alone() -> None:
    held = gate("Would a pear sink in water?")
    rows = [
        "Q: Would a pear sink in water? Think.",
        "would a pear sink in water",
        "I wonder, would a pear sink in water or not",
        "Would a pear sink in watercolour?",
    ]
    assert verdicts(held, *rows) == {(0, "i0"): "dirty", (1, "i0"): "dirty", (2, "i0"): "suspicious"}


def test_a_very_short_question_has_to_be_a_whole_turn() -> None:
    assert verdicts(gate("Who is Zeus?"), "who is zeus", "Who is Zeus? And Hera?") == {(0, "i0"): "dirty"}


def test_a_question_that_is_asked_again_with_another_answer_tells_nothing() -> None:
    assert verdicts(gate("Which statement is true?", "Which statement is true?"), "Which statement is true?") == {}


def test_bare_numbers_and_short_answers_are_not_looked_for() -> None:
    held = Gate.of([Benchmark("b", [Item("i", "12 + 30 =", "42"), Item("j", OTHER, "Yes.")])], LeakRules())
    assert held.scan([("12 30",), ("42",), ("yes",)]) == []


def test_a_long_answer_alone_is_suspicious() -> None:
    held = Gate.of([Benchmark("b", [Item("i", "Why does ice float?", LONG)])], LeakRules())
    assert [held.verdict(hit) for hit in held.scan([("What?", LONG)])] == ["suspicious"]


def test_the_template_of_a_benchmark_is_no_leak() -> None:
    template = "Answer the following question about the picture with one of the letters given below and nothing else:"
    source = random.Random(2)
    own = [" ".join("".join(source.choices(string.ascii_lowercase, k=6)) for _ in range(12)) for _ in range(60)]
    held = gate(*(f"{template} {text}?" for text in own))
    assert verdicts(held, f"{template} which colour is it?") == {}
    assert verdicts(held, f"{template} {own[3]}?") == {(0, "i3"): "dirty"}
    assert verdicts(gate(*(f"{template} {text}?" for text in own[:20])), f"{template} which colour is it?") != {}


def test_two_sets_are_judged_apart_and_an_allowed_item_is_clean() -> None:
    sets = [Benchmark("one", [Item("a", LONG)]), Benchmark("two", [Item("b", LONG), Item("c", OTHER)])]
    hits = Gate.of(sets, LeakRules(allow=["c"])).scan([(LONG, OTHER)])
    assert sorted((hit.benchmark, hit.item) for hit in hits) == [(0, 0), (1, 0)]


def test_a_stretch_lies_where_the_hit_says() -> None:
    from curate.hygiene.normalise import letters

    held = gate(LONG)
    (hit,) = held.scan([("Hello!", f"Well -- {LONG} Thanks.")])
    assert hit.turn == 1 and letters(f"Well -- {LONG} Thanks.")[slice(*hit.there)] == letters(LONG)[slice(*hit.here)] == letters(LONG)


def test_many_rows_are_compared_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(f"row {n}", LONG if n % 3 == 0 else "caf\u00e9 " + OTHER) for n in range(40)]
    held = gate(LONG, OTHER)

    def key(hit: Hit) -> tuple[int, int]:
        return hit.row, hit.item

    whole = sorted(held.scan(rows), key=key)
    monkeypatch.setattr("curate.hygiene.leaks._BATCH", 300)
    assert sorted(held.scan(iter(rows)), key=key) == whole and len(whole) == 40


def test_rules_out_of_order_are_refused() -> None:
    with pytest.raises(ValidationError, match="must not be more than dirty"):
        LeakRules(dirty=0.3, suspicious=0.5)


def test_near_copies_by_vectors_are_those_of_brute_force() -> None:
    random_numbers = np.random.Generator(np.random.Philox(3))
    pool, items = random_numbers.normal(size=(70, 5)).astype(np.float32), random_numbers.normal(size=(9, 5)).astype(np.float32)
    wide = [(row / np.linalg.norm(row)) for row in pool.astype(np.float64)], [(row / np.linalg.norm(row)) for row in items.astype(np.float64)]
    wanted = {(i, j) for i, row in enumerate(wide[0]) for j, item in enumerate(wide[1]) if row @ item >= 0.7}
    assert {(row, item) for row, item, _ in near_by_vectors(pool, items, 0.7, block=16)} == wanted != set()
