"""The errno sweep finds nothing wrong with the store as it is, and finds what is wrong with one that was broken on purpose."""

import contextlib
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pytest

import curate.folders
import curate.locks
import curate.store
from campaign.crash_sweep import Sweep
from campaign.errno_sweep import in_turn, judged, told
from campaign.trial import Ended, Verdict
from curate import fault
from curate.errors import DiskError
from curate.store import Store, Workspace, atomic_write, locked

pytestmark = pytest.mark.usefixtures("unsynced")


def make(workspace: Workspace) -> Mapping[str, Any]:
    for number in range(2):
        if workspace.committed(f"shard-{number}") is None:
            workspace.commit(f"shard-{number}", bytes([number]) * 64, {"rows": 8})
    workspace.remove("shard-1.json")
    return {"rows": 16}


def work(place: Path) -> None:
    """A command without a model, which ends like one that is typed."""
    try:
        with locked(place / "runs" / ".lock", wait=False):
            Store(place / "store").build("scores", make, fields={})
            curate.store.atomic_write(place / "runs" / "report", b"report")
    except DiskError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def verdicts(folder: Path, mode: fault.Refusal, lasting: bool, limit: int = 0) -> list[Verdict]:
    (folder / "start").mkdir(parents=True)
    sweep = Sweep(work, folder / "start", folder / "scratch")

    def trial(at: int) -> Verdict:
        return sweep.tried(lambda place: judged(work, place, folder / "notes", sweep.expected, at, mode, lasting))

    return [trial(at) for at in sweep.planned(mode, limit, 0)]


@pytest.mark.parametrize(("mode", "limit", "least"), [("EIO", 0, 40), *((mode, 6, 6) for mode in get_args(fault.Refusal) if mode != "EIO")])
@pytest.mark.parametrize("lasting", [False, True])
def test_any_operation_may_be_refused_once_or_for_good(tmp_path: Path, mode: fault.Refusal, limit: int, least: int, lasting: bool) -> None:
    found = verdicts(tmp_path, mode, lasting, limit)
    assert [one for one in found if one.wrong or not one.landed] == [] and len(found) >= least
    assert all(" unlock " in f" {one.operation} " for one in found if one.survived)


def test_in_turns_every_operation_is_refused_once_and_every_errno_comes() -> None:
    names = ["mkdir", "write", "fsync", "rename", "unlink"] * 30
    operations = [{"number": number, "name": name} for number, name in enumerate(names, 1)]
    ways = [(mode, lasting) for mode in get_args(fault.Refusal) for lasting in (False, True)]
    found = in_turn(operations, ways)
    assert [number for number, _, _ in found] == list(range(1, 151))
    assert {(mode, lasting) for _, mode, lasting in found} == set(ways)
    assert all(fault.hits(mode, names[number - 1]) for number, mode, _ in found)
    assert in_turn(operations, [("EFBIG", False)]) == [(number, "EFBIG", False) for number in range(2, 151, 5)]


def quiet(path: Path, data: bytes, *, below: Path | None = None) -> str:
    """A write that says nothing of what was refused."""
    with contextlib.suppress(DiskError):
        return atomic_write(path, data, below=below)
    return curate.store.digest(data)


def in_place(path: Path, data: bytes, *, below: Path | None = None) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with curate.folders.refusals(path), open(path, "wb") as file:
        fault.point("write", path, data)
        file.write(data)
    return curate.store.digest(data)


def raw(path: Path) -> None:
    """A removal whose refusal is not ours."""
    fault.point("unlink", path)
    path.unlink(missing_ok=True)


def no_advice(path: Path, error: OSError, doing: str = "write") -> DiskError:
    return DiskError(f"cannot {doing}: {error.strerror}")


BUGS: dict[str, tuple[Any, str, Any, str]] = {
    "swallowed": (curate.store, "atomic_write", quiet, "was refused, and the command ended as if it was not"),
    "in place": (curate.store, "atomic_write", in_place, "is visible, but not whole"),
    "raw": (curate.store, "remove", raw, "it exits with 1"),
    "no advice": (curate.folders, "disk_error", no_advice, "no path or no advice"),
    "leftovers": (curate.store, "remove_temporaries", lambda folder: None, "is stray"),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_that_is_put_in_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bug: str) -> None:
    module, name, broken, said = BUGS[bug]
    monkeypatch.setattr(module, name, broken)
    found = verdicts(tmp_path, "EIO", lasting=True)
    assert any(said in line for one in found for line in one.wrong)


def test_an_errno_that_does_not_land_is_not_passed(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    assert not judged(work, tmp_path / "place", tmp_path / "notes", {}, 999, "EIO", False).landed


@pytest.mark.parametrize(
    ("code", "said", "wrong"),
    [
        (7, "error: cannot write /p/x: No space left on device; free or mount the disk", []),
        (1, "error: cannot write /p/x: No space left on device; free or mount the disk", ["it exits with 1"]),
        (7, "Traceback\nOSError", ["it says 2 lines"]),
        (7, "error: cannot write /q/x: No space left on device; free or mount the disk", ["no path"]),
        (7, "error: cannot write /p/x: No space left on device", ["no path or no advice"]),
    ],
)
def test_what_a_user_is_told_is_one_line_with_a_path_and_advice(code: int, said: str, wrong: list[str]) -> None:
    found = told(Ended(code, [], said), Path("/p"))
    assert len(found) == len(wrong) and all(line.startswith(start) for line, start in zip(found, wrong, strict=True))


@pytest.mark.campaign
def test_the_program_sweeps_a_real_experiment_and_says_so_with_its_exit_code(root: Path) -> None:
    command = [sys.executable, "-m", "campaign.errno_sweep", "--stage", "select", "--errno", "ENOSPC", "--limit", "2"]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "4 planned, 4 landed, 0 not landed, 4 passed, 0 failed" in ended.stdout
