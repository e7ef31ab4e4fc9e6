"""Decisions are asked in letter orders that favour no letter, written down one by one, and never asked twice."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from curate.choosing.choosers import Reply
from curate.choosing.decisions import Decisions
from curate.core import Written
from curate.errors import IntegrityError
from tests.fake_endpoint import candidates_in, shown_in

IDS = np.array([f"r{i:02d}" for i in range(20)])


class Memory:
    """A journal that keeps its entries as JSON text, as a file would."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def entries(self) -> Sequence[Mapping[str, Any]]:
        return [json.loads(line) for line in self.lines]

    def append(self, entry: Mapping[str, Any]) -> None:
        self.lines.append(json.dumps(entry))


class Scripted:
    """Answers by a function of the question; counts what it is asked."""

    def __init__(self, weigh: Callable[[str], Sequence[float] | None], name: str = "scripted") -> None:
        self.weigh, self.name, self.prompts = weigh, name, list[str]()

    def identity(self) -> Mapping[str, Any]:
        return {"name": self.name}

    def answer(self, prompts: Sequence[str], candidates: int) -> list[Reply]:
        self.prompts += prompts
        weights = [self.weigh(prompt) for prompt in prompts]
        return [Reply(f"said {given}", None if given is None else np.asarray(given, np.float64)) for given in weights]


def decisions(chooser: Scripted, journal: Memory | None = None, **fields: Any) -> Decisions:
    content = [Written(turns=(("", f"text {i:02d}"),)) for i in range(len(IDS))]
    settings = {"orders": 1, "combine": "average", "retries": 2, "row_characters": 100, "settings": {"seed": 0}, **fields}
    return Decisions(chooser, IDS, content, journal, **settings)


def likes(*liked: int) -> Callable[[str], list[float]]:
    """The weight of a candidate is the place of its row among the liked."""
    return lambda prompt: [liked.index(int(text[-2:])) + 1.0 if int(text[-2:]) in liked else 0.0 for text in candidates_in(prompt).values()]


def first_letter(prompt: str) -> list[float]:
    return [1.0] + [0.0] * (len(candidates_in(prompt)) - 1)


@pytest.mark.parametrize("orders", [1, 3, 4])
@pytest.mark.parametrize("combine", ["average", "vote"])
def test_the_liked_row_is_chosen_whatever_its_letter(orders: int, combine: str) -> None:
    made = decisions(Scripted(likes(5, 9)), orders=orders, combine=combine)
    assert [made.decide(step, [1], 1, drawn) for step, drawn in enumerate(([3, 5, 9, 7], [9, 5, 3, 7], [7, 3, 5, 4]))] == [9, 9, 5]


def test_with_as_many_orders_as_candidates_a_liking_for_a_letter_cancels() -> None:
    chooser = Scripted(first_letter)
    decisions(chooser, orders=4).decide(0, [], 0, [8, 3, 5, 7])
    lettered = [list(candidates_in(prompt).values()) for prompt in chooser.prompts]
    for letter in range(4):
        assert sorted(texts[letter] for texts in lettered) == ["text 03", "text 05", "text 07", "text 08"]

    def torn(prompt: str) -> list[float]:
        return [1.0 * (place == 0) + 0.5 * (text == "text 05") for place, text in enumerate(candidates_in(prompt).values())]

    assert decisions(Scripted(torn), orders=1).decide(0, [], 0, [8, 3, 5, 7]) == 8
    assert decisions(Scripted(torn), orders=4).decide(0, [], 0, [8, 3, 5, 7]) == 5
    assert decisions(Scripted(torn), orders=4, combine="vote").decide(0, [], 0, [8, 3, 5, 7]) == 8  # one first place each: the first drawn


def test_fewer_orders_are_spread_over_the_alphabet() -> None:
    chooser = Scripted(first_letter)
    decisions(chooser, orders=2).decide(0, [], 0, list(range(10)))
    assert [candidates_in(prompt)["A"] for prompt in chooser.prompts] == ["text 00", "text 05"]


def test_the_chooser_sees_the_shown_rows_and_how_many_there_are() -> None:
    chooser = Scripted(first_letter)
    decisions(chooser).decide(0, [4, 2], 9, [1, 3])
    assert shown_in(chooser.prompts[0]) == ["text 04", "text 02"] and "Already chosen: 9 (2 of them" in chooser.prompts[0]


def test_a_reply_without_a_letter_is_asked_for_in_another_order() -> None:
    chooser = Scripted(lambda prompt: None if candidates_in(prompt)["A"] in ("text 08", "text 03") else first_letter(prompt))
    journal = Memory()
    made = decisions(chooser, journal)
    assert made.decide(0, [], 0, [8, 3, 5, 7]) == 5
    assert [line["order"][0] for line in journal.entries()[0]["asked"]] == ["r08", "r03", "r05"]
    assert [line["weights"] is None for line in journal.entries()[0]["asked"]] == [True, True, False]
    assert {name: curve.tolist() for name, curve in made.curves().items()} == {"asked": [3.0], "fallback": [0.0], "letter": [2.0]}


@pytest.mark.parametrize(("orders", "retries"), [(1, 0), (1, 2), (4, 2), (3, 9)])
def test_after_the_last_retry_the_first_drawn_is_taken_and_recorded(orders: int, retries: int) -> None:
    chooser, journal = Scripted(lambda prompt: None), Memory()
    made = decisions(chooser, journal, orders=orders, retries=retries)
    assert made.decide(0, [], 0, [8, 3, 5, 7]) == 8
    entry = journal.entries()[0]
    assert entry["fallback"] is True and entry["chosen"] == "r08" and len(chooser.prompts) == len(entry["asked"]) == orders + retries
    assert made.curves()["fallback"].tolist() == [1.0]


def test_an_entry_tells_the_whole_decision() -> None:
    journal = Memory()
    decisions(Scripted(likes(5)), journal, orders=2).decide(0, [1], 6, [3, 5])
    entry = journal.entries()[0]
    assert {name: entry[name] for name in ("step", "shown", "candidates", "chosen", "fallback")} == {
        "step": 0,
        "shown": ["r01"],
        "candidates": ["r03", "r05"],
        "chosen": "r05",
        "fallback": False,
    }
    expected = [
        {"order": ["r03", "r05"], "reply": "said [0.0, 1.0]", "weights": [0.0, 1.0]},
        {"order": ["r05", "r03"], "reply": "said [1.0, 0.0]", "weights": [1.0, 0.0]},
    ]
    assert entry["asked"] == expected


QUESTIONS: list[list[int]] = [[3, 5, 9], [9, 2, 3], [1, 5, 2], [4, 6, 8]]


def test_stored_decisions_are_replayed_and_nothing_is_asked_twice() -> None:
    journal = Memory()
    first = decisions(Scripted(likes(2, 5, 9)), journal)
    chosen = [first.decide(step, [0], 1, drawn) for step, drawn in enumerate(QUESTIONS[:3])]
    silent = Scripted(likes(4))
    again = decisions(silent, journal)
    assert [again.decide(step, [0], 1, drawn) for step, drawn in enumerate(QUESTIONS[:3])] == chosen == [9, 9, 5]
    assert silent.prompts == [] and len(journal.lines) == 3
    assert again.decide(3, [0], 1, QUESTIONS[3]) == 4
    assert len(silent.prompts) == 1 and len(journal.lines) == 4
    assert again.curves()["letter"].tolist() == [2.0, 0.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"candidates": ["r03", "r09", "r05"]}, "its candidates differs"),
        ({"shown": []}, "its shown differs"),
        ({"settings": "0"}, "its settings differs"),
        ({"step": 1}, "its step differs"),
        ({"chosen": "r03"}, "its chosen differs"),
        ({"fallback": True}, "its fallback differs"),
        ({"asked": [{"order": ["r03", "r05"], "reply": "", "weights": [1.0, 0.0]}]}, "is damaged"),
        ({"asked": [{"order": ["r03", "r05", "r09"], "reply": "", "weights": [1.0]}]}, "is damaged"),
        ({"asked": [{"order": ["r03", "r05", "r09"]}]}, "is damaged"),
        ({"asked": None}, "is damaged"),
    ],
)
def test_a_journal_of_another_run_is_refused(change: dict[str, Any], words: str) -> None:
    journal = Memory()
    decisions(Scripted(likes(5)), journal).decide(0, [0], 1, QUESTIONS[0])
    journal.lines[0] = json.dumps({**journal.entries()[0], **change})
    with pytest.raises(IntegrityError, match=f"entry 0 of the journal of decisions .*{words}") as caught:
        decisions(Scripted(likes(5)), journal).decide(0, [0], 1, QUESTIONS[0])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("other", [{"settings": {"seed": 1}}, {"chooser": "another"}])
def test_another_chooser_or_other_fields_do_not_go_on_from_a_journal(other: dict[str, Any]) -> None:
    journal = Memory()
    decisions(Scripted(likes(5)), journal).decide(0, [0], 1, QUESTIONS[0])
    chooser = Scripted(likes(5), other.pop("chooser", "scripted"))
    with pytest.raises(IntegrityError, match="its settings differs"):
        decisions(chooser, journal, **other).decide(0, [0], 1, QUESTIONS[0])


def test_a_decision_that_was_not_finished_is_not_written() -> None:
    def broken(prompt: str) -> list[float]:
        raise ConnectionError("the line is dead")

    journal = Memory()
    with pytest.raises(ConnectionError):
        decisions(Scripted(broken), journal).decide(0, [0], 1, QUESTIONS[0])
    assert journal.lines == []
