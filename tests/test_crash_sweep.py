"""The crash sweep finds nothing wrong with the store as it is, and finds what is wrong with a store that was broken on purpose."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import curate.intact
import curate.locks
import curate.store
from campaign.crash_sweep import Sweep, counted, swept
from campaign.trial import Verdict, half_made
from curate import fault
from curate.store import Request, Store, Workspace, atomic_write, canonical, digest, locked

Patch = Callable[[pytest.MonkeyPatch], None]


pytestmark = pytest.mark.usefixtures("unsynced")


def make(workspace: Workspace) -> Mapping[str, Any]:
    """Shards that a next run goes on from, and a file in a folder of its own."""
    for number in range(2):
        if workspace.committed(f"shard-{number}") is None:
            workspace.commit(f"shard-{number}", bytes([number]) * 64, {"rows": 8})
    workspace.write("checkpoint/weights", b"weights")
    return {"rows": 16}


def work(place: Path) -> None:
    """A run of one artifact and a report, without a model: through the store and the lock of the run's folder like any other."""
    with locked(place / "runs" / ".lock", wait=False):
        Store(place / "store").build("scores", make, fields={})
        curate.store.atomic_write(place / "runs" / "tables" / "report", b"report")


def sweep_of(folder: Path, mode: fault.Mode, work: Callable[[Path], None] = work) -> dict[str, Any]:
    start = folder / "start"
    start.mkdir()
    return swept(Sweep(work, start, folder / "scratch"), mode, 0, 0, lambda line: None)


@pytest.mark.parametrize(("mode", "least"), [("before", 40), ("torn", 8)])
def test_a_run_that_dies_at_any_operation_ends_with_the_same_bytes_when_it_is_run_again(tmp_path: Path, mode: fault.Mode, least: int) -> None:
    found = sweep_of(tmp_path, mode)
    assert found["failures"] == []
    assert found["planned"] == found["landed"] == found["passed"] >= least
    assert found["operations"] == found["planned"] or mode == "torn"


def in_place(path: Path, data: bytes, *, below: Path | None = None) -> str:
    """A write without a temporary file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fault.point("open", path)
    with open(path, "wb") as file:
        fault.point("write", path, data)
        file.write(data)
    return digest(data)


def manifest_first(self: Store, key: str, request: Request, summary: Any, part: Path) -> None:
    """An artifact that has its final name and its manifest before it has its files."""
    files = {str(file.relative_to(part)): file.read_bytes() for file in sorted(part.rglob("*")) if file.is_file() and file.name != "built.json"}
    known = {name: {"bytes": len(data), "blake2b": digest(data)} for name, data in files.items()}
    about = {"schema": 1, "key": key, "stage": request.stage, "fields": request.fields, "inputs": list(request.inputs), "summary": summary, "files": known}
    atomic_write(self.root / key / "manifest.json", canonical(curate.intact.sealed(about)))
    for name, data in files.items():
        atomic_write(self.root / key / name, data)
    shutil.rmtree(part)


def fixed_name(path: Path, data: bytes, *, below: Path | None = None) -> str:
    """A temporary file with a name that no clean-up knows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.new")
    fault.point("open", temporary)
    with open(temporary, "wb") as file:
        fault.point("write", temporary, data)
        file.write(data)
    fault.point("rename", path)
    os.replace(temporary, path)
    return digest(data)


def counting_itself(folder: Path) -> dict[str, dict[str, Any]]:
    """A manifest that lists the one of an earlier try."""
    old = folder / "manifest.json"
    return curate.intact.recorded(folder) | ({old.name: {"bytes": old.stat().st_size, "blake2b": curate.intact.file_digest(old)}} if old.exists() else {})


def forgetful(self: Store, key: str) -> Workspace:
    """A start that does not look for what a dead process was finishing."""
    part = self.root / ".part" / key
    part.mkdir(parents=True, exist_ok=True)
    curate.locks.remove_temporaries(part)
    return Workspace(part)


BUGS: dict[str, tuple[fault.Mode, Patch, str]] = {
    "writes in place": ("torn", lambda patch: patch.setattr(curate.store, "atomic_write", in_place), "visible, but not whole"),
    "manifest before files": ("before", lambda patch: patch.setattr(Store, "_finish", manifest_first), "a finished artifact is not whole"),
    "another temporary name": ("before", lambda patch: patch.setattr(curate.store, "atomic_write", fixed_name), "is visible, but not whole"),
    "a manifest that counts itself": ("before", lambda patch: patch.setattr(curate.store, "recorded", counting_itself), "manifest.json has other bytes"),
    "a closed folder is forgotten": ("before", lambda patch: patch.setattr(Store, "_open", forgetful), "Directory not empty"),
    "leftovers kept in the store": ("before", lambda patch: patch.setattr(curate.store, "remove_temporaries", lambda folder: None), "is stray"),
    "leftovers kept in the run": ("before", lambda patch: patch.setattr(curate.locks, "remove_temporaries", lambda folder: None), "is stray"),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_that_is_put_in_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bug: str) -> None:
    mode, put_in, said = BUGS[bug]
    put_in(monkeypatch)
    found = sweep_of(tmp_path, mode)
    assert found["landed"] == found["planned"]
    assert any(said in line for failure in found["failures"] for line in failure["wrong"])


def test_a_kill_that_does_not_land_is_counted_as_such_and_not_as_passed(tmp_path: Path) -> None:
    """The second run of this work has less to do than the reference run, so its last operations never come."""
    seen = tmp_path / "seen"

    def shrinking(place: Path) -> None:
        for number in range(1 if seen.exists() else 2):
            curate.store.atomic_write(place / str(number), b"number")
        seen.touch()

    found = sweep_of(tmp_path, "before", shrinking)
    assert (found["planned"], found["landed"], found["not_landed"]) == (10, 5, 5)
    assert found["passed"] <= 5


def test_one_trial_is_replayed_and_a_limit_spreads_over_the_operations(tmp_path: Path) -> None:
    (tmp_path / "start").mkdir()
    sweep = Sweep(work, tmp_path / "start", tmp_path / "scratch")
    assert sweep.planned("before", 0, 7) == [7]
    spread = sweep.planned("before", 4, 0)
    assert len(spread) == 4 and spread[0] == 1 and spread[-1] > len(sweep.operations) // 2
    again = swept(sweep, "before", 0, 7, lambda line: None)
    assert (again["planned"], again["passed"]) == (1, 1)


@pytest.mark.slow
def test_the_program_sweeps_a_real_experiment_and_says_so_with_its_exit_code(root: Path) -> None:
    command = [sys.executable, "-m", "campaign.crash_sweep", "--stage", "select", "--limit", "3"]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "all, mode before, seed 0: 3 planned, 3 landed, 0 not landed, 3 passed, 0 failed" in ended.stdout


def test_a_failure_is_said_when_it_comes_and_progress_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    clock = iter(range(0, 1000, 25))
    monkeypatch.setattr("campaign.crash_sweep.time.monotonic", lambda: float(next(clock)))

    def verdicts() -> Iterator[Verdict]:
        yield Verdict(1, "write a", True, ["a is stray"])
        assert said == ["  FAILED at 1 (write a): a is stray"]
        yield Verdict(2, "write b", False)
        yield Verdict(3, "write c", True)
        assert said[1:] == ["  3 tried, 1 failed, 100 s"]

    found = counted(verdicts(), said.append)
    assert (found["planned"], found["landed"], found["not_landed"], found["passed"], found["failed"]) == (3, 2, 1, 1, 1)


@pytest.mark.parametrize(("left", "wrong"), [(b"", False), (b'{"start":0}\n', False), (b'{"start":0}\n{"st', False), (b'{"sta\n', True)])
def test_a_journal_may_be_cut_short_and_no_other_file(tmp_path: Path, left: bytes, wrong: bool) -> None:
    (tmp_path / "shard.starts").write_bytes(left)
    assert half_made(tmp_path, {}, []) == (["shard.starts is visible, but not whole"] if wrong else [])
    (tmp_path / "shard").write_bytes(left)
    assert "shard is visible, but not whole" in half_made(tmp_path, {}, [])
