"""Ctrl-C while a library runs code from a string ends the command with its exit code, and not by a signal."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import curate.cli
from curate.__main__ import {entry}

def app(args, standalone_mode):
    exec("raise KeyboardInterrupt")

curate.cli.app = app
{entry}()
"""


def ended(entry: str, folder: Path, root: Path) -> int:
    """The exit code of a program of `python -m` that is interrupted so; negative for a signal."""
    (folder / "interrupted_here.py").write_text(PROGRAM.format(entry=entry))
    path = os.pathsep.join((str(folder), str(root)))
    command = [sys.executable, "-m", "interrupted_here"]
    return subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": path}, capture_output=True, timeout=60, check=False).returncode


@pytest.mark.parametrize(("entry", "code"), [("main_of_module", 130), ("main", -2)])
def test_the_module_ends_with_its_exit_code_where_python_would_kill_itself(entry: str, code: int, tmp_path: Path, root: Path) -> None:
    assert ended(entry, tmp_path, root) == code
