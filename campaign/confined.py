"""One command in a forked child with limits of time and memory: how it ended, what it said, and what it cost."""

import json
import os
import resource
import select
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """What a child may take: seconds on the clock until it is killed, seconds of processor, and bytes beyond what its parent holds."""

    clock: float = 120.0
    processor: float = 60.0
    memory: int = 2048 * MIB


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit code, negative for a signal; the seconds of processor and the bytes that it took; what it said and what it returned."""

    code: int
    seconds: float
    memory: int
    out: str
    error: str
    returned: dict[str, Any] = field(default_factory=dict)

    @property
    def hung(self) -> bool:
        """Whether its deadline passed."""
        return self.code in (-signal.SIGKILL, -signal.SIGXCPU)


def confined(act: Callable[[], dict[str, Any] | None], place: Path, limits: Limits) -> Ended:
    """Run `act` in a child that works in `place`. What it returns must be JSON; SystemExit is its exit code, any other exception a traceback and 1."""
    sys.stdout.flush()
    sys.stderr.flush()
    with ExitStack() as files:
        said = [os.memfd_create(name) for name in ("out", "error", "returned")]
        for handle in said:
            files.callback(os.close, handle)
        held = resident()
        child = os.fork()
        if not child:
            os._exit(_child(act, place, limits, said))
        status, used = _awaited(child, limits.clock)
        out, error, returned = (_content(handle) for handle in said)
    told = json.loads(returned or "{}")
    memory = max(0, used.ru_maxrss * 1024 - told.get("held", held))
    return Ended(os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, memory, out, error, told.get("returned") or {})


def resident() -> int:
    """The bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _child(act: Callable[[], dict[str, Any] | None], place: Path, limits: Limits, said: list[int]) -> int:
    held = 0
    try:
        os.dup2(said[0], 1)
        os.dup2(said[1], 2)
        sys.stdout, sys.stderr = (os.fdopen(handle, "w", closefd=False) for handle in (1, 2))  # whatever stands in for them in the parent
        os.chdir(place)
        held = resident()
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + limits.memory, resource.RLIM_INFINITY))
        seconds = int(limits.processor) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        returned = act()
        code = 0
    except SystemExit as end:
        returned, code = None, int(end.code or 0)
    except BaseException:  # the child must not run on into the code of its parent
        traceback.print_exc()
        returned, code = None, 1
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    with os.fdopen(said[2], "wb", closefd=False) as file:
        file.write(json.dumps({"held": held, "returned": returned}).encode())
    return code


def _awaited(child: int, seconds: float) -> tuple[int, "resource.struct_rusage"]:
    """The status and the costs of a child, which is killed when its time is over."""
    handle = os.pidfd_open(child)
    try:
        if not select.select([handle], [], [], seconds)[0]:
            os.kill(child, signal.SIGKILL)
        _, status, used = os.wait4(child, 0)
    finally:
        os.close(handle)
    return status, used


def _content(handle: int) -> str:
    os.lseek(handle, 0, os.SEEK_SET)
    with os.fdopen(os.dup(handle), "rb") as file:
        return file.read().decode("utf-8", "backslashreplace")
