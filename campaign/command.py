"""A command in processes of its own: started in a session and with a mark, watched, signalled from outside, and whatever it leaves running found.

Every process that a command starts inherits the mark in its environment, and most its session, so that nobody else's process is ever signalled.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

ROOT = Path(__file__).resolve().parents[1]
MARK = "CURATE_CAMPAIGN_MARK"
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONPATH": str(ROOT)}


def curate(*arguments: object) -> list[str]:
    """The command line of `curate` under this Python."""
    return [sys.executable, "-m", "curate", *map(str, arguments)]


@dataclass
class Running:
    """A command that was started, and how to find its processes."""

    process: subprocess.Popen[bytes]
    said: Path  # its standard output and error
    mark: str
    began: float = field(default_factory=time.monotonic)

    @property
    def pid(self) -> int:
        """Of the driver, which leads the session."""
        return self.process.pid

    def alive(self) -> list[psutil.Process]:
        """All its processes that still run, its driver among them; zombies do not count."""
        found = []
        for one in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if self._ours(one) and one.status() != psutil.STATUS_ZOMBIE:
                    found.append(one)
        return found

    def _ours(self, one: psutil.Process) -> bool:
        if one.pid == self.pid or os.getsid(one.pid) == self.pid:
            return True
        return bool(one.environ().get(MARK) == self.mark)

    def workers(self) -> list[psutil.Process]:
        """The worker processes among the driver's children, wherever in the tree they are."""
        try:
            children = psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        found = []
        for one in children:
            with contextlib.suppress(psutil.Error):
                if "spawn_main" in " ".join(one.cmdline()) and one.status() != psutil.STATUS_ZOMBIE:
                    found.append(one)
        return found

    def send(self, number: int, *, group: bool) -> bool:
        """Signal the driver alone or its whole group; False where it has ended already."""
        if self.process.poll() is not None:
            return False
        if group:
            os.killpg(self.pid, number)
        else:
            os.kill(self.pid, number)
        return True

    def ended(self, seconds: float) -> int | None:
        """The exit code, negative for a signal; None if it still runs after so many seconds."""
        try:
            return self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return None

    def words(self) -> str:
        """The end of what it said, in one line."""
        return " ".join(self.said.read_text(errors="replace").split())[-400:]

    def orphans(self, seconds: float) -> list[str]:
        """What of it still runs after so many seconds, described; it is killed then."""
        deadline = time.monotonic() + seconds
        while (left := self.alive()) and time.monotonic() < deadline:
            time.sleep(0.2)
        described = []
        for one in left:
            with contextlib.suppress(psutil.Error):
                described.append(f"process {one.pid} ({' '.join(one.cmdline())[:120]}) still runs {seconds:.0f} s after its driver ended")
                one.kill()
        return described

    def remove(self) -> None:
        """End whatever of it still runs."""
        for one in self.alive():
            with contextlib.suppress(psutil.Error):
                one.kill()
        self.process.wait()


def start(arguments: Sequence[str], folder: Path, said: Path, environment: Mapping[str, str] | None = None) -> Running:
    """Start a command in `folder`, in a session of its own; what it says goes to the file `said`."""
    mark = uuid.uuid4().hex
    words: IO[bytes]
    with open(said, "wb") as words:
        process = subprocess.Popen(
            list(arguments),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **ENVIRONMENT, **(environment or {}), MARK: mark},
        )
    return Running(process, said, mark)


def finish(arguments: Sequence[str], folder: Path, said: Path, environment: Mapping[str, str] | None = None, *, seconds: float = 900) -> tuple[int, float]:
    """Run a command to its end: its exit code, and the seconds that it took; one that takes longer than `seconds` is killed."""
    running = start(arguments, folder, said, environment)
    try:
        code = running.ended(seconds)
        return (-signal.SIGALRM if code is None else code), time.monotonic() - running.began
    finally:
        running.remove()
