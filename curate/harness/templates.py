"""What a key of a task file says about a document: one of its columns, or a Jinja template over them, rendered in a sandbox.

Templates read values and call no code: Jinja's sandbox hides attributes that lead to Python's internals, values cannot be changed, and what
multiplies or raises to a power is bounded. Loops are bounded only one by one (100,000 steps each), so a hostile file can still take long.
"""

import ast
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from curate.errors import ConfigError, DataError
from curate.yaml_reader import clip

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

LARGEST = 10**6  # characters or items that an operator may make, and digits of a power
_UNDEFINED = re.compile(r"'(\w+)' is undefined")


@dataclass(frozen=True)
class Field:
    """One key of a task file; `place` says where it stands, as `file:line: key`."""

    source: str
    place: str
    columns: tuple[str, ...] = ()  # of the documents that are asked: a source that is one of these is that column

    @property
    def is_column(self) -> bool:
        return self.source in self.columns

    def value(self, fields: Mapping[str, Any], document: str) -> Any:
        """The column's value as it is, or the rendered text; DataError names the document where it fails."""
        return self.column(fields, document) if self.is_column else self.render(fields, document)

    def column(self, fields: Mapping[str, Any], document: str) -> Any:
        """The value of the column that the source names."""
        if self.source not in fields:
            raise DataError(f"{self.place}: document {document} has no column {self.source!r}; {_having(fields)}")
        return fields[self.source]

    def render(self, fields: Mapping[str, Any], document: str) -> str:
        """The rendered template."""
        try:
            return str(self._template.render(dict(fields)))
        except Exception as error:  # a template raises whatever the values it touches raise
            place = f"{self.place}, line {_line(error)} of the template"
            raise DataError(f"{place}: {_reason(error)}{_nearest(error, fields)}; document {document}: {_having(fields)}") from error

    def check(self) -> None:
        """ConfigError if the template cannot be compiled."""
        try:
            self._template  # noqa: B018  (compiles)
        except Exception as error:  # the lexer, the parser and Python's own compiler raise a dozen kinds
            line = getattr(error, "lineno", None) or 1
            hint = "a template writes {{ column }} and {% if %} ... {% endif %}"
            raise ConfigError(f"{self.place}, line {line} of the template: {_reason(error)}; {hint}") from error

    def literal(self, fields: Mapping[str, Any], document: str) -> Any:
        """The rendered text read as a Python literal: a number, a text in quotes, or a list of these."""
        text = self.render(fields, document)
        found = literal(text)
        if found is None:
            raise DataError(f"{self.place}: gives {clip(ascii(text))}, which is no list; document {document}: {_having(fields)}")
        return found[0]

    @cached_property
    def _template(self) -> Any:
        return environment().from_string(self.source)


def literal(text: str) -> tuple[Any] | None:
    """The value that the text spells in Python's notation, as a tuple of one; None if it spells none."""
    try:
        return (ast.literal_eval(text),)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


@cache
def environment() -> "ImmutableSandboxedEnvironment":
    """Jinja as lm-eval sets it up (undefined names are errors, a trailing newline stays, `regex_replace`), in a sandbox."""
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Sandbox(ImmutableSandboxedEnvironment):
        """Bounds the operators that can make much out of little."""

        intercepted_binops = frozenset({"*", "**"})

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if _size(operator, left, right) > LARGEST:
                raise OverflowError(f"the operator {operator} would make more than {LARGEST:,} characters, items or digits")
            return super().call_binop(context, operator, left, right)

    made = Sandbox(undefined=StrictUndefined, keep_trailing_newline=True)
    made.filters["regex_replace"] = _regex_replace
    return made


def _regex_replace(string: str, pattern: str, repl: str, count: int = 0) -> str:
    return re.sub(pattern, repl, string, count=count)


def _size(operator: str, left: Any, right: Any) -> int:
    """A bound on what the operation makes, in characters, items or digits."""
    if operator == "**":
        return abs(right) * len(str(left)) if isinstance(left, int) and isinstance(right, int) and abs(right) <= LARGEST else LARGEST + isinstance(right, int)
    many, times = (left, right) if hasattr(left, "__len__") else (right, left)
    return len(many) * abs(times) if hasattr(many, "__len__") and isinstance(times, int) else 0


def _line(error: Exception) -> int:
    """The line of the template that raised: Jinja puts it into the traceback."""
    line, trace = 1, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _reason(error: Exception) -> str:
    said = " ".join(str(error).split()).rstrip(".")
    return clip(ascii(said)[1:-1], 160) or type(error).__name__


def _nearest(error: Exception, fields: Mapping[str, Any]) -> str:
    missing = _UNDEFINED.search(str(error))
    close = difflib.get_close_matches(missing[1], list(fields), 1) if missing else []
    return f", did you mean {close[0]}?" if close else ""


def _having(fields: Mapping[str, Any]) -> str:
    return f"its columns are {clip(', '.join(map(ascii, fields)), 400) or 'none'}"
