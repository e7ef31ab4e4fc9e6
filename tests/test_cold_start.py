"""`curate --help` and `curate validate` answer without loading torch or anything of its size."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HEAVY = {"torch", "transformers", "peft", "datasets", "ot", "faiss", "sklearn", "matplotlib", "pandas", "pyarrow", "dask", "distributed", "accelerate"}


def imported(root: Path, *command: str) -> tuple[set[str], str]:
    """Top-level packages that the command imported, and what it printed."""
    done = subprocess.run([sys.executable, "-X", "importtime", *command], cwd=root, capture_output=True, text=True, timeout=120)
    names = re.findall(r"^import time: +\d+ \| +\d+ \| +(\S+)$", done.stderr, re.MULTILINE)
    said = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert done.returncode == 0, said
    return {name.split(".")[0] for name in names}, done.stdout


@pytest.mark.parametrize("arguments", [("--help",), ("validate", "quickstart"), ("list",)])
def test_the_command_line_starts_without_heavy_libraries(root: Path, arguments: tuple[str, ...]) -> None:
    packages, printed = imported(root, "-m", "curate", *arguments)
    assert {"curate", "typer"} <= packages
    assert printed.strip()
    assert packages & HEAVY == set()


def test_a_run_is_verified_without_torch(root: Path) -> None:
    packages, _ = imported(root, "-c", "import curate.pipelines.check, curate.pipelines.certify, curate.pipelines.status")
    assert packages & {"torch", "transformers", "peft", "ot", "faiss"} == set()


def test_a_heavy_import_would_be_seen(root: Path) -> None:
    packages, _ = imported(root, "-c", "import pyarrow")
    assert packages & HEAVY == {"pyarrow"}


def test_one_method_says_its_formula_and_its_fields(command_line: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line("list", "selectors", "k_center") == 0
    assert "reads vectors" in (said := capsys.readouterr().out) and "Gonzalez" in said
    assert command_line("list", "selectors", "k_centre") == 2
    assert "there is no selector 'k_centre'; did you mean k_center" in capsys.readouterr().err
