"""A folder for a while is gone at the end, and one that a killed process left is gone after the next; nothing else in the same place is touched."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from curate import scratch
from curate.errors import DiskError
from curate.scratch import Scratch

HOLDS = """
import sys, time
from curate.scratch import Scratch
held = Scratch("plan")
(held.path / "store").mkdir()
(held.path / "store" / "rows").write_bytes(b"rows")
(held.path / "store").chmod(0)
print(held.path, flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, not looked at by this process before."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    scratch._remove_left.cache_clear()
    return tmp_path


def names(where: Path) -> set[str]:
    return {path.name for path in where.iterdir()}


def holding() -> tuple["subprocess.Popen[str]", Path]:
    process = subprocess.Popen([sys.executable, "-c", HOLDS], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_a_folder_is_empty_private_and_gone_afterwards(where: Path) -> None:
    with Scratch("export") as folder:
        assert list(folder.iterdir()) == []
        assert folder.is_relative_to(where) and (folder.stat().st_mode | folder.parent.stat().st_mode) & 0o077 == 0
        (folder / "a").mkdir()
        (folder / "a").chmod(0)
    assert names(where) == set()
    held = Scratch("stacks")
    held.remove()
    held.remove()
    assert names(where) == set()


def test_the_folder_of_a_killed_process_goes_with_the_next_one_and_that_of_a_living_one_stays(where: Path) -> None:
    dead, its = holding()
    alive, kept = holding()
    try:
        dead.send_signal(signal.SIGKILL)
        dead.wait()
        assert names(where) == {its.parent.name, kept.parent.name}
        with Scratch("hub"):
            assert not its.parent.exists() and kept.exists()
    finally:
        alive.kill()
        alive.wait()


def test_nothing_else_is_touched(where: Path) -> None:
    for name in ("curate-plan-abcdefgh", "curate-store-abcdefgh", "curate-plan-abcdefgh.d", "curate-vllm-elsewhere", "outside"):
        (where / name).mkdir()
        (where / name / "rows").write_bytes(b"rows")
    (where / "curate-store-abcdefgh" / ".holder").write_bytes(scratch._machine())
    (where / "outside" / ".holder").write_bytes(scratch._machine())
    (where / "curate-hub-linked12").symlink_to(where / "outside")
    (where / "curate-vllm-elsewhere" / ".holder").write_bytes(b"another machine")
    (where / "curate-export-file1234").write_bytes(b"")
    before = {str(path): path.is_file() and path.read_bytes() for path in where.rglob("*")}
    with Scratch("verify"):
        pass
    assert {str(path): path.is_file() and path.read_bytes() for path in where.rglob("*")} == before


@pytest.mark.parametrize("holder", [None, b""], ids=["no holder", "an empty holder"])
def test_one_that_was_killed_before_it_locked_goes_an_hour_later(where: Path, holder: bytes | None) -> None:
    left = where / "curate-sandbox-abcdefgh"
    left.mkdir()
    if holder is not None:
        (left / ".holder").write_bytes(holder)
    Scratch("plan").remove()
    assert left.exists()
    os.utime(left, (time.time() - 4000,) * 2)
    scratch._remove_left.cache_clear()
    Scratch("plan").remove()
    assert not left.exists()


def test_where_none_can_be_made_one_line_says_so(where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(where / "missing"))
    with pytest.raises(DiskError, match=r"^no folder for temporary files .*missing.*; name one in TMPDIR that can be written") as error:
        Scratch("plan")
    assert "\n" not in str(error.value)
