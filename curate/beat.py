"""Signs of life: a worker whose task shows none for too long ends itself, so that a row that hangs is found like one that kills.

    with watched(seconds, stacks):   in a worker process, around a task
        beat()                       in its loops, from which on the next one is due within `seconds`

The clock is the C thread of `faulthandler`, which also runs where a regular expression or a kernel holds the interpreter. It writes down where
every thread stood and leaves with exit code 1. Outside of `watched`, beats do nothing.
"""

import contextlib
import faulthandler
import os
import time
from collections.abc import Iterator
from pathlib import Path

_EVERY = 0.5  # seconds between two settings of the clock: each starts a thread
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
    handle = os.open(stacks, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    _clock, _set = (seconds, handle), -_EVERY
    try:
        yield
    finally:
        _clock = None
        faulthandler.cancel_dump_traceback_later()
        os.close(handle)
        stacks.unlink(missing_ok=True)
