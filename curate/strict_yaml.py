"""Recipes as documents: read strictly, overridden from the command line, and explained by file, line and nearest name."""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from curate.errors import ConfigError
from curate.yaml_reader import MAX_DEPTH, Path, Reading, clip, decode, dotted, is_text, shown

MAX_PROBLEMS = 20
_FOLDED = re.compile("[\x85\u2028\u2029]")  # ends of lines to PyYAML, which single quotes would turn into a space
_ALLOWED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "dict_type": "a mapping (key: value)",
    "model_type": "a mapping (key: value)",
    "model_attributes_type": "a mapping (key: value)",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "none_required": "null",
}


class Misplaced(ValueError):
    """What a check of several fields together found wrong, and which of them it is."""

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(message)
        self.path = path


@dataclass(frozen=True)
class Document:
    """The values of a recipe, and the line each stands on; line 0 is the command line."""

    value: dict[str, Any]
    lines: Mapping[Path, int]
    origin: str

    def line(self, path: Path) -> int:
        """The line of the value at this path, or of the nearest one around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def where(self, path: Path) -> str:
        """`file:line` of the value at this path, or of the nearest one around it."""
        line = self.line(path)
        return f"{self.origin}:{line}" if line else "command line"


def load(text: str | bytes, origin: str) -> Document:
    """The recipe in `text`; anything wrong with it is a ConfigError that starts with `origin:line:`.

    A tag that asks for Python code is a SafetyError.
    """
    reader = Reading(origin)
    value = reader.read(decode(text, origin))
    if not reader.lines:
        raise ConfigError(f"{origin}:1: the file is empty; write `key: value` fields, or start from `curate init`")
    if not isinstance(value, dict):
        kind = "a list" if isinstance(value, list) else shown(value)
        raise ConfigError(f"{origin}:{reader.lines[()]}: the top level is {kind}; it must be a mapping of `key: value` fields")
    return Document(value, reader.lines, origin)


def dump(value: Mapping[str, Any]) -> str:
    """The values as YAML that `load` reads back: what it would take for a number, true or null is in quotes, also where YAML 1.1 needs none."""

    class Dumper(yaml.SafeDumper):
        pass

    def text(dumper: yaml.SafeDumper, given: str) -> yaml.ScalarNode:
        style = '"' if _FOLDED.search(given) else None if is_text(given) else "'"
        return dumper.represent_scalar("tag:yaml.org,2002:str", given, style=style)

    Dumper.add_representer(str, text)
    return str(yaml.dump(dict(value), Dumper=Dumper, sort_keys=False, allow_unicode=True))


def override(document: Document, assignment: str) -> Document:
    """A copy with `dotted.key=value` set; numbers address list items, and the value is read as YAML like the file's."""
    name, equals, text = assignment.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys) or len(keys) > MAX_DEPTH:
        raise ConfigError(f"override {clip(assignment)!r} is not understood; write dotted.key=value, such as train.epochs=2")
    origin = f"command line: {dotted(tuple(keys))}"
    reader = Reading(origin)
    new = reader.read(decode(text, origin))
    value = deepcopy(document.value)
    path: Path = ()
    lines = dict(document.lines)
    here: Any = value
    for key in keys:
        index = _index(here, key, path)
        path = (*path, index)
        if len(path) == len(keys):
            here[index] = new
        elif isinstance(here, dict) and here.get(key) is None:
            here[index] = {}
            lines[path] = 0
        here = here[index]
    lines = {known: line for known, line in lines.items() if known[: len(path)] != path}
    lines |= {(*path, *below): 0 for below in (reader.lines or {(): 0})}
    return replace(document, value=value, lines=lines)


def explain(document: Document, error: ValidationError, known: Callable[[Path], Sequence[str]]) -> ConfigError:
    """All problems of one validation, a line each in the order of the file; `known(path)` lists the fields allowed there."""
    found: dict[Path, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        found.setdefault(_locate(document, detail), []).append(detail)
    paths = sorted(found, key=document.line)
    problems = [f"{document.where(path)}: {_problem(path, found[path], known)}" for path in paths[:MAX_PROBLEMS]]
    if len(paths) > MAX_PROBLEMS:
        problems.append(f"... and {len(paths) - MAX_PROBLEMS} more problems")
    return ConfigError("\n".join(problems))


def nearest(word: str, words: Sequence[str], what: str = "choices") -> str:
    """`did you mean x? (choices: x, y)`, or only the choices where none is close."""
    if not words:
        return f"there are no {what} here"
    close = difflib.get_close_matches(word.lower().replace("-", "_"), words, 1)
    listing = f"{what}: {', '.join(words)}"
    return f"did you mean {close[0]}? ({listing})" if close else listing


def _index(here: Any, key: str, path: Path) -> str | int:
    """The key as the mapping or list at `path` takes it."""
    if isinstance(here, dict):
        return key
    name = f"command line: {dotted(path)}"
    if not isinstance(here, list):
        raise ConfigError(f"{name} is {shown(here)}, which has no field {clip(key)!r}; give it whole, as in {dotted(path)}={{name: ..., {clip(key)}: ...}}")
    if not (key.isascii() and key.isdigit() and len(key) < 9 and int(key) < len(here)):
        raise ConfigError(f"{name} has {len(here)} items, and {clip(key)!r} is not the number of one; count from 0")
    return int(key)


def _locate(document: Document, detail: ErrorDetails) -> Path:
    """Where in the file an error is; pydantic's location also names union members and validators, which the file does not."""
    path: Path = ()
    cause = detail.get("ctx", {}).get("error")
    for step in (*detail["loc"], *(cause.path if isinstance(cause, Misplaced) else ())):
        if (*path, step) in document.lines:
            path = (*path, step)
    return (*path, detail["loc"][-1]) if detail["type"] == "missing" else path


def _problem(path: Path, details: Sequence[ErrorDetails], known: Callable[[Path], Sequence[str]]) -> str:
    name = dotted(path) or "the recipe"
    types = {detail["type"] for detail in details}
    if "extra_forbidden" in types:
        return f"{name} is not a field; {nearest(str(path[-1]), known(path[:-1]), 'fields')}"
    raised = [str(detail["ctx"]["error"]) for detail in details if detail["type"] == "value_error"]
    if raised:
        return f"{name}: {raised[0]}" if path else raised[0]
    if types == {"missing"}:
        return f"{name} is missing; add it"
    value = details[0]["input"]
    rules = list(dict.fromkeys(_rule(detail) for detail in details))
    hint = "; put it in quotes" if rules == ["be text"] and isinstance(value, bool | int | float) else ""
    expected = [word for detail in details if detail["type"] == "literal_error" for word in re.findall(r"'([^']*)'", detail["ctx"]["expected"])]
    close = difflib.get_close_matches(value, expected, 1) if isinstance(value, str) else []
    return f"{name} is {shown(value)}; it must {rules[0]}{''.join(' or ' + rule.removeprefix('be ') for rule in rules[1:])}{hint}" + (
        f"; did you mean {close[0]}?" if close else ""
    )


def _rule(detail: ErrorDetails) -> str:
    if detail["type"] in _ALLOWED:
        return f"be {_ALLOWED[detail['type']]}"
    if detail["type"] == "too_short":
        return f"hold {detail['ctx']['min_length']} or more entries"
    said = re.fullmatch(r"(?:\w+ )?should (.*)", detail["msg"], re.DOTALL)
    return " ".join((said[1] if said else f"be allowed: {detail['msg']}").split())


