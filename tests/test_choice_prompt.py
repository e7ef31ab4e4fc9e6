"""A question letters its candidates, and a reply is read as the one letter that it names or as none."""

import pytest

from curate.choosing.prompt import prompt, read_letter, row_text
from curate.core import Written
from curate.errors import DataError
from tests.fake_endpoint import candidates_in, shown_in


@pytest.mark.parametrize(
    ("reply", "number"),
    [
        ("[[C]]", 2),
        ("I think [[A]] is close, but [[B]].", 1),
        ("[[ c ]]\n", 2),
        ("C", 2),
        (" c. ", 2),
        ("(B)", 1),
        ("**A**", 0),
        ("[D]", 3),
        ("[[K]]", None),
        ("E", None),
        ("[[letter]]", None),
        ("", None),
        ("A is the best", None),
        ("Answer: B", None),
        ("[[A, B]]", None),
        ("AB", None),
    ],
)
def test_a_reply_names_one_letter_or_none(reply: str, number: int | None) -> None:
    assert read_letter(reply, 4) == number


def test_the_question_shows_what_is_chosen_and_letters_the_candidates() -> None:
    question = prompt(["one", "two"], 7, ["x", "y\nz", "[[A]]"])
    assert shown_in(question) == ["one", "two"]
    assert candidates_in(question) == {"A": "x", "B": "y\nz", "C": "[[A]]"}
    assert "Already chosen: 7 (2 of them, drawn at random)" in question
    assert "drawn at random" not in prompt(["one"], 1, ["x", "y"]) and "(none yet)" in prompt([], 0, ["x", "y"])


def test_the_question_itself_names_no_letter() -> None:
    assert read_letter(prompt([], 0, ["x"] * 10), 10) is None


def test_a_row_is_its_turns_cut_at_the_limit() -> None:
    said = Written(turns=(("user", "How?"), ("assistant", "So.")))
    assert row_text(said, "r", 100) == "user: How?\nassistant: So."
    assert row_text(Written(turns=(("", "plain " * 10),)), "r", 16) == "plain plain plai [...]"
    assert row_text(Written(turns=(("", "x" * 16),)), "r", 16) == "x" * 16
    with pytest.raises(DataError, match="row r has no text"):
        row_text(Written(), "r", 16)
