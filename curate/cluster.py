"""Where tasks run: in this process, or on worker processes that Dask starts here or elsewhere.

Tasks take and return small values (paths, hashes, counts): nothing large crosses the scheduler. One task at a
time per worker process, one thread per task, so that any number of workers computes the same bits.
"""

import contextlib
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TypeVar

from curate.beat import watched_here
from curate.clusters.laptop import Laptop
from curate.clusters.started import TASK_DEADLINE
from curate.dispatch import Listener, Note, OnDask, Tell
from curate.journal import JournalFile
from curate.one_task import name_of, one_thread
from curate.remedy import Remedy, forget_start

T = TypeVar("T")
R = TypeVar("R")

_STARTS = 2  # of a task that this process, or one before it, never ended
_HANGS = (
    "{} of {} shows no sign of life for {:.0f} s, so this process ends, and everything finished is kept; "
    "run the same command again: start {} of this task finds the rows that hang and sets them aside"
)


class InProcess:
    """Tasks one after the other in this process; `listener` hears how many are done.

    A task that was begun twice and never ended may have killed the processes that ran it: it then runs in a worker process of its own, where the rows
    that kill are found. One that shows no sign of life for `deadline` seconds ends this process.
    """

    workers = 1

    def __init__(
        self,
        listener: Listener = lambda label, done, total: None,
        apart: Callable[[], OnDask] = lambda: OnDask(Laptop(1)),
        note: Note = lambda event: None,
        deadline: float = TASK_DEADLINE,
    ) -> None:
        self.listener, self._apart, self._note, self._deadline = listener, apart, note, deadline

    def map(self, function: Callable[[T], R], items: Sequence[T], *, label: str = "", remedy: Remedy | None = None) -> Generator[R, None, None]:
        """Results in the order of `items`; the first error stops the rest."""
        self.listener(label, 0, len(items))
        for done, item in enumerate(items, 1):
            began = time.monotonic()
            result = one_thread(function, item) if remedy is None else self._marked(function, item, label, remedy)
            seconds = round(time.monotonic() - began, 3)
            self._note({"label": label, "task": name_of(item, done - 1), "worker": "this process", "ended": "done", "seconds": seconds})
            self.listener(label, done, len(items))
            yield result

    def _marked(self, function: Callable[[T], R], item: T, label: str, remedy: Remedy) -> R:
        file = remedy.starts(item)
        starts = JournalFile(file)
        begun = len(starts.entries())
        try:
            if begun < _STARTS:
                starts.append({"start": begun})
                words = _HANGS.format(name_of(item, 0), label or "this round", self._deadline, _STARTS + 1)
                with watched_here(self._deadline, words), contextlib.suppress(SystemExit):  # by which a library may end the process too
                    return one_thread(function, item)
            cluster = self._apart()
            try:
                return cluster.alone(function, item, label, remedy)
            finally:
                cluster.close()
        finally:
            forget_start(file)  # an error ends a task too; what kills the process does not come here

    def close(self) -> None:
        """Nothing to stop."""


class Workers(OnDask):
    """`OnDask`, with single tasks run in this process where it has what the workers have: no worker need start for them, unless a process died of one."""

    def map(self, function: Callable[[T], R], items: Sequence[T], *, label: str = "", remedy: Remedy | None = None) -> Generator[R, None, None]:
        if len(items) > 1 or not self.launcher.local:
            return super().map(function, items, label=label, remedy=remedy)
        if remedy is not None and any(remedy.starts(item).exists() for item in items):
            return super().map(function, items, label=label, remedy=remedy)
        return InProcess(self.listener, lambda: self, self.note, self.launcher.task_deadline).map(function, items, label=label, remedy=remedy)


def cluster_of(
    workers: int,
    listener: Listener = lambda label, done, total: None,
    tell: Tell = lambda message: None,
    note: Note = lambda event: None,
    folder: Path | None = None,
    deadline: float = TASK_DEADLINE,
) -> InProcess | Workers:
    """This process for one worker, worker processes on this machine for more; `deadline` seconds without a sign of life end what runs a task."""
    if workers > 1:
        return Workers(Laptop(workers, task_deadline=deadline), listener, tell, note, folder)
    return InProcess(listener, lambda: OnDask(Laptop(1, task_deadline=deadline), tell=tell, note=note, folder=folder), note, deadline)
