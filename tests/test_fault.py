"""Fault points number every operation on the file system, kill at the one that is asked for, and cost nothing when off."""

import errno
import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import pytest

from campaign.trial import in_child
from curate import fault
from curate.errors import ConfigError, DiskError
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
    made, closed = ["mkdir", "fsync folder"], ["rename", "fsync folder"]
    wanted = [*made, "lock", *made, *WRITE, *WRITE, *closed, *WRITE, "rename", "fsync folder", "fsync folder", "unlock"]
    assert [one.name for one in operations] == wanted
    key = Store(tmp_path).key("stage", 1, {})
    assert [one.path.name for one in operations if one.name == "rename"] == ["file", "built.json", f"{key}.closed", "manifest.json", key]


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


NO_FAULTS = ["", "before", "before:", "before:0", "before:-1", "before:1.5", "after:1", "before:1:2", "torn: 3", "before:\u0663"]
NO_FAULTS += ["before:1+", "EIO:+", "EPERM:1"]


@pytest.mark.parametrize("text", NO_FAULTS)
def test_only_a_mode_and_a_positive_number_are_a_fault(text: str) -> None:
    with pytest.raises(ConfigError, match="is no fault"):
        fault.parse(text)


def test_a_fault_is_read_as_it_is_written() -> None:
    for text, expected in {"torn:17": (17, "torn", False), "ENOSPC:3": (3, "ENOSPC", False), "EIO:3+": (3, "EIO", True)}.items():
        found = fault.parse(text)
        assert (found.at, found.mode, found.lasting) == expected


@pytest.mark.parametrize("mode", get_args(fault.Refusal))
@pytest.mark.parametrize("at", range(1, len(WRITE) + 1))
def test_an_errno_at_any_operation_is_one_error_that_names_the_file_and_leaves_it_old_or_whole(tmp_path: Path, mode: fault.Refusal, at: int) -> None:
    (tmp_path / "file").write_bytes(b"old")
    fault.arm(fault.Fault(at, mode))
    if not fault.hits(mode, WRITE[at - 1]):
        write(tmp_path)
        return
    with pytest.raises(DiskError, match=f"^cannot write {tmp_path}/file: {os.strerror(getattr(errno, mode))}; .+ and run the same command again$"):
        write(tmp_path)
    assert (tmp_path / "file").read_bytes() == (WRITTEN if at == 5 else b"old")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_lasting_errno_refuses_what_comes_after_it_too_and_leaves_half_of_a_write(tmp_path: Path) -> None:
    fault.arm(fault.Fault(2, "EIO", lasting=True))
    for _ in range(2):
        with pytest.raises(DiskError, match="look at the disk, which fails"):
            write(tmp_path)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [WRITTEN[:5]]  # the second time no file could be made, and none was removed
    fault.arm(None)
    write(tmp_path)
    assert (tmp_path / "file").read_bytes() == WRITTEN


def test_a_full_disk_can_still_remove_and_a_limit_of_size_stops_writes_only() -> None:
    names = {"mkdir", "lock", "unlock", "open", "write", "fsync", "fsync folder", "rename", "unlink", "rmdir", "rmtree"}
    assert {name for name in names if not fault.hits("ENOSPC", name)} == {"unlock", "unlink", "rmdir", "rmtree"}
    assert {name for name in names if fault.hits("EFBIG", name)} == {"write"}
    assert all(fault.hits(mode, name) for mode in ("EIO", "EACCES", "EROFS", "before") for name in names)


def test_an_errno_when_a_file_is_closed_is_an_error_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quota on a network's file system may come out only there."""

    class Late(io.BytesIO):
        def fileno(self) -> int:
            return 0

        def close(self) -> None:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr("builtins.open", lambda *arguments, **more: Late())
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    with pytest.raises(DiskError, match="Disk quota exceeded; free a part of the quota and run the same command again"):
        write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_variable_refuses_a_real_command(tmp_path: Path) -> None:
    ended = started(tmp_path, "ENOSPC:2")
    assert ended.returncode == DiskError.exit_code and list(tmp_path.iterdir()) == []
    assert ended.stderr == f"error: cannot write {tmp_path}/recipe.yaml: No space left on device; free or mount the disk and run the same command again\n"
