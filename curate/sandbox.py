"""Runs test programs that nobody has read: each in a fresh interpreter that may compute, and little else.

    programs --> python sandbox_confine.py --> exec python sandbox_child.py --> passed | failed | timed out | out of memory | refused

Every program gets an empty environment, an empty folder that is removed afterwards, a closed stdin and hard limits of
CPU time, memory, file size, open files and processes; its output is kept up to a length, and its process group is killed
when it ends or its time is up. On Linux the kernel also takes away the network (a namespace, and a filter of system
calls), processes, threads, signals to others, and all files but the interpreter's own and the folder (Landlock). An
audit hook in the interpreter refuses the same once more, with words. `Outcome.isolation` says what of this was had.

A pass is known by a nonce that the child writes once the tests are through (see `sandbox_child.py`), so that
exit(0), os._exit(0) or printed words are none.

What it does not do. Where Landlock and the filter are missing (not Linux, old kernels, other processors), the audit
hook stands alone, and Python code made to break out of it will. A kernel bug is a way out anywhere; so is time, which
a program can measure. And a pass is no proof against malice: program and tests share one interpreter, where a
program can read its tests, return an object that equals everything, or craft bytecode that finds the nonce.

A program costs about 50 ms for its two interpreters, and up to `Limits.memory` bytes while it runs. There are no
threads, event loops or third-party packages in it. Sets and dicts of text have the same order in every run.
"""

import contextlib
import importlib.util
import os
import secrets
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from curate.beat import beat
from curate.errors import SafetyError
from curate.scratch import Scratch

Status = Literal["passed", "failed", "timed out", "out of memory", "refused"]

_FLAGS = ("-s", "-P", "-S", "-B", "-X", "utf8")  # what -I does, but for PYTHONHASHSEED, which makes the order of sets the same in every run
_REPORT_BYTES = 4096
_STATUSES: dict[str, Status] = {"failed": "failed", "refused": "refused"}


@dataclass(frozen=True)
class Limits:
    """What one program may use."""

    cpu_seconds: int = 10
    seconds: float = 30.0  # on the clock
    memory: int = 1 << 30  # bytes of address space
    file_bytes: int = 1 << 20  # of any file it writes
    folder_bytes: int = 1 << 24  # of all of them, where the folder is in memory
    open_files: int = 32
    output_bytes: int = 1 << 16  # kept of what it prints

    def resources(self) -> dict[str, int]:
        """By the names that the system calls them."""
        limits = {"CPU": self.cpu_seconds, "AS": self.memory, "FSIZE": self.file_bytes, "NOFILE": self.open_files, "NPROC": 0, "CORE": 0}
        return {f"RLIMIT_{name}": value for name, value in limits.items()}


@dataclass(frozen=True)
class Program:
    """Code and the tests that are run after it, with the names that it left; they pass if they raise nothing."""

    code: str
    tests: str


@dataclass(frozen=True)
class Outcome:
    """How a program went."""

    status: Status
    reason: str  # one line; empty if it passed
    seconds: float
    isolation: tuple[str, ...]  # of "limits", "namespaces", "folder in memory", "landlock", "seccomp", "audit hook"
    output: str  # the beginning of what it printed

    @property
    def passed(self) -> bool:
        return self.status == "passed"


def run_all(programs: Sequence[Program], limits: Limits = Limits(), *, workers: int | None = None) -> list[Outcome]:
    """The outcomes in the order of the programs, `workers` of them at a time (default: one for each processor, at most 8)."""
    if not programs:
        return []
    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(lambda program: run(program, limits), programs))


def run(program: Program, limits: Limits = Limits()) -> Outcome:
    """One program. SafetyError where this system has no resource limits, or the interpreter does not start under them."""
    if importlib.util.find_spec("resource") is None:
        raise SafetyError(f"generated code cannot be confined on {sys.platform}, which has no resource limits; run it on Linux")
    beat()
    nonce = secrets.token_hex(16).encode() + b"\n"
    texts = [text.encode("utf-8", "surrogatepass") for text in (program.code, program.tests)]
    request = b"".join(b"%012d" % len(text) + text for text in texts) + nonce
    with Scratch("sandbox") as folder, contextlib.ExitStack() as ours:
        started = time.monotonic()
        with contextlib.ExitStack() as theirs:
            (stdin, asking), (printed, stdout), (hearing, report) = (os.pipe() for _ in range(3))
            for pipe, side in ((asking, ours), (printed, ours), (hearing, ours), (stdin, theirs), (stdout, theirs), (report, theirs)):
                side.callback(os.close, pipe)
            process = _start(os.path.realpath(folder), stdin, stdout, report, limits)
        talk = _Talk(request, limits.output_bytes)
        try:
            talk.hold(asking, printed, hearing, started + limits.seconds)
        finally:
            _end(process)
        return _outcome(talk, process.returncode, nonce, time.monotonic() - started, limits)


def _start(folder: str, stdin: int, stdout: int, report: int, limits: Limits) -> "subprocess.Popen[bytes]":
    """The interpreter in a session, an environment and a folder of its own."""
    here = Path(__file__).resolve()
    child = str(here.with_name("sandbox_child.py"))
    wanted = {"folder": folder, "report": report, "parent": os.getpid(), "child": child, "folder_bytes": limits.folder_bytes, **limits.resources()}
    confine = [str(here.with_name("sandbox_confine.py")), *(f"{name}={value}" for name, value in wanted.items())]
    environment = {"PYTHONHASHSEED": "0"}
    if "LD_LIBRARY_PATH" in os.environ:  # by which some interpreters find their own library
        environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    return subprocess.Popen(
        [os.path.realpath(sys.executable), *_FLAGS, *confine, "--", *_FLAGS, child],
        stdin=stdin,
        stdout=stdout,
        stderr=stdout,
        cwd=folder,
        env=environment,
        pass_fds=(report,),
        start_new_session=True,
    )


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Kill the group, also if its leader has ended; only then is the leader reaped, for until then no other group can have its number."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class _Talk:
    """What is said to a program and what comes back, until its verdict, its end or its time."""

    def __init__(self, request: bytes, output_bytes: int) -> None:
        self.report = b""  # two lines: what isolation was had, and the verdict
        self.output = b""
        self.late = False
        self._request = request
        self._output_bytes = output_bytes

    def hold(self, asking: int, printed: int, report: int, deadline: float) -> None:
        """Write to one pipe and read from two, none of which may stop the others."""
        turns = {asking: self._ask, printed: self._keep, report: self._hear}
        with selectors.DefaultSelector() as waiting:
            for pipe in turns:
                os.set_blocking(pipe, False)
                waiting.register(pipe, selectors.EVENT_WRITE if pipe == asking else selectors.EVENT_READ)
            while self.report.count(b"\n") < 2 and len(self.report) <= _REPORT_BYTES and report in waiting.get_map():
                left = deadline - time.monotonic()
                if left <= 0:
                    self.late = True
                    break
                for key, _ in waiting.select(left):
                    if not turns[key.fd](key.fd):
                        waiting.unregister(key.fd)
        with contextlib.suppress(BlockingIOError):
            while len(self.output) < self._output_bytes and self._keep(printed):
                continue

    def _ask(self, pipe: int) -> bool:
        try:
            self._request = self._request[os.write(pipe, self._request[: 1 << 16]) :]
        except BrokenPipeError:
            return False
        return bool(self._request)

    def _keep(self, pipe: int) -> bool:
        piece = os.read(pipe, 1 << 16)
        self.output += piece[: self._output_bytes - len(self.output)]
        return bool(piece)

    def _hear(self, pipe: int) -> bool:
        piece = os.read(pipe, _REPORT_BYTES)
        self.report += piece
        return bool(piece)


def _outcome(talk: _Talk, code: int, nonce: bytes, seconds: float, limits: Limits) -> Outcome:
    granted, started, verdict = talk.report.partition(b"\n")
    output = talk.output.decode("utf-8", "replace")
    if not started:
        said = " ".join(output.split())[-300:] or f"exit code {code}, no words"
        raise SafetyError(f"the interpreter does not start in the sandbox ({said}); raise its limits, or run where it does")
    status, reason = _judged(verdict, nonce, limits.memory) if not talk.late else ("timed out", f"was stopped after {limits.seconds:g} seconds")
    if not verdict and not talk.late:
        status, reason = _ended(code, seconds, limits)
    return Outcome(status, reason, seconds, tuple(granted.decode().split(", ")), output)


def _judged(verdict: bytes, nonce: bytes, memory: int) -> tuple[Status, str]:
    """What a line of the report says."""
    if verdict == nonce:
        return "passed", ""
    word, _, reason = verdict.decode("utf-8", "replace").strip().partition(" ")
    if word == "memory":
        return "out of memory", f"took more than {memory >> 20} MiB"
    return (_STATUSES[word], reason) if word in _STATUSES else ("failed", "wrote to the report of the sandbox itself")


def _ended(code: int, seconds: float, limits: Limits) -> tuple[Status, str]:
    """What the end of a program without a verdict means."""
    if code >= 0:
        return "failed", f"ended before its tests were through, with exit code {code}"
    if -code == signal.SIGXCPU or (-code == signal.SIGKILL and seconds >= limits.cpu_seconds):
        return "timed out", f"took more than {limits.cpu_seconds} seconds of CPU"
    if -code == signal.SIGKILL:
        return "out of memory", "was killed by the system, or closed the report of the sandbox"
    return "failed", f"was ended by {signal.Signals(-code).name}"
