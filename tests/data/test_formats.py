"""Recognising what columns mean, and refusing to guess."""

from typing import Any

import pytest

from curate.data.conversation import Conversation, Rejection
from curate.data.formats import recognise
from curate.data.source import Source
from curate.errors import DataError

PAIR = (("user", "q"), ("assistant", "a"))
ANSWER = {"role": "assistant", "content": "a"}
ROWS: list[tuple[str, dict[str, Any], Conversation]] = [
    ("messages", {"messages": [{"role": "user", "content": "q"}, ANSWER], "prompt": "q"}, Conversation(messages=PAIR)),
    ("messages", {"messages": [{"role": "User", "content": [{"type": "text", "text": "q"}]}, ANSWER]}, Conversation(messages=PAIR)),
    ("sharegpt", {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "id": "x"}, Conversation(messages=PAIR)),
    (
        "sharegpt",
        {"conversations": [{"from": who, "value": who} for who in ("system", "human", "gpt", "observation", "gpt")]},
        Conversation(messages=(("system", "system"), ("user", "human"), ("assistant", "gpt"), ("tool", "observation"), ("assistant", "gpt"))),
    ),
    ("prompt_completion", {"prompt": "q", "completion": "a", "template": "t"}, Conversation(messages=PAIR)),
    (
        "prompt_completion",
        {"prompt": [{"role": "user", "content": "q"}], "completion": [ANSWER]},
        Conversation(messages=PAIR),
    ),
    ("alpaca", {"instruction": "q", "input": "", "output": "a"}, Conversation(messages=PAIR)),
    ("alpaca", {"instruction": "q", "input": None, "response": "a", "category": "c"}, Conversation(messages=PAIR)),
    ("alpaca", {"instruction": "q", "input": "i", "output": "a"}, Conversation(messages=(("user", "q\n\ni"), ("assistant", "a")))),
    (
        "alpaca",
        {"instruction": "q", "output": "a", "system": "s", "history": [["q0", "a0"]]},
        Conversation(messages=(("system", "s"), ("user", "q0"), ("assistant", "a0"), *PAIR)),
    ),
    ("question_answer", {"question": "q", "answer": 3, "source": "s"}, Conversation(messages=(("user", "q"), ("assistant", "3")))),
    ("text_label", {"text": "q", "intent": "a", "split": "train"}, Conversation(messages=PAIR)),
    ("text_label", {"sentence": "q", "label": 0, "idx": 1}, Conversation(messages=(("user", "q"), ("assistant", "0")))),
    ("text", {"text": "q", "url": "u", "n": 3}, Conversation(text="q")),
    ("pretokenised", {"input_ids": [1, 2], "labels": [-100, 2], "attention_mask": [1, 1]}, Conversation(tokens=((1, 2), (-100, 2)))),
]


@pytest.mark.parametrize(("name", "fields", "expected"), ROWS)
def test_each_format_is_recognised_from_its_columns(name: str, fields: dict[str, Any], expected: Conversation) -> None:
    for source in (Source(path="x"), Source(path="x", format=name)):  # type: ignore[arg-type]
        reading = recognise(fields, source)
        assert reading.format == name
        assert reading.conversation(fields) == expected


AMBIGUOUS: list[tuple[dict[str, Any], list[str]]] = [
    ({"instruction": "i", "input": "", "response": "r", "output": "o"}, ["alpaca (instruction -> output)", "alpaca (instruction -> response)"]),
    ({"messages": [], "instruction": "i", "output": "o"}, ["messages (messages)", "alpaca (", "format: messages or format: alpaca"]),
    ({"instruction": "i", "output": "o", "text": "t"}, ["alpaca (", "text (text, leaving out 'instruction', 'output')"]),
    ({"prompt": "p", "completion": "c", "question": "q", "answer": "a"}, ["prompt_completion (prompt -> completion)", "question_answer (question -> answer)"]),
    ({"text": "t", "label": "l", "category": "c"}, ["text_label (text -> label)", "text_label (text -> category)"]),
    ({"text": "t", "sql": "s"}, ["text (text, leaving out 'sql')", "a question and an answer"]),
    ({"question": "q", "answer": "a", "context": "c"}, ["question_answer (question -> answer, leaving out 'context')"]),
    ({"question": "q", "answer": "A", "A": "x", "B": "y"}, ["leaving out 'A', 'B'"]),
]


@pytest.mark.parametrize(("columns", "readings"), AMBIGUOUS)
def test_columns_with_several_meanings_are_refused_with_all_of_them(columns: dict[str, Any], readings: list[str]) -> None:
    with pytest.raises(DataError) as refusal:
        recognise(columns, Source(path="rows.jsonl"))
    message = str(refusal.value)
    assert "rows.jsonl" in message and "prompt:" in message and "format:" in message and "\n" not in message
    assert all(reading in message for reading in readings), message


def test_format_and_templates_settle_an_ambiguity() -> None:
    fields = {"instruction": "i", "input": "", "response": "r", "output": "o"}
    chosen = recognise(fields, Source(path="x", format="alpaca"))
    assert chosen.conversation(fields) == Conversation(messages=(("user", "i"), ("assistant", "o")))
    templated = recognise(fields, Source(path="x", prompt="{instruction}", completion="{response}"))
    assert templated.conversation(fields) == Conversation(messages=(("user", "i"), ("assistant", "r")))


def test_labelled_text_can_be_read_as_plain_text() -> None:
    fields = {"text": "q", "label": "a"}
    assert recognise(fields, Source(path="x", format="text")).conversation(fields) == Conversation(text="q")


@pytest.mark.parametrize("columns", [{"Body": "b", "Question": "q"}, {"png": b"x", "label": 3}, {"instruction": "only"}, {}])
def test_unknown_columns_are_refused_with_those_found_and_those_known(columns: dict[str, Any]) -> None:
    with pytest.raises(DataError) as refusal:
        recognise(columns, Source(path="x"))
    assert all(repr(name) in str(refusal.value) for name in columns)
    assert "instruction+output" in str(refusal.value)


def test_a_forced_format_names_the_columns_it_misses() -> None:
    with pytest.raises(DataError, match="not those of format sharegpt.*sharegpt .conversations"):
        recognise({"text": "t"}, Source(path="x", format="sharegpt"))


@pytest.mark.parametrize("fields", [{"messages": "[]"}, {"conversations": {"from": "human"}}, {"question": ["q"], "answer": "a"}, {"text": {"en": "t"}}])
def test_a_column_of_the_wrong_type_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="holds (str|dict|list)"):
        recognise(fields, Source(path="x"))


@pytest.mark.parametrize(
    ("good", "bad", "reason"),
    [
        ({"instruction": "i", "output": "o"}, {"instruction": "i", "output": None}, "empty_text"),
        ({"instruction": "i", "output": "o"}, {"instruction": "i"}, "empty_text"),
        ({"question": "q", "answer": "a"}, {"question": "q", "answer": ["a"]}, "bad_type"),
        ({"text": "t"}, {"text": {"t": 1}}, "bad_type"),
        ({"messages": []}, {"messages": "text"}, "bad_type"),
        ({"messages": []}, {"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "bad_type"),
        ({"messages": []}, {"messages": [{"role": "assistant", "content": None, "tool_calls": [{}]}]}, "bad_type"),
        ({"instruction": "i", "output": "o"}, {"instruction": "i", "output": "o", "history": [["lonely"]]}, "bad_type"),
        ({"input_ids": [1], "labels": [1]}, {"input_ids": [1.5], "labels": [1]}, "bad_type"),
        ({"input_ids": [1], "labels": [1]}, {"input_ids": [True], "labels": [1]}, "bad_type"),
    ],
)
def test_a_row_that_does_not_fit_the_format_is_set_aside(good: dict[str, Any], bad: dict[str, Any], reason: str) -> None:
    found = recognise(good, Source(path="x")).conversation(bad)
    assert isinstance(found, Rejection) and found.reason == reason


def test_templates_only_substitute_columns() -> None:
    source = Source(path="x", prompt="{{{a}}} {b.__class__} {b!r} {b:>9}", completion="{b}")
    with pytest.raises(DataError, match="no column 'b.__class__'; the columns are 'a', 'b'"):
        recognise({"a": "1", "b": "2"}, source)
    fields = {"a": "{b}", "b": 2, "c d": [1, "\u00e9"]}
    found = recognise(fields, Source(path="x", prompt="{{{a}}} {c d}", completion="{b}")).conversation(fields)
    assert found == Conversation(messages=(("user", '{{b}} [1, "\u00e9"]'), ("assistant", "2")))


def test_a_null_column_of_a_template_sets_the_row_aside() -> None:
    reading = recognise({"a": "1", "b": "2"}, Source(path="x", prompt="Q: {a}", completion="{b}"))
    assert reading.conversation({"a": None, "b": "2"}) == Rejection("empty_text", "column 'a' is null or absent")


def test_the_content_alone_decides_the_canonical_bytes() -> None:
    one = recognise({"instruction": "q", "output": "a", "category": "c"}, Source(path="x"))
    other = recognise({"question": "q", "answer": "a"}, Source(path="y"))
    first, second = one.conversation({"instruction": "q", "output": "a", "category": "c"}), other.conversation({"question": "q", "answer": "a"})
    assert isinstance(first, Conversation) and isinstance(second, Conversation)
    assert first.canonical() == second.canonical()
    assert Conversation(text="\u00e9").canonical() != Conversation(text="e\u0301").canonical()
    assert Conversation(text="\ud800").canonical().isascii()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "exactly one of path, hub or synthetic; this one has none"),
        ({"path": "x", "hub": "o/n"}, "this one has path and hub"),
        ({"path": "x", "revision": "main"}, "revision belongs to a Hub dataset"),
        ({"path": "x", "files": "a"}, "files belongs to a Hub dataset"),
        ({"synthetic": "pool"}, "synthetic and rows go together"),
        ({"path": "x", "rows": 3}, "synthetic and rows go together"),
        ({"path": "x", "prompt": "{a}"}, "give both or neither"),
        ({"path": "x", "prompt": "{a", "completion": "b"}, "a brace is open"),
        ({"path": "x", "prompt": "{a}", "completion": "{b}", "format": "text"}, "remove one of them"),
        ({"path": "x", "limit": 3, "sample": 3}, "limit and sample exclude each other"),
        ({"path": "x", "limit": 0}, "greater than 0"),
        ({"path": "x", "limit": "3"}, "valid integer"),
        ({"hub": "../etc"}, "is not a Hub dataset"),
        ({"path": "x", "wher": {}}, "Extra inputs"),
    ],
)
def test_a_source_that_contradicts_itself_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Source(**fields)
