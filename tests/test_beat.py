"""A process whose task shows no sign of life ends itself and says where it stood; one that does, or never did, goes on."""

import subprocess
import sys
from pathlib import Path

import pytest

from curate.errors import ClusterError

PROGRAM = """
import sys, time
from pathlib import Path
from curate.beat import beat, watched
with watched(float(sys.argv[2]), Path(sys.argv[1])):
    {body}
print("done", Path(sys.argv[1]).exists())
"""
HANGS = "beat(); (lambda: time.sleep(60))()"
HOLDS_THE_INTERPRETER = "import re; beat(); re.match('(a+)+$', 'a' * 60 + 'b')"


def ran(body: str, stacks: Path, seconds: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", PROGRAM.format(body=body), str(stacks), str(seconds)], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("body", [HANGS, HOLDS_THE_INTERPRETER], ids=["sleeps", "holds the interpreter"])
def test_who_hangs_ends_and_says_where(body: str, tmp_path: Path) -> None:
    done = ran(body, tmp_path / "stacks.txt", 0.3)
    assert done.returncode == 1 and "done" not in done.stdout and done.stderr == ""
    assert "most recent call first" in (tmp_path / "stacks.txt").read_text()


@pytest.mark.parametrize("body", ["time.sleep(1)", "beat()", "for _ in range(3): time.sleep(0.6); beat()"], ids=["never beat", "ended", "goes on"])
def test_who_does_not_hang_goes_on_and_leaves_nothing(body: str, tmp_path: Path) -> None:
    done = ran(body, tmp_path / "stacks.txt", 0.3 if body == "time.sleep(1)" else 30)
    assert done.returncode == 0 and done.stdout == "done False\n"


def test_a_beat_outside_of_a_watched_task_does_nothing() -> None:
    program = "from curate.beat import beat; import time; beat(); time.sleep(0.5); print('on')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout == "on\n"


HERE = """
import sys, time
from curate.beat import beat, watched_here
with watched_here(float(sys.argv[1]), "shard 3 hangs; run it again"):
    {body}
print("done")
"""


def ran_here(body: str, seconds: float) -> subprocess.CompletedProcess[str]:
    program = f"import curate.beat; curate.beat._GRACE = 0.5\n{HERE.format(body=body)}"
    return subprocess.run([sys.executable, "-c", program, str(seconds)], capture_output=True, text=True, timeout=120)


def test_who_hangs_before_peoples_eyes_ends_with_one_line() -> None:
    done = ran_here(HANGS, 0.3)
    assert (done.returncode, done.stdout, done.stderr) == (ClusterError.exit_code, "", "error: shard 3 hangs; run it again\n")


def test_who_holds_the_interpreter_before_peoples_eyes_ends_with_its_stacks() -> None:
    done = ran_here(HOLDS_THE_INTERPRETER, 0.3)
    assert done.returncode == 1 and done.stdout == "" and "most recent call first" in done.stderr


@pytest.mark.parametrize("body", ["time.sleep(1.2)", "beat()", "for _ in range(4): time.sleep(0.6); beat()"], ids=["never beat", "ended", "goes on"])
def test_who_does_not_hang_before_peoples_eyes_goes_on(body: str) -> None:
    done = ran_here(f"{body}\ntime.sleep(1.2)" if body == "beat()" else body, 0.3 if body == "time.sleep(1.2)" else 30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
