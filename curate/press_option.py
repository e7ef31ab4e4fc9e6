"""The press that a command line names."""

from typing import Any

from pydantic import ValidationError

from curate.errors import ConfigError
from curate.interfaces import Press
from curate.registry import Kind, component, load, names
from curate.strict_yaml import Document, explain, nearest
from curate.strict_yaml import load as read
from curate.yaml_reader import Path

_PARTS: dict[str | int, Kind] = {"importance": "importances", "allocator": "allocators", "action": "actions"}  # fields that hold components of their own


def read_press(text: str | None) -> Press | None:
    """A press by its name, or by a mapping in YAML such as `{name: snapkv, keep: 0.5}`; ConfigError, in a line, for anything else."""
    if text is None:
        return None
    found = _described(read(text, "--press")) if "{" in text or ":" in text else component("presses", text.strip())
    if not isinstance(found, Press):
        raise ConfigError(f"--press {text!r} is no press; {nearest('', names('presses'), 'presses')}")
    return found


def _described(document: Document) -> Any:
    name = document.value.get("name")
    if not isinstance(name, str):
        raise ConfigError(f"--press has no name; write a name, or {{name: ..., field: ...}}; {nearest('', names('presses'), 'presses')}")
    load("presses", name)
    try:
        return component("presses", document.value)
    except ValidationError as error:
        raise explain(document, error, lambda path: _fields(document, path)) from error


def _fields(document: Document, path: Path) -> list[str]:
    """The fields allowed at a place of the press, for the nearest name in an error."""
    value: Any = document.value
    known = load("presses", value["name"])
    for step in path:
        value = value[step]
        if step in _PARTS and isinstance(value, dict) and isinstance(value.get("name"), str):
            known = load(_PARTS[step], value["name"])
    return list(known.model_fields)
