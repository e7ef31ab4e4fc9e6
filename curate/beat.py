"""Signs of life: a worker whose task shows none for too long ends itself, so that a row that hangs is found like one that kills.

    with watched(seconds, stacks):      in a worker process, around a task
    with watched_here(seconds, words):  in a process that people look at, to whom `words` are said
        beat()                          in its loops, from which on the next one is due within `seconds`

The clock is the C thread of `faulthandler`, which also runs where a regular expression or a kernel holds the interpreter. It writes down where
every thread stood and leaves with exit code 1. Outside of `watched`, beats do nothing.
"""

import contextlib
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from curate.errors import ClusterError
from curate.folders import refusals

_EVERY = 0.5  # seconds between two settings of the clock: each starts a thread
_GRACE = 10.0  # seconds in which a thread of this interpreter may say why the process ends, if the interpreter is free
_clock: tuple[float, int] | None = None  # seconds, and the open file for the stacks
_set = -_EVERY  # when the clock was set last


def beat() -> None:
    """The task goes on: the next beat is due within the deadline."""
    global _set
    if _clock is not None and (now := time.monotonic()) - _set >= _EVERY:
        _set = now
        faulthandler.dump_traceback_later(_clock[0], exit=True, file=_clock[1])


@contextlib.contextmanager
def watched(seconds: float, stacks: Path) -> Iterator[None]:
    """From the first beat in this block on, the process ends when none comes for `seconds`; where it stood is then in the file `stacks`."""
    global _clock, _set
    with refusals(stacks):
        handle = os.open(stacks, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    _clock, _set = (seconds, handle), -_EVERY
    try:
        yield
    finally:
        _clock = None
        faulthandler.cancel_dump_traceback_later()
        os.close(handle)
        with contextlib.suppress(OSError):  # a temporary name, which the next run removes
            stacks.unlink(missing_ok=True)


@contextlib.contextmanager
def watched_here(seconds: float, words: str) -> Iterator[None]:
    """As `watched`, but `words` are said on standard error and the exit code is that of a ClusterError.

    Where the task holds the interpreter nobody can say them: after some seconds more the stacks stand there instead, and the exit code is 1.
    """
    global _clock, _set
    _clock, _set = (seconds + _GRACE, 2), -_EVERY
    ended = threading.Event()
    threading.Thread(target=_say_and_leave, args=(seconds, words, ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        _clock = None
        faulthandler.cancel_dump_traceback_later()


def _say_and_leave(seconds: float, words: str, ended: threading.Event) -> None:
    """Wait until no beat came for so long, and end the process then."""
    while not ended.wait(timeout=max(_EVERY, _set + seconds - time.monotonic()) if _set > 0 else _EVERY):
        if _set > 0 and time.monotonic() - _set >= seconds:
            print(f"error: {words}", file=sys.stderr, flush=True)
            os._exit(ClusterError.exit_code)
