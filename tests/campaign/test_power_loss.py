"""The power-loss driver finds nothing wrong with the store as it is, and finds each missing flush; its disk keeps for certain only what was flushed."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import curate.folders
import curate.journal
import curate.store
from campaign.durable import Disk, draws
from campaign.power_loss import Cuts
from campaign.trial import Verdict
from curate import fault
from curate.journal import JournalFile
from curate.store import Store, Workspace, locked

pytestmark = pytest.mark.usefixtures("unsynced")


def make(workspace: Workspace) -> Mapping[str, Any]:
    for number in range(2):
        if workspace.committed(f"shard-{number}") is None:
            workspace.commit(f"shard-{number}", bytes([number]) * 64, {"rows": 8})
    journal = JournalFile(workspace.path / "decisions.jsonl")
    for step in range(len(journal.entries()), 2):
        journal.append({"step": step})
    workspace.write("checkpoint/weights", b"weights")
    return {"rows": 16}


def work(place: Path) -> None:
    with locked(place / "runs" / ".lock", wait=False):
        Store(place / "store").build("scores", make, fields={})
        curate.store.atomic_write(place / "runs" / "report", b"report")


def cuts_of(folder: Path, work: Callable[[Path], None] = work) -> Cuts:
    (folder / "start").mkdir()
    (folder / "scratch").mkdir()
    return Cuts(work, folder / "start", folder / "scratch")


def verdicts(folder: Path, count: int = 2) -> list[Verdict]:
    cuts = cuts_of(folder)
    return list(cuts.verdicts(cuts.planned(0, 0), count, 0))


def test_a_power_cut_at_any_operation_takes_nothing_that_was_flushed_and_the_same_command_goes_on(tmp_path: Path) -> None:
    found = verdicts(tmp_path)
    assert [one for one in found if one.wrong] == [] and len(found) > 5 * 50


def unflushed(only: Callable[[str], bool]) -> Callable[[pytest.MonkeyPatch], None]:
    """Some flushes are neither done nor announced."""
    announced = fault.point

    def point(name: str, path: Path, data: bytes | None = None, source: Path | None = None) -> None:
        if not (name.startswith("fsync") and only(f"{name} {path}")):
            announced(name, path, data, source)

    return lambda patch: patch.setattr(fault, "point", point)


BUGS = {
    "data not flushed before the rename": (lambda what: what.startswith("fsync /"), "a finished artifact is not whole"),
    "folders never flushed": (lambda what: what.startswith("fsync folder"), "the command had ended, and"),
    "a new folder not flushed into the one above": (lambda what: what.startswith("fsync folder") and what.endswith("store"), "was flushed, and is gone"),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_flush_that_is_left_out_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bug: str) -> None:
    only, said = BUGS[bug]
    unflushed(only)(monkeypatch)
    assert any(said in line for one in verdicts(tmp_path, 0) for line in one.wrong)


def test_a_write_that_goes_past_the_notes_makes_the_trials_void(tmp_path: Path) -> None:
    def past(place: Path) -> None:
        work(place)
        (place / "secret").write_bytes(b"nobody was told")

    with pytest.raises(SystemExit, match="the trials mean nothing: secret"):
        list(cuts_of(tmp_path, past).verdicts([1], 0, 0))


def test_one_moment_is_replayed_and_a_limit_takes_the_last_one_in(tmp_path: Path) -> None:
    cuts = cuts_of(tmp_path)
    last = len(cuts.operations) + 1
    assert cuts.planned(0, 7) == [7] and cuts.planned(3, 0)[-1] == last and len(cuts.planned(0, 0)) == last
    assert {one.number for one in cuts.verdicts([7], 1, 0)} <= {7}
    every = cuts.planned(0, 0)
    in_turn = list(cuts.verdicts(every, 2, 0, turns=True))
    assert len(in_turn) == len(every) and len({one.operation.partition("; ")[2] for one in in_turn}) == 5


def operation(name: str, path: str, source: str = "") -> dict[str, Any]:
    return {"name": name, "path": f"/d/{path}".rstrip("/"), "source": f"/d/{source}"}


def disk_after(folder: Path, *operations: tuple[dict[str, Any], bytes | None]) -> Disk:
    (folder / "old").write_bytes(b"old")
    disk = Disk(folder, Path("/d"))
    for one, data in operations:
        disk.apply(one, data)
    return disk


def ways(disk: Disk, count: int = 64) -> list[dict[str, bytes | None]]:
    return [disk.left(luck, cut) for _, luck, cut in draws(count, np.random.Generator(np.random.Philox(key=0)))]


MADE = [(operation("open", "new"), None), (operation("write", "new"), b"bytes"), (operation("fsync", "new"), None)]
GIVEN = [*MADE, (operation("rename", "old", "new"), None)]


def test_a_renamed_file_is_old_or_new_until_its_folder_is_flushed_and_new_after_it(tmp_path: Path) -> None:
    assert {way["old"] for way in ways(disk_after(tmp_path, *GIVEN))} == {b"old", b"bytes"}
    settled = ways(disk_after(tmp_path, *GIVEN, (operation("fsync folder", ""), None)))
    assert all(way == {"old": b"bytes"} for way in settled)


def test_a_file_that_was_renamed_before_it_was_flushed_may_be_empty_torn_or_zeros(tmp_path: Path) -> None:
    left = {way["old"] for way in ways(disk_after(tmp_path, *MADE[:2], GIVEN[3], (operation("fsync folder", ""), None)))}
    assert {b"", b"bytes"} <= left and any(data and data.endswith(b"\0") for data in left) and any(data and b"bytes".startswith(data) for data in left)
    assert b"old" not in left


def test_names_come_in_any_order_but_those_of_one_file(tmp_path: Path) -> None:
    two = [(operation("mkdir", name), None) for name in "ab"]
    left = [frozenset(way) - {"old"} for way in ways(disk_after(tmp_path, *two, (operation("unlink", "old"), None)))]
    assert set(left) >= {frozenset(), frozenset("a"), frozenset("b"), frozenset("ab")}
    chain = [(operation("mkdir", "a"), None), (operation("rename", "b", "a"), None), (operation("rename", "c", "b"), None)]
    assert {frozenset(way) - {"old"} for way in ways(disk_after(tmp_path, *chain))} == {frozenset(), *map(frozenset, "abc")}


def test_a_removed_file_may_come_back_and_a_folder_that_was_not_flushed_into_its_own_is_lost_with_what_it_holds(tmp_path: Path) -> None:
    assert {"old" in way for way in ways(disk_after(tmp_path, (operation("unlink", "old"), None)))} == {True, False}
    inner = [(operation("mkdir", "f"), None), (operation("open", "f/x"), None), (operation("fsync", "f/x"), None), (operation("fsync folder", "f"), None)]
    assert {("f" in way, "f/x" in way) for way in ways(disk_after(tmp_path, *inner))} == {(True, True), (False, False)}


@pytest.mark.campaign
def test_the_program_cuts_a_real_experiment_and_says_so_with_its_exit_code(root: Path) -> None:
    command = [sys.executable, "-m", "campaign.power_loss", "--stage", "select", "--limit", "2", "--draws", "0"]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "6 planned, 6 landed, 0 not landed, 6 passed, 0 failed" in ended.stdout


@pytest.mark.parametrize("where", [curate.store, curate.folders], ids=["bytes", "names"])
def test_a_flush_that_is_announced_and_not_done_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: Any) -> None:
    class Forgetful:
        """`os` as this module sees it, without flushes."""

        def __getattr__(self, name: str) -> Any:
            return (lambda handle: None) if name == "fsync" else getattr(os, name)

    monkeypatch.setattr(where, "os", Forgetful())
    with pytest.raises(SystemExit, match="what was to be flushed was not, "):
        cuts_of(tmp_path)
