"""What a person sees while a run goes on: bars on a terminal, one JSON line per event otherwise, and a log in the run's folder."""

import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from curate import fault
from curate.errors import CurateError, DiskError, Interrupted


def _opened(log: Path) -> io.FileIO:
    """The log, unbuffered, so that every line is there for others at once and nothing is left to write when the disk is full."""
    try:
        fault.point("open", log)
        return io.FileIO(log, "a", opener=_own)
    except OSError as error:
        raise DiskError(f"cannot write {log}: {error.strerror}; remove it, or name another folder with --runs") from error


def _ending(error: BaseException) -> dict[str, str]:
    if isinstance(error, Interrupted | KeyboardInterrupt):
        return {"how": "interrupted"}
    return {"how": "error", "text": str(error) if isinstance(error, CurateError) else f"{type(error).__name__}: {error}"}


def _own(path: str, flags: int) -> int:
    """Open a file of this folder, and not one elsewhere that a link under its name leads to."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)


class Progress:
    """Hears of stages and finished tasks; shows them on standard error and appends them to log.jsonl.

    A log that cannot be written any more ends there, with a message, and the run goes on: nothing reads it but a person, and `curate status`.
    """

    def __init__(self, log: Path | None, *, quiet: bool = False) -> None:
        self._path, self._log = log, _opened(log) if log else None
        self._quiet = quiet
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}
        self._last: dict[str, float] = {}
        if not quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as Bars

            columns = (TextColumn("{task.description:<34}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
            self._bars = Bars(*columns, console=Console(stderr=True))
            self._bars.start()
            self._now = self._bars.add_task("starting", total=None)

    def stage(self, stage: str, label: str) -> None:
        """A stage begins, or is about to be found in the store."""
        if self._bars is not None:
            self._bars.update(self._now, description=f"{stage}: {label}"[:34])
        self._event({"event": "stage", "stage": stage, "label": label})

    def advance(self, label: str, done: int, total: int) -> None:
        """`done` of `total` tasks are finished."""
        if self._bars is not None:
            if label not in self._tasks or done == 0:
                self._tasks[label] = self._bars.add_task(label, total=total)
            self._bars.update(self._tasks[label], completed=done)
        now = time.monotonic()
        if done in (0, total) or now - self._last.get(label, 0.0) > 5:
            self._last[label] = now
            self._event({"event": "progress", "label": label, "done": done, "total": total})

    def message(self, text: str) -> None:
        """Something that the user should know now."""
        if self._bars is not None:
            from curate.report.wording import visible

            self._bars.console.print(visible(text), markup=False)
        self._event({"event": "message", "text": text})

    @contextlib.contextmanager
    def noting_end(self) -> Iterator[None]:
        """Log how the block ended: finished, interrupted, or with which error."""
        try:
            yield
        except BaseException as error:
            self._event({"event": "end", **_ending(error)})
            raise
        self._event({"event": "end", "how": "finished"})

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bars is not None:
            self._bars.stop()
        if self._log is not None:
            with contextlib.suppress(OSError):
                self._log.close()

    def _event(self, event: dict[str, Any]) -> None:
        line = json.dumps({"time": round(time.time(), 3), **event})
        if self._log is not None and self._path is not None:
            try:
                fault.point("write", self._path, (line + "\n").encode())
                self._log.write((line + "\n").encode())
            except OSError as error:
                with contextlib.suppress(OSError):
                    self._log.close()
                self._log = None
                self.message(f"cannot write {self._path}: {error.strerror}; the run goes on without its log")
        if self._bars is None and not self._quiet:
            print(line, file=sys.stderr, flush=True)
