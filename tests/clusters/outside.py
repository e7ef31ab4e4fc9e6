"""Schedulers and workers that are processes of their own."""

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def ended(started: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    """None of these processes outlives the block."""
    try:
        yield
    finally:
        for process in started:
            process.kill()
        for process in started:
            process.wait(20)


def address_in(file: Path) -> str:
    """Where the scheduler listens, once it has written that down."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError):
            return str(json.loads(file.read_text())["address"])
        time.sleep(0.1)
    raise TimeoutError(file)
