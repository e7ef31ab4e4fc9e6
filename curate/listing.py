"""What methods there are: a line on each, or all that one says of itself."""

import inspect
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from curate.interfaces import Component, Press, Scorer, Selector, Task
from curate.registry import Kind, load, names

KINDS: tuple[Kind, ...] = ("scorers", "selectors", "presses", "tasks")

_COLUMNS: dict[Kind, tuple[str, ...]] = {"scorers": ("name", "reads", "gives"), "selectors": ("name", "reads"), "presses": ("name",), "tasks": ("name", "")}


def print_methods(kinds: tuple[Kind, ...], console: Console) -> None:
    """One line a method: its name, what it reads, and the first sentence of what it says of itself."""
    for kind in kinds:
        table = Table(box=None, padding=(0, 2, 0, 0), title=kind, title_justify="left", show_header=kind != "tasks")
        for column in _COLUMNS[kind]:
            table.add_column(column, no_wrap=True)
        table.add_column("")
        for name in names(kind):
            method = load(kind, name)
            row = [name, _reads(method), str(_trait(method, "output") or "")][: len(_COLUMNS[kind])]
            table.add_row(*(Text(cell) for cell in row), Text(_idea(method)))
        console.print(table)
        console.print()
    console.print("`curate list KIND NAME` says all of one method: its formula, guarantee, cost and fields.")


def print_method(kind: Kind, name: str, console: Console) -> None:
    """The whole docstring of one method, and its fields with their defaults."""
    method = load(kind, name)
    console.print(Text(f"{name}: reads {_reads(method)}", style="bold"))
    console.print(Padding(Text(_reflowed(inspect.getdoc(method) or "")), (0, 0, 1, 2)))
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("field", "default", ""):
        table.add_column(column)
    for field, info in method.model_fields.items():
        if field != "name":
            table.add_row(Text(field), Text(repr(info.default)), Text(info.description or ""))
    console.print(table)


def _reads(method: type[Component]) -> str:
    if issubclass(method, Scorer):
        return str(_trait(method, "reads"))
    if issubclass(method, Selector):
        return " and ".join(sorted(_trait(method, "needs"))) or " or ".join(sorted(_trait(method, "needs_one_of"))) or "ids"
    if issubclass(method, Press):
        return "a prefilled prefix"
    return "generated text" if issubclass(method, Task) and method.generates else "likelihoods"


def _trait(method: type[Component], name: str) -> Any:
    """A class variable, or where it depends on the fields, what it is with their defaults."""
    found = getattr(method, name, None)
    return getattr(method.model_validate({}), name) if isinstance(found, property) else found


def _reflowed(text: str) -> str:
    """Paragraphs as one line each, so that they wrap at the terminal's width; indented lines, which are formulas, as they are."""
    parts = [part if part.startswith(" ") else " ".join(part.split()) for part in text.split("\n\n")]
    return "\n\n".join(parts)


def _idea(method: type[Component]) -> str:
    """The first paragraph, up to the end of its first sentence."""
    text = " ".join((inspect.getdoc(method) or "").split("\n\n")[0].split())
    end: Any = next((i for i in range(len(text)) if text.startswith(". ", i) and i > 40), None)
    return text[:end].rstrip(".:") if end else text.rstrip(".:")
