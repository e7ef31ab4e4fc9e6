"""The catalogue of bad input: what is planned, what curate must say of it, and with which exit code.

A case is a folder to arrange, a command of curate, its exit code and words of its message; `shown` cases are tests of the suite that show one
of the catalogue's promises in another way, and `skipped` ones are out of reach, each with its reason.
"""

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack, chdir
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / "configs" / "quickstart_model"
RECIPE_FILE = "bad.yaml"
CODES = frozenset({0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 130})  # what docs/reliability.md documents
PREPARE = ("run", RECIPE_FILE, "--until", "prepare", "--quiet", "--workers", "1")
SCORE = ("run", RECIPE_FILE, "--until", "score", "--quiet", "--workers", "1")
SELECT = ("run", RECIPE_FILE, "--until", "select", "--quiet", "--workers", "1")
TRAIN = ("run", RECIPE_FILE, "--until", "train", "--quiet", "--workers", "1")
VALIDATE = ("validate", RECIPE_FILE)

Arrange = Callable[[Path], None]
Look = Callable[[Path], list[str]]


def _nothing(place: Path) -> None:
    pass


def _as_it_should_be(place: Path) -> list[str]:
    return []


@dataclass(frozen=True)
class Case:
    """One planned trial. `said` are pieces of the message, in which `{}` stands for the folder; `look` says what is wrong with what is there afterwards."""

    id: str
    recipe: str | bytes
    arguments: tuple[str, ...]
    code: int
    said: tuple[str, ...] = ()
    arrange: Arrange = _nothing
    look: Look = _as_it_should_be
    lines: int = 1  # of the message; none where the exit code is 0
    light: bool = False  # answered in two seconds, before torch is imported
    patches: Mapping[str, Callable[[], Any]] = field(default_factory=dict)  # what makes the stand-in for a name, for as long as the case runs
    environment: Mapping[str, str] = field(default_factory=dict)
    again: tuple[tuple[str, ...], ...] = ()  # commands before it, each of which must end well


@dataclass(frozen=True)
class Shown:
    """A test of the suite that shows the case."""

    id: str
    test: str


@dataclass(frozen=True)
class Skipped:
    """A case that is not tried here, and why."""

    id: str
    why: str


def arranged(case: Case, place: Path) -> None:
    """The case's recipe and files in the folder."""
    recipe = case.recipe.encode() if isinstance(case.recipe, str) else case.recipe
    (place / RECIPE_FILE).write_bytes(recipe)
    case.arrange(place)


def curate(*arguments: str) -> int:
    """`curate ...` in this process; its exit code."""
    from curate.__main__ import main

    with patch.object(sys, "argv", ["curate", *arguments]):
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
    return 0


def played(case: Case) -> dict[str, Any]:
    """Run the case in this process and in this folder; how it went."""
    with ExitStack() as stack:
        stack.enter_context(patch.dict(os.environ, case.environment))
        for name, stand_in in case.patches.items():
            stack.enter_context(patch(name, stand_in()))
        before = [curate(*arguments) for arguments in case.again]
        code = curate(*case.arguments)
    return {"code": code, "before": before, "torch": "torch" in sys.modules}


def tried_here(case: Case, place: Path, said: Callable[[], tuple[str, str]]) -> list[str]:
    """Run the case in this process, in this folder; what is wrong. `said` gives what was printed and what went to standard error."""
    arranged(case, place)
    with chdir(place):
        found = played(case)
    wrong = [f"a command before it exits with {code}" for code in found["before"] if code]
    return wrong + wrong_with(case, place, int(found["code"]), *said())


def wrong_with(case: Case, place: Path, code: int, out: str, error: str) -> list[str]:
    """What is wrong with how curate took the case: a line each."""
    wrong = [] if code == case.code else [f"it exits with {code}, not {case.code}: {error[-300:]!r}"]
    if "Traceback" in error:
        wrong.append("it shows a traceback")
    if case.code:
        wrong += [f"it does not say {words!r}, but {error[-400:]!r}" for piece in case.said if (words := piece.replace("{}", str(place))) not in error]
        if not error.startswith(("error: ", "Usage")) or error.count("\n") != case.lines:
            wrong.append(f"it says {error.count(chr(10))} lines, not {case.lines}: {error[:300]!r}")
    elif error:
        wrong.append(f"it ends well, but says {error[:300]!r}")
    return wrong + case.look(place)
