"""One YAML text as plain values and the line of each: YAML 1.2 core scalars, and nothing that surprises.

Duplicate keys, anchors, aliases, merge keys, tags, directives and numbers that YAML versions read differently
are refused, and so are texts that only a machine would write. The values are built from PyYAML's parse events:
nothing is constructed, expanded or recursed into.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import yaml
from yaml.reader import Reader

from curate.errors import ConfigError, SafetyError

Path = tuple[str | int, ...]

MAX_BYTES = 2**20
MAX_DEPTH = 64
MAX_VALUES = 20_000  # PyYAML reads about 20,000 fields a second, and an error should take less than two

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEAN = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+")
_REAL = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_AMBIGUOUS = re.compile(
    r"""[-+]?0[0-9]+                                                 # 010 is 8 or 10
      | [-+]?[0-9][0-9_]*_[0-9_]*(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?  # 1_000 is a number or text
      | [-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?             # 12:30 is 750 or text
      | [-+]?0b[01_]+ | [-+]0[xo][0-9a-fA-F_]+ | 0x[0-9a-fA-F_]*_[0-9a-fA-F_]*""",
    re.VERBOSE,
)
_UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")


@dataclass
class _Open:
    """A mapping or list whose end has not been read."""

    value: Any
    path: Path
    key: str | None = None
    line: int = 0


class Reading:
    """The value of one YAML text, with `lines` from the path of every value in it to its line; `origin` names it in errors."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.lines: dict[Path, int] = {}
        self._value: Any = None
        self._open: list[_Open] = []
        self._documents = 0

    def read(self, text: str) -> Any:
        """Null where the text is empty; `lines` stays empty then."""
        for event in self._events(text):
            line = event.start_mark.line + 1 if event.start_mark else 1
            self._refuse(event, line)
            match event:
                case yaml.ScalarEvent():
                    self._scalar(event, line)
                case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                    value: Any = {} if isinstance(event, yaml.MappingStartEvent) else []
                    self._open.append(_Open(value, self._place(value, line)))
                    if len(self._open) > MAX_DEPTH:
                        self._fail(line, f"values are nested more than {MAX_DEPTH} deep; a recipe needs fewer than ten")
                case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                    self._open.pop()
        return self._value

    def _events(self, text: str) -> Iterator[yaml.Event]:
        try:
            yield from yaml.parse(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            parts = [part for part in (error.context, error.problem) if part]
            message = "a tab cannot indent or start a value; use spaces" if r"'\t'" in str(error.problem) else "not YAML: " + ", ".join(parts)
            self._fail(mark.line + 1 if mark else 1, message)
        except (yaml.YAMLError, ValueError, OverflowError) as error:  # a number in an escape or directive that Python cannot hold
            self._fail(1, f"not YAML: {error}")

    def _refuse(self, event: yaml.Event, line: int) -> None:
        """Everything that makes a file mean more than it says."""
        tag = getattr(event, "tag", None)
        if tag is not None and "python/" in tag:
            raise SafetyError(f"{self.origin}:{line}: tag {clip(tag)} asks to run Python code; a recipe holds plain values, remove the tag")
        if tag is not None:
            self._fail(line, f"tag {clip(tag)} is not read; remove it")
        if getattr(event, "anchor", None) is not None:
            sign = "*" if isinstance(event, yaml.AliasEvent) else "&"
            self._fail(line, f"anchors and aliases ({clip(sign + str(getattr(event, 'anchor', '')))}) are not read; write the value out")
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                self._fail(line, "a second document starts here; a recipe is one document")
            if event.version or event.tags:
                self._fail(line, "directives (%YAML, %TAG) are not read; remove them")

    def _scalar(self, event: yaml.ScalarEvent, line: int) -> None:
        top = self._open[-1] if self._open else None
        is_key = top is not None and isinstance(top.value, dict) and top.key is None
        if is_key and not event.style and event.value == "<<":
            self._fail(line, "merge keys (<<) are not read; write the fields out")
        value = event.value if event.style else self._plain(event.value, line)
        if isinstance(value, str) and _UNSTORABLE.search(value):
            value = self._joined(value, line)
        if top is None or not is_key:
            self._place(value, line)
            return
        if not isinstance(value, str):
            self._fail(line, f"key {clip(event.value) or '(nothing)'} is not text; put it in quotes")
        first = self.lines.get((*top.path, value))
        if first is not None:
            self._fail(line, f"{dotted((*top.path, value))} is given twice, first on line {first}; keep one")
        top.key, top.line = value, line

    def _place(self, value: Any, line: int) -> Path:
        """Put a value where the file has it, and note its line."""
        path: Path = ()
        if not self._open:
            self._value = value
        else:
            top = self._open[-1]
            if isinstance(top.value, list):
                path = (*top.path, len(top.value))
                top.value.append(value)
            elif top.key is None:
                self._fail(line, "a key must be text, not a list or a mapping; if you meant a {placeholder}, put it in quotes")
            else:
                path, line = (*top.path, top.key), top.line
                top.value[top.key] = value
                top.key = None
        self.lines[path] = line
        if len(self.lines) > MAX_VALUES:
            self._fail(line, f"more than {MAX_VALUES:,} values; a recipe is small, keep rows in a data file")
        return path

    def _plain(self, text: str, line: int) -> Any:
        """An unquoted scalar by the YAML 1.2 core schema."""
        if text in _NULL:
            return None
        if text in _BOOLEAN:
            return _BOOLEAN[text]
        if _AMBIGUOUS.fullmatch(text):
            self._fail(line, f"{clip(text)} is ambiguous, YAML versions read it differently; write {_ways(text)}")
        if _INTEGER.fullmatch(text):
            number = int(text, 0) if len(text) < 30 else 2**63
            if not -(2**63) <= number < 2**63:
                self._fail(line, f"{clip(text)} does not fit 64 bits; write a smaller number, or text in quotes")
            return number
        if _REAL.fullmatch(text):
            real = float(text) if text[-1] not in "fFnN" else math.inf
            if not math.isfinite(real):
                self._fail(line, f"{clip(text)} is not a finite number; write one, or null")
            return real
        return text

    def _joined(self, text: str, line: int) -> str:
        """Text whose escapes come in surrogate pairs, as JSON writes them."""
        try:
            joined = text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            joined = "\0"
        if "\0" in joined:
            self._fail(line, "an escape makes a character that no file can hold (NUL or half of a surrogate pair); remove it")
        return joined

    def _fail(self, line: int, message: str) -> NoReturn:
        raise ConfigError(f"{self.origin}:{line}: {' '.join(message.split())}")


def decode(text: str | bytes, origin: str) -> str:
    """The text of a file of at most a MiB of UTF-8, with or without byte order mark."""
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{origin}:1: the file has {len(raw):,} bytes; a recipe has at most {MAX_BYTES:,}, keep rows in a data file")
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in raw:
        raise ConfigError(f"{origin}:1: the file is UTF-16 or binary; save the recipe as UTF-8 text")
    try:
        decoded = raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigError(f"{origin}:{line}: byte {raw[error.start]:#04x} is not UTF-8; save the recipe as UTF-8 text") from None
    control = Reader.NON_PRINTABLE.search(decoded)
    if control:
        line = decoded[: control.start()].count("\n") + 1
        raise ConfigError(f"{origin}:{line}: control character {control.group()!r}; the file is binary or damaged, save it as UTF-8 text")
    return decoded


def is_text(text: str) -> bool:
    """Whether these characters are text without quotes, and not null, true, a number or one that is ambiguous."""
    return text not in _NULL and text not in _BOOLEAN and not any(form.fullmatch(text) for form in (_AMBIGUOUS, _INTEGER, _REAL))


def _ways(text: str) -> str:
    """How to write an ambiguous number so that every reader agrees."""
    digits = text.lstrip("+-")
    sign = "-" if text.startswith("-") else ""
    ways = [clip(f"'{text}'")]
    if digits.isdigit():
        ways.insert(0, clip(sign + (digits.lstrip("0") or "0")))
        if not sign and set(digits) <= set("01234567"):
            ways.append(clip("0o" + (digits.lstrip("0") or "0")))
    elif ":" not in digits and digits.replace("_", "").isdigit():
        ways.insert(0, clip(sign + digits.replace("_", "")))
    return ", ".join(ways[:-1]) + " or " + ways[-1] if len(ways) > 1 else f"{ways[0]} for text, or a decimal number"


def shown(value: object) -> str:
    """A value as an error names it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return "a list" if isinstance(value, list | tuple) else "a mapping" if isinstance(value, Mapping) else clip(repr(value))


def dotted(path: Path) -> str:
    """A path as an override writes it."""
    return ".".join(clip(step if isinstance(step, str) and step.isprintable() else repr(step)) for step in path)


def clip(text: str, width: int = 80) -> str:
    """At most `width` characters."""
    return text if len(text) <= width else text[: width - 3] + "..."
