"""The disk-full driver runs on real small disks, plans sizes that are all too small, and says when it could not try."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from campaign import disk_full
from campaign.disk_full import SKIPPED, Taken, planned

ROOM = Taken(size=1 << 20, inodes=157, file=105_706, files={})


def given(**options: object) -> argparse.Namespace:
    return argparse.Namespace(**{"sizes": 48, "inodes": 16, "limits": 32, "only": "", "limit": 0, **options})


def test_every_planned_disk_and_limit_is_too_small_and_the_last_one_by_the_least() -> None:
    every = planned(ROOM, given())
    by_kind = {kind: [value for one, value in every if one == kind] for kind in ("size", "inodes", "file")}
    assert {kind: len(values) for kind, values in by_kind.items()} == {"size": 48, "inodes": 16, "file": 32}
    assert max(by_kind["size"]) == ROOM.size - 4096 and max(by_kind["inodes"]) == ROOM.inodes - 1 and max(by_kind["file"]) == ROOM.file - 1
    assert all(value % 4096 == 0 for value in by_kind["size"])


def test_a_limit_spreads_over_the_kinds_and_one_trial_is_replayed() -> None:
    assert {kind for kind, _ in planned(ROOM, given(limit=9))} == {"size", "inodes", "file"}
    assert planned(ROOM, given(only="inodes:40")) == [("inodes", 40)]


def test_who_may_not_mount_is_told_that_nothing_was_tried(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert disk_full.main(["--limit", "1"]) == SKIPPED
    assert capsys.readouterr().out.startswith("skipped: ")


def may_mount() -> bool:
    return os.geteuid() == 0 and subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.campaign
@pytest.mark.skipif(not may_mount(), reason="mounting a small disk needs root")
def test_the_program_fills_real_disks_and_says_so_with_its_exit_code(root: Path) -> None:
    command = [sys.executable, "-m", "campaign.disk_full", "--sizes", "1", "--inodes", "1", "--limits", "1"]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=900)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "3 planned, 3 landed, 0 not landed, 3 passed, 0 failed" in ended.stdout
    assert "curate-disk" not in Path("/proc/self/mounts").read_text()
