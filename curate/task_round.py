"""The tasks of one call of `map`: which wait, which run where, and of which workers died."""

import contextlib
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from curate.journal import JournalFile
from curate.one_task import name_of
from curate.remedy import Remedy

_DEATHS = 2  # of its worker, after which a task is looked at on its own


@dataclass
class Running:
    """A task on its worker."""

    number: int
    future: Any
    began: float
    stacks: Path  # where the worker says where the task hung; under a temporary name, so that nothing stays where a driver was killed

    def forget(self) -> None:
        """Nobody wants the result any more; what runs already runs to its end."""
        with contextlib.suppress(Exception):
            self.future.cancel(force=True)

    def death(self) -> str:
        """Why its worker died: it hung, and what it left is then kept for people to read, or it was killed."""
        with contextlib.suppress(OSError):
            if self.stacks.stat().st_size:
                self.stacks.rename(self.stacks.with_name(f"stacks-{self.stacks.suffixes[-2][1:]}.txt"))
                return "hung_worker"
            self.stacks.unlink()
        return "killed_worker"


@dataclass
class Round:
    """`function` on every item; a task that is running is neither waiting nor done."""

    function: Callable[[Any], Any]
    items: Sequence[Any]
    label: str
    waiting: deque[int]
    remedy: Remedy | None = None
    running: dict[str, Running] = field(default_factory=dict)  # by the worker's address
    deaths: Counter[int] = field(default_factory=Counter)
    suspects: list[int] = field(default_factory=list)
    ended: "SimpleQueue[str]" = field(default_factory=SimpleQueue)  # addresses of workers whose task ended
    reason: str = ""  # for which a worker died last

    @classmethod
    def apart(cls, function: Callable[[Any], Any], item: Any, label: str) -> "Round":
        """One task, which is a suspect from its first death on."""
        return cls(function, [item], f"{label} (apart)", deque([0]), deaths=Counter({0: _DEATHS - 1}))

    def give_back(self) -> None:
        """What was running waits again, first in line; what is still heard of it does not count."""
        for task in self.running.values():
            task.forget()
        self.waiting.extendleft(sorted((task.number for task in self.running.values()), reverse=True))
        self.running.clear()
        self.ended = SimpleQueue()

    def died(self, address: str) -> dict[str, Any]:
        """The worker at this address is gone, and its task waits again or is a suspect; what the log says of it."""
        task = self.running.pop(address)
        task.forget()
        self.deaths[task.number] += 1
        self.reason = task.death()
        if self.remedy is not None:  # should the driver die too, the next one does not run this task in its own process
            JournalFile(self.remedy.starts(self.items[task.number])).append({"start": self.deaths[task.number], "ended": self.reason})
        if self.deaths[task.number] < _DEATHS:
            self.waiting.append(task.number)
        else:
            self.suspects.append(task.number)
        return self.event(task, address) | {"ended": self.reason, "seconds": round(time.monotonic() - task.began, 3)}

    def event(self, task: Running, address: str) -> dict[str, Any]:
        """What the log says of every task."""
        return {"label": self.label, "task": name_of(self.items[task.number], task.number), "worker": address, "deaths": self.deaths[task.number]}
