"""What helps where a task kills the process that runs it: find the rows that do, set them aside, and compute the rest."""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from curate.errors import ClusterError
from curate.one_task import name_of

T = TypeVar("T")
R = TypeVar("R")
_CHANCES = 3  # of a row or of the rest, so that a worker that is lost by chance condemns nobody
_MOST = 16  # rows that are looked for in one task: where more kill, it is not the rows


class Died(Exception):
    """The process that ran a task is gone; `reason` is the word for rows that do this."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Remedy(Protocol):
    """How tasks of one kind are taken apart."""

    def size(self, item: Any) -> int:
        """Of how many rows the task is made."""

    def part(self, item: Any, start: int, stop: int) -> Any:
        """A task that goes through these of its rows, and keeps nothing."""

    def without(self, item: Any, rows: Mapping[int, str]) -> Any:
        """The task with these rows set aside, each for its reason."""

    def starts(self, item: Any) -> Path:
        """The file for notes that this process begins the task, where it works alone, and that a worker died of it; gone once it is done."""


def forget_start(file: Path) -> None:
    """Remove the notes on a task. Where that is refused they stay: who finishes the artifact removes them then, or says that it cannot."""
    with contextlib.suppress(OSError):
        file.unlink(missing_ok=True)


def remedied(function: Callable[[T], R], item: T, remedy: Remedy | None, alone: Callable[[Callable[[T], R], T], R]) -> R:
    """The task's result, without the rows that kill; `alone` runs a task while nothing else runs, and raises Died.

    The task is first given another chance: what killed it before may have been another. ClusterError where it kills without one row that does.
    """
    named = name_of(item, type(item).__name__)
    try:
        return alone(function, item)
    except Died as death:
        said = death.reason
    if remedy is None:
        raise ClusterError(
            f"a task kills every worker process that runs it ({said}: {named}), most often for lack of memory; "
            "use fewer workers (--workers 1) or give them more memory, then run the same command: everything finished is kept"
        )
    bad: dict[int, str] = {}

    def dies(start: int, stop: int) -> bool:
        """Whether these rows do, each time; a single row gets more chances than a part, where the next parts tell."""
        try:
            _given_chances(lambda: alone(function, remedy.part(item, start, stop)), _CHANCES if stop - start == 1 else 1)
        except Died as death:
            bad[start] = death.reason
            return True
        return False

    rows = culprits(remedy.size(item), dies)
    if len(rows) > _MOST:
        raise ClusterError(
            f"more than {_MOST} rows of {named} end the worker process that reads them ({said}), so most probably anything would; look at the machine "
            f"(memory, libraries) and at row {min(rows)} of it, counted from 0, then run the same command: finished shards are kept"
        )
    # Where no row kills by itself, whatever killed the task so often may have been another.
    rest = remedy.without(item, {row: bad[row] for row in rows}) if rows else item
    try:
        return _given_chances(lambda: alone(function, rest), _CHANCES)
    except Died as death:
        said = death.reason
    raise ClusterError(
        f"{named} kills the worker process that runs it ({said}), though no single row of it does; most often its batches do not fit in the memory: "
        "lower model.max_length or give each worker more memory, then run the same command: finished shards are kept"
    )


def _given_chances(run: Callable[[], R], chances: int) -> R:
    """What `run` returns, at the latest of so many times; Died where it dies every time."""
    for _ in range(chances - 1):
        with contextlib.suppress(Died):
            return run()
    return run()


def culprits(size: int, dies: Callable[[int, int], bool]) -> list[int]:
    """The rows among `size` of which each kills by itself; `dies(start, stop)` runs these rows apart and says whether that killed.

    All rows together are known to kill. A part that survives holds no culprit. For c culprits that is at most about 2 c log2(size) runs.
    Empty where only rows together kill, as a batch does that is too large for the memory. The search ends with one more than `_MOST`.
    """
    if size == 1:
        return [0] if dies(0, 1) else []
    found: list[int] = []
    unsure = [(0, size)]
    while unsure and len(found) <= _MOST:
        start, stop = unsure.pop()
        if stop - start == 1:
            found.append(start)
            continue
        middle = (start + stop) // 2
        unsure += [half for half in ((start, middle), (middle, stop)) if dies(*half)]
    return sorted(found)
