"""Every exit code has its section, the section tells no lies about commands and keys, and an error at a terminal points to it."""

import errno
import importlib.metadata
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

import curate.errors
from curate.error_pages import page, pointer, section
from curate.errors import ConfigError, CurateError
from curate.recipe import Recipe

CODES = {
    kind.exit_code: kind.__name__.removesuffix("Error").lower()
    for kind in vars(curate.errors).values()
    if isinstance(kind, type) and issubclass(kind, CurateError) and kind is not CurateError
}
MISTAKE = [sys.executable, "-m", "curate", "run", "absent.yaml"]


def test_every_exit_code_has_a_section_under_the_name_of_its_error_and_no_other_has() -> None:
    assert dict(re.findall(r"^## (\d+): (\w+)$", page(), re.MULTILINE)) == {"1": "unexpected"} | {str(code): name for code, name in CODES.items()}


@pytest.mark.parametrize("code", CODES)
def test_a_section_is_found_by_code_and_by_name_and_holds_nothing_of_the_next(code: int) -> None:
    found = section(str(code))
    assert found == section(CODES[code])
    assert found.startswith(f"## {code}: ") and found.count("\n## ") == 0 and len(found) > 100


def test_a_code_that_nothing_ends_with_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match=r"'77'; there are 1 \(unexpected\), 2 \(config\)"):
        section("77")


def field(dotted: str) -> Any:
    """The field of a recipe under a dotted key; KeyError where there is none."""
    kind: Any = Recipe
    for name in dotted.split("."):
        found = kind.model_fields[name]
        kind = found.annotation
    return found


def test_every_key_of_a_recipe_that_the_page_names_is_there() -> None:
    dotted = re.findall(r"`([a-z_]+\.[a-z_]+)(?:[:=][^`]*)?`", page())
    keys = {key for key in dotted if key.split(".")[0] in Recipe.model_fields and key != "model.safetensors"}
    assert len(keys) >= 4
    for key in keys:
        field(key)


def at_a_terminal(command: list[str], folder: Path) -> bytes:
    """What a command prints where its standard error is a terminal."""
    ours, theirs = pty.openpty()
    try:
        subprocess.run(command, cwd=folder, stderr=theirs, stdin=subprocess.DEVNULL, timeout=60, check=False)
        return os.read(ours, 10_000)
    finally:
        os.close(ours)
        os.close(theirs)


def test_an_error_at_a_terminal_points_to_its_section_and_in_a_file_stays_one_line(tmp_path: Path) -> None:
    shown = at_a_terminal(MISTAKE, tmp_path).decode().splitlines()
    assert len(shown) == 2 and shown[0].startswith("error: ") and shown[1].endswith("curate errors config")
    logged = subprocess.run(MISTAKE, cwd=tmp_path, capture_output=True, timeout=60, check=False, text=True)
    assert logged.returncode == ConfigError.exit_code and logged.stderr.splitlines() == shown[:1]


def test_where_the_package_names_a_site_the_pointer_is_a_link_too(monkeypatch: pytest.MonkeyPatch) -> None:
    named = Message()
    named["Project-URL"] = "Source, https://example.org/code"
    monkeypatch.setattr(importlib.metadata, "metadata", lambda name: named)
    assert pointer(3) == "what helps: curate errors data"
    named["Project-URL"] = "Documentation, https://example.org/docs/"
    assert pointer(3) == "what helps: curate errors data, or https://example.org/docs/errors/#3-data"


def _raises(error: Exception) -> Callable[..., None]:
    def app(**settings: Any) -> None:
        raise error

    return app


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
def test_a_refusal_of_the_disk_that_nothing_was_ready_for_is_one_line_too(
    command_line: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    monkeypatch.setattr("curate.cli.app", _raises(OSError(number, os.strerror(number), "/somewhere/file")))
    assert command_line("list") == 7
    assert re.fullmatch(rf"error: cannot use /somewhere/file: {os.strerror(number)}; .+ and run the same command again\n", capsys.readouterr().err)
    assert command_line("list", "--debug") == 7
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [OSError("no number"), OSError(errno.ENOSPC, "no name"), OSError(errno.ENOENT, "gone", "/a"), TimeoutError(110, "late", "/a")]
)
def test_other_errors_of_the_system_are_not_taken_for_one(command_line: Callable[..., int], monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    monkeypatch.setattr("curate.cli.app", _raises(error))
    with pytest.raises(type(error)):
        command_line("list")
