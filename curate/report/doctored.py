"""What was found of a machine that is to run curate, as a document and as a table in the terminal."""

from typing import Literal

from pydantic import Field
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from curate.core import Config
from curate.report.wording import visible

Level = Literal["ok", "warning", "error"]

_STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}


class Check(Config):
    """One thing that was looked at."""

    what: str
    level: Level
    found: str
    advice: str = Field("", description="What to do.")


class Doctored(Config):
    """All that was looked at."""

    checks: list[Check]

    @property
    def broken(self) -> bool:
        """Whether a run cannot work here."""
        return any(check.level == "error" for check in self.checks)


def print_doctored(found: Doctored, console: Console) -> None:
    """A line for each, how it stands, and below it what to do."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), safe_box=True)
    table.add_column("", no_wrap=True)
    table.add_column("what", no_wrap=True)
    table.add_column("found", overflow="fold")
    for check in found.checks:
        lines = f"{check.found}\n{check.advice}" if check.advice else check.found
        texts = (visible(text, keep="\n").encode(console.encoding, "backslashreplace").decode(console.encoding) for text in (check.what, lines))
        table.add_row(Text(check.level, style=_STYLES[check.level]), *map(Text, texts))
    console.print(table)
