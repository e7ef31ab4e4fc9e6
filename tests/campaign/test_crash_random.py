"""Random kills from outside find nothing wrong with a small program over the store, and find what is wrong with one that was broken on purpose."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from campaign.crash_random import _TRIES, swept
from campaign.crash_trial import Ground, Subject, run_trial
from campaign.tally import total

# A run over the store that imports no heavy library, with a lock, shards and a report; the variable BUG breaks it.
PROGRAM = """
import os, signal, subprocess, sys, time
from pathlib import Path
import curate.locks, curate.store
from curate.errors import CurateError
from curate.store import Store, digest, locked

bug, place = os.environ.get("BUG", ""), Path.cwd()
tried = Path(os.environ.get("TRIED", place))  # a holder waits until another process has tried to be one too
os.fsync = lambda handle: None  # a kill spares what the kernel has not written yet

def naive(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        for start in range(0, len(data), 8):
            file.write(data[start : start + 8])
            file.flush()
            time.sleep(0.004)
    return digest(data)

def make(workspace):
    for number in range(24):
        if workspace.committed(f"shard-{number}") is None:
            workspace.commit(f"shard-{number}", bytes([number]) * 64, {"rows": 8})
        elif bug == "counts what it finds":
            workspace.write("found", str(os.getpid()).encode())
        time.sleep(0.04)
    for _ in range(600):
        if not tried.exists():
            time.sleep(0.1)
    return {"rows": 192}

def run():
    (place / "sign").write_text("")
    if bug == "writes in place":
        curate.store.atomic_write = naive
    if bug == "leaves a process" and not os.fork():
        time.sleep(60)
        os._exit(0)
    if bug == "swallows Ctrl-C":
        signal.signal(signal.SIGINT, lambda *given: sys.exit(0 if (place / "store").exists() else 1))
    Store(place / "store").build("scores", make, fields={})
    curate.store.atomic_write(place / "report", b"report")

signal.signal(signal.SIGTERM, signal.default_int_handler)
try:
    if bug == "takes no lock":
        run()
    else:
        with locked(place / ".lock", wait=False):
            run()
except CurateError as error:
    print(error)
    if not tried.exists():
        tried.touch()
    sys.exit(error.exit_code)
except KeyboardInterrupt:
    sys.exit(130)
"""


def subject(folder: Path) -> Subject:
    program = folder / "program.py"
    program.write_text(PROGRAM)
    return Subject(lambda place: place.mkdir(), lambda workers: [sys.executable, str(program)], lambda place: [], Path("sign"))


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    (tmp_path / "scratch").mkdir()
    return Ground.laid(subject(tmp_path), tmp_path / "scratch", seed=0)


@pytest.mark.parametrize("mode", ["driver", "triple", "interrupt", "terminate", "second", "frozen"])
def test_a_run_that_is_killed_interrupted_or_frozen_ends_with_the_same_bytes(ground: Ground, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    if mode in ("second", "frozen"):
        monkeypatch.setenv("TRIED", str(ground.scratch / "tried"))
    said: list[str] = []
    found = swept(ground, mode, 1, range(2), said.append)
    assert found["failures"] == []
    assert [line.split()[0] for line in said] == [f"{mode}:1:0", f"{mode}:1:1"]
    assert found["passed"] == found["landed"] >= 1


BUGS = {
    "writes in place": ("triple", ("not whole", "other bytes", "exits with")),
    "counts what it finds": ("triple", ("stray",)),
    "leaves a process": ("driver", ("still runs",)),
    "takes no lock": ("frozen", ("not 6",)),
    "swallows Ctrl-C": ("interrupt", ("exits with 1", "exits with 0, but")),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_that_is_put_in_is_caught(ground: Ground, monkeypatch: pytest.MonkeyPatch, bug: str) -> None:
    monkeypatch.setenv("BUG", bug)
    monkeypatch.setattr("campaign.crash_trial._ORPHANS", 0.5)
    monkeypatch.setattr("campaign.crash_trial._PATIENCE", 6.0)  # of a driver that waits where it should have refused
    mode, said = BUGS[bug]
    lines: list[str] = []
    for number in range(6):
        lines += run_trial(ground, mode, 1, number).wrong
        if any(word in line for line in lines for word in said):
            return
    pytest.fail(f"not caught: {lines}")


def test_a_kill_after_the_end_is_counted_as_not_landed_and_not_as_passed(ground: Ground) -> None:
    ground.seconds = ground.working = 1000.0
    said: list[str] = []
    found = swept(ground, "group", 1, range(1), said.append)
    assert len(said) == 1 and said[0].startswith("  group:1:0 NOT LANDED (")
    assert (found["landed"], found["not_landed"], found["passed"], found["failed"]) == (0, _TRIES, 0, 0)
    assert total([found])["passed"] < total([found])["planned"]


@pytest.mark.campaign
def test_the_program_kills_the_real_command_and_says_so_with_its_exit_code(root: Path) -> None:
    command = [sys.executable, "-m", "campaign.crash_random", "--only", "driver:1:0"]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "all, seed 0: 1 planned, 1 landed, 0 not landed, 1 passed, 0 failed" in ended.stdout
