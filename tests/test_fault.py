"""Fault points number every operation on the file system, kill at the one that is asked for, and cost nothing when off."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from campaign.trial import in_child
from curate import fault
from curate.errors import ConfigError
from curate.locks import locked
from curate.store import Store, Workspace, atomic_write

WRITE = ["open", "write", "fsync", "rename", "fsync folder"]
WRITTEN = b"0123456789"


@pytest.fixture(autouse=True)
def unarmed() -> Iterator[None]:
    yield
    fault.arm(None)


def write(place: Path) -> None:
    atomic_write(place / "file", WRITTEN)


def make(workspace: Workspace) -> Mapping[str, Any]:
    workspace.write("file", WRITTEN)
    return {}


def noted() -> list[fault.Operation]:
    """From now on every operation comes into this list."""
    operations: list[fault.Operation] = []
    fault.arm(fault.Fault(0, observe=operations.append))
    return operations


def test_the_operations_of_a_write_are_numbered_in_order_and_nothing_else_changes(tmp_path: Path) -> None:
    without = atomic_write(tmp_path / "other", WRITTEN)
    operations = noted()
    assert atomic_write(tmp_path / "file", WRITTEN) == without
    assert [(one.number, one.name) for one in operations] == list(enumerate(WRITE, 1))
    assert [one.data for one in operations] == [None, WRITTEN, None, None, None]
    assert [entry.name for entry in sorted(tmp_path.iterdir())] == ["file", "other"]


def test_an_artifact_is_locked_written_described_renamed_and_unlocked(tmp_path: Path) -> None:
    operations = noted()
    Store(tmp_path).build("stage", make, fields={})
    assert [one.name for one in operations] == ["lock", *WRITE, *WRITE, *WRITE, "rename", "fsync folder", "unlock"]
    assert [one.path.name for one in operations if one.name == "rename"][:3] == ["file", "built.json", "manifest.json"]


def test_a_lock_and_what_a_dead_holder_left_are_points_too(tmp_path: Path) -> None:
    leftover = tmp_path / "tables" / f".table.{'0' * 32}.tmp"
    leftover.parent.mkdir()
    leftover.touch()
    operations = noted()
    with locked(tmp_path / ".lock", wait=False):
        pass
    assert [(one.name, one.path.name) for one in operations] == [("lock", ".lock"), ("unlink", leftover.name), ("unlock", ".lock")]


@pytest.mark.parametrize("at", range(1, len(WRITE) + 1))
def test_a_kill_before_an_operation_leaves_the_file_as_it_was_until_the_rename_and_whole_after_it(tmp_path: Path, at: int) -> None:
    (tmp_path / "file").write_bytes(b"old")
    ended = in_child(write, tmp_path, tmp_path / "notes", at)
    assert (ended.code, len(ended.operations)) == (-signal.SIGKILL, at)
    assert (tmp_path / "file").read_bytes() == (WRITTEN if at == 5 else b"old")
    assert [path.stat().st_size for path in tmp_path.glob(".file.*.tmp")] == {1: [], 2: [0], 3: [10], 4: [10], 5: []}[at]


def test_a_torn_write_leaves_half_of_the_bytes_under_the_temporary_name_only(tmp_path: Path) -> None:
    assert in_child(write, tmp_path, tmp_path / "notes", 2, "torn").code == -signal.SIGKILL
    assert not (tmp_path / "file").exists()
    assert [path.read_bytes() for path in tmp_path.glob(".file.*.tmp")] == [WRITTEN[:5]]


@pytest.mark.parametrize(("at", "mode"), [(6, "before"), (1, "torn"), (4, "torn")])
def test_a_fault_that_cannot_land_leaves_the_process_alive(tmp_path: Path, at: int, mode: fault.Mode) -> None:
    assert in_child(write, tmp_path, tmp_path / "notes", at, mode).code == 0
    assert (tmp_path / "file").read_bytes() == WRITTEN


def started(place: Path, value: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "curate", "init", str(place)]
    return subprocess.run(command, env={**os.environ, fault.VARIABLE: value}, capture_output=True, text=True, timeout=60)


def test_the_variable_kills_a_real_command(tmp_path: Path) -> None:
    assert started(tmp_path, "before:4").returncode == -signal.SIGKILL
    assert [path.suffix for path in tmp_path.iterdir()] == [".tmp"]
    assert started(tmp_path, "before:6").returncode == 0
    assert (tmp_path / "recipe.yaml").is_file()


def test_a_wrong_value_of_the_variable_is_an_error_in_one_line(tmp_path: Path) -> None:
    ended = started(tmp_path, "sometimes")
    assert ended.returncode == ConfigError.exit_code
    assert ended.stderr.startswith("error: CURATE_FAULT='sometimes' is no fault; write MODE:NUMBER") and ended.stderr.count("\n") == 1


@pytest.mark.parametrize("text", ["", "before", "before:", "before:0", "before:-1", "before:1.5", "after:1", "before:1:2", "torn: 3", "before:\u0663"])
def test_only_a_mode_and_a_positive_number_are_a_fault(text: str) -> None:
    with pytest.raises(ConfigError, match="is no fault"):
        fault.parse(text)


def test_a_fault_is_read_as_it_is_written() -> None:
    assert (fault.parse("torn:17").at, fault.parse("torn:17").mode) == (17, "torn")
