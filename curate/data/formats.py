"""What the columns of a source mean. More than one meaning is refused: a guess would train on the wrong text."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from curate.data.conversation import Conversation, Messages, Rejection
from curate.data.source import Source, columns_of, fill, require
from curate.errors import DataError

PAIRS: dict[str, tuple[tuple[str, str], ...]] = {
    "prompt_completion": (("prompt", "completion"),),
    "alpaca": (("instruction", "output"), ("instruction", "response")),
    "question_answer": (("question", "answer"),),
    "text_label": tuple((text, label) for text in ("text", "sentence") for label in ("label", "category", "intent", "class")),
    "pretokenised": (("input_ids", "labels"),),
}
LISTS = {"messages": "messages", "sharegpt": "conversations"}
ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant", "observation": "tool", "function": "tool"}
# A question next to one of these cannot be answered from the question alone.
CONTEXT = ("context", "passage", "body", "document", "options", "choices", "A", "B", "C", "D")
# Text that says something about the row, and is not part of it.
METADATA = (
    "id", "uuid", "idx", "hash", "url", "source", "dataset", "subset", "domain", "split", "file", "file_name", "path", "date", "timestamp", "created", "added",
    "meta", "metadata", "lang", "language", "license", "licence", "author", "dump", "type", "title",
)  # fmt: skip
_TEMPLATES = "write prompt: and completion: with {columns} in braces"
_WANTED = {"messages": "a list of {role, content}", "sharegpt": "a list of {from, value}", "pretokenised": "a list of integers"}


@dataclass(frozen=True)
class Reading:
    """One way to read the columns: a format, and the columns (or templates over columns) of the question and the answer."""

    format: str
    columns: tuple[str, ...]
    omits: tuple[str, ...] = ()  # columns that probably belong to the text

    def __str__(self) -> str:
        left_out = f", leaving out {', '.join(map(repr, self.omits))}" if self.omits else ""
        return f"{self.format} ({' -> '.join(self.columns)}{left_out})"

    def conversation(self, fields: Mapping[str, Any]) -> Conversation | Rejection:
        """The meaning of one row, or why it has none."""
        try:
            return self._read(fields)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            return Rejection("bad_type", f"not {self.format}: {ascii(str(error))[:120]}")

    def _read(self, fields: Mapping[str, Any]) -> Conversation | Rejection:
        missing = [column for column in self.columns if self.format != "template" and fields.get(column) is None]
        if missing:
            return Rejection("empty_text", f"column {missing[0]!r} is null or absent")
        values = [fields.get(column) for column in self.columns]
        match self.format:
            case "messages" | "sharegpt":
                return Conversation(messages=_turns(values[0]))
            case "pretokenised":
                return Conversation(tokens=(tuple(_whole(one) for one in values[0]), tuple(_whole(one) for one in values[1])))  # type: ignore[union-attr]
            case "text":
                return Conversation(text=_text(values[0]))
            case "alpaca":
                return Conversation(messages=_alpaca(fields, *self.columns))
            case "template":
                return _templates(fields, *self.columns)
            case _:
                return Conversation(messages=_as_turns("user", values[0]) + _as_turns("assistant", values[1]))


def recognise(columns: Mapping[str, Any], source: Source) -> Reading:
    """The only reading of these columns (name to a sample value) that `source` allows; DataError naming all others."""
    if source.prompt is not None and source.completion is not None:
        for column in (*columns_of(source.prompt), *columns_of(source.completion)):
            require(column, columns, f"{source.label}: prompt or completion")
        return Reading("template", (source.prompt, source.completion))
    readings = list(_readings(columns))
    if source.format is not None:
        readings = [reading for reading in readings if reading.format == source.format]
    elif any(reading.format == "text_label" for reading in readings):
        readings = [reading for reading in readings if reading.format != "text"]
    named = ", ".join(map(ascii, columns)) or "none"
    if not readings:
        wanted = f"format {source.format}" if source.format else "any known format"
        raise DataError(f"{source.label}: the columns ({named}) are not those of {wanted}; {_known(source.format)}, or {_TEMPLATES}")
    if source.format is None and (len(readings) > 1 or readings[0].omits):
        forms = " or ".join(f"format: {name}" for name in dict.fromkeys(reading.format for reading in readings))
        raise DataError(
            f"{source.label}: the columns ({named}) can be read as {'; as '.join(map(str, readings))}{_or_template(readings)}. "
            f"Choose with {forms} (the first of its kind), or {_TEMPLATES}"
        )
    _check_kind(readings[0], columns, source)
    return readings[0]


def _readings(columns: Mapping[str, Any]) -> Iterator[Reading]:
    for name, column in LISTS.items():
        if column in columns:
            yield Reading(name, (column,))
    for name, pairs in PAIRS.items():
        for pair in pairs:
            if set(pair) <= columns.keys():
                yield Reading(name, pair, tuple(one for one in CONTEXT if one in columns) if name == "question_answer" else ())
    if "text" in columns:
        others = (one for one in columns if one not in ("text", *METADATA) and isinstance(columns[one], str))
        yield Reading("text", ("text",), tuple(others))


def _or_template(readings: list[Reading]) -> str:
    return f"; or as a question and an answer that use {', '.join(map(repr, readings[0].omits))} too" if len(readings) == 1 else ""


def _known(name: str | None) -> str:
    pairs = {key: ["+".join(pair) for pair in known[:2]] for key, known in PAIRS.items()}
    forms = {key: [column] for key, column in LISTS.items()} | pairs | {"text": ["text"]}
    chosen = {name: forms[name]} if name else forms
    return "known are " + ", ".join(f"{key} ({' or '.join(value)})" for key, value in chosen.items())


def _check_kind(reading: Reading, columns: Mapping[str, Any], source: Source) -> None:
    wanted = _WANTED.get(reading.format, "text")
    for column in reading.columns:
        sample = columns[column]
        listed = isinstance(sample, list) and (reading.format in _WANTED or reading.format == "prompt_completion")
        plain = isinstance(sample, str | int | float) and reading.format not in _WANTED
        if sample is not None and not (listed or plain):
            kind = f"holds {type(sample).__name__}, not {wanted}"
            raise DataError(f"{source.label}: column {column!r} of {reading} {kind}; convert it, or use prompt: and completion:")


def _text(value: Any) -> str:
    if isinstance(value, str | int | float):
        return str(value)
    raise TypeError(f"{type(value).__name__} where text was expected")


def _whole(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise TypeError(f"{type(value).__name__} where a token id was expected")


def _turns(turns: Any) -> Messages:
    return tuple(_turn(turn) for turn in turns)


def _turn(turn: Mapping[str, Any]) -> tuple[str, str]:
    role = turn.get("role") or turn.get("from")
    content = turn.get("content") if turn.get("content") is not None else turn.get("value")
    if turn.get("tool_calls"):
        raise ValueError("calls of tools are not read")
    if isinstance(content, list):
        if any(part.get("type") != "text" for part in content):
            raise ValueError("a turn has parts that are not text")
        content = "".join(_text(part["text"]) for part in content)
    name = str(role).lower()
    return ROLES.get(name, name), "" if content is None else _text(content)


def _as_turns(role: str, value: Any) -> Messages:
    return _turns(value) if isinstance(value, list) else ((role, _text(value)),)


def _alpaca(fields: Mapping[str, Any], question: str, answer: str) -> Messages:
    """Optional columns of the format: `input` follows the instruction, `system` leads, `history` holds earlier pairs."""
    turns: list[tuple[str, str]] = [("system", _text(fields["system"]))] if fields.get("system") else []
    for pair in fields.get("history") or ():
        turns += zip(("user", "assistant"), map(_text, pair), strict=True)
    instruction = "\n\n".join(part for part in (_text(fields[question]), _text(fields.get("input") or "")) if part)
    return (*turns, ("user", instruction), ("assistant", _text(fields[answer])))


def _templates(fields: Mapping[str, Any], prompt: str, completion: str) -> Conversation | Rejection:
    used = {column: fields.get(column) for column in (*columns_of(prompt), *columns_of(completion))}
    for column, value in used.items():
        if value is None:
            return Rejection("empty_text", f"column {column!r} is null or absent")
    texts = {column: json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else _text(value) for column, value in used.items()}
    return Conversation(messages=(("user", fill(prompt, texts)), ("assistant", fill(completion, texts))))
