"""Tasks on the worker processes of a Dask cluster, one at a time on each, so that it is known which task a worker died of.

The driver hands out tasks itself: a worker that is idle gets the next. What a task computes it commits to the disk, so a cluster is disposable:
workers may die, be killed, leave and join, and a scheduler that is lost is started again; what was running is then repeated.
"""

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from queue import Empty
from typing import Any, TypeVar, cast

from curate.clusters.launcher import Launcher
from curate.clusters.preflight import Greeting, greet
from curate.errors import ClusterError, CurateError
from curate.folders import refusals
from curate.one_task import Outcome, name_of, reported
from curate.remedy import Died, Remedy, forget_start, remedied
from curate.scratch import Scratch
from curate.task_round import Round, Running

T = TypeVar("T")
R = TypeVar("R")
Listener = Callable[[str, int, int], None]  # label, done, total
Tell = Callable[[str], None]
Note = Callable[[dict[str, Any]], None]  # hears of every task that ended

_RESTARTS = 3  # of a lost cluster without any task done in between
_LOOK = 0.5  # seconds between two looks at the workers
_ANSWER = 30.0  # seconds in which a scheduler answers, and a worker hands over its small result
_REMIND = 30.0  # seconds between two messages about workers that do not come
_SILENT = 600.0  # seconds in which a worker begins with what it got; Dask has lost it otherwise
_DESERTED = 60.0  # seconds without any worker on this machine: Dask does not replace one that died while it started


class ClusterLost(Exception):
    """The scheduler does not answer any more, the client lost it, or no worker of this machine is left."""


class OnDask:
    """Tasks on the workers that a launcher starts, when the first tasks come; `listener` hears how many are done, `note` of each.

    `folder`, which all workers see, gets a file for every task that hangs, with where it stood.
    """

    def __init__(
        self,
        launcher: Launcher,
        listener: Listener = lambda label, done, total: None,
        tell: Tell = lambda message: None,
        note: Note = lambda event: None,
        folder: Path | None = None,
    ) -> None:
        self.launcher, self.listener, self.tell, self.note = launcher, listener, tell, note
        self._folder = folder
        self._scratch: Scratch | None = None
        self.workers = launcher.workers
        self._client: Any = None
        self._greeting: Greeting | None = None
        self._restarts = 0

    def map(self, function: Callable[[T], R], items: Sequence[T], *, label: str = "", remedy: Remedy | None = None) -> Generator[R, None, None]:
        """Results in the order of `items`; the first error stops the rest. Tasks that kill their workers come last, with what `remedy` can do."""
        self.listener(label, 0, len(items))
        ready: dict[int, R] = {}
        following = done = 0
        with contextlib.closing(self._round(Round(function, items, label, deque(range(len(items))), remedy))) as results:
            for number, result in results:
                ready[number] = result
                done += 1
                self.listener(label, done, len(items))
                while following in ready:
                    yield ready.pop(following)
                    following += 1

    def close(self) -> None:
        """Stop the workers; what they computed is on disk, so errors on the way out do not matter."""
        self._client, self._greeting = None, None
        self.launcher.close()
        if self._scratch is not None:
            self._scratch.remove()
            self._folder = self._scratch = None

    def alone(self, function: Callable[[T], R], item: T, label: str, remedy: Remedy | None) -> R:
        """The result of a task that is known to kill, while nothing else runs: without the rows that do it. ClusterError where it kills for another reason."""

        def apart(function: Callable[[T], R], item: T) -> R:
            return cast("R", self._apart(function, item, label))

        self.tell(f"{name_of(item, 0)} of {label or 'this round'} ended the process that ran it more than once; it runs apart, to see which rows do that")
        return remedied(function, item, remedy, apart)

    def _round(self, tasks: Round) -> Generator[tuple[int, Any], None, None]:
        try:
            for number, result in self._each(tasks):
                if tasks.remedy is not None:
                    forget_start(tasks.remedy.starts(tasks.items[number]))
                yield number, result
        finally:
            tasks.give_back()

    def _each(self, tasks: Round) -> Iterator[tuple[int, Any]]:
        yield from self._finished(tasks)
        for number in sorted(tasks.suspects):
            yield number, self.alone(tasks.function, tasks.items[number], tasks.label, tasks.remedy)

    def _finished(self, tasks: Round) -> Iterator[tuple[int, Any]]:
        """Run all tasks but those that kill, whatever happens to the cluster meanwhile."""
        while tasks.waiting or tasks.running:
            try:
                for result in self._steps(tasks):
                    self._restarts = 0
                    yield result
            except ClusterLost as loss:
                self._again(tasks, loss)

    def _again(self, tasks: Round, loss: ClusterLost) -> None:
        tasks.give_back()
        self.close()
        self._restarts += 1
        if self._restarts > _RESTARTS:
            raise ClusterError(
                f"the scheduler was lost {self._restarts} times without a task done in between ({loss}); look at its log, "
                "then run the same command: everything finished is kept"
            ) from loss
        self.tell(f"the scheduler was lost ({loss}); starting again, {len(tasks.waiting)} tasks of {tasks.label or 'this round'} are left")

    def _steps(self, tasks: Round) -> Iterator[tuple[int, Any]]:
        looked, fit, bare = -_LOOK, set[str](), time.monotonic()
        while tasks.waiting or tasks.running:
            now = time.monotonic()
            if now - looked >= _LOOK:
                there, fit = self._look()
                looked, bare = now, bare if self._deserted(there, fit, bare) else now
                self._bury(tasks, there)
            self._hand_out(tasks, fit)
            with contextlib.suppress(Empty):
                yield from self._settled(tasks, tasks.ended.get(timeout=_LOOK), fit)

    def _hand_out(self, tasks: Round, fit: set[str]) -> None:
        for address in sorted(fit - tasks.running.keys()):
            if not tasks.waiting:
                return
            number = tasks.waiting.popleft()
            try:
                tasks.running[address] = self._submit(tasks, number, address)
            except Exception as error:
                tasks.waiting.appendleft(number)
                raise ClusterLost(_first_line(error)) from error

    def _submit(self, tasks: Round, number: int, address: str) -> Running:
        token = os.urandom(16).hex()
        key, stacks = f"{tasks.label or 'task'}-{number}-{token}", self._place() / f".stacks.{token}.tmp"
        work = (tasks.function, tasks.items[number], self.launcher.task_deadline, stacks)
        future = self._client.submit(reported, *work, key=key, pure=False, workers=[address], allow_other_workers=False)
        future.add_done_callback(lambda future, ended=tasks.ended: ended.put(address))
        return Running(number, future, time.monotonic(), stacks)

    def _settled(self, tasks: Round, address: str, fit: set[str]) -> Iterator[tuple[int, Any]]:
        """What became of the task of this worker: a result, an error of the user's, or a death."""
        from distributed.scheduler import KilledWorker

        task = tasks.running.get(address)
        if task is None or not task.future.done():
            return  # an older task of the same worker
        try:
            outcome: Outcome[Any] = task.future.result(timeout=_ANSWER)
        except CurateError:
            raise
        except Exception as error:
            if task.future.status == "error" and not isinstance(error, KilledWorker):
                raise
            if self._client.status != "running" or task.future.status == "cancelled":  # as all are where the scheduler is another one
                raise ClusterLost(_first_line(error)) from error
            fit.discard(address)  # the worker was killed, or went between its last word and its result
            self.note(tasks.died(address))
        else:
            del tasks.running[address]
            self.note(tasks.event(task, address) | {"ended": "done", "seconds": round(outcome.seconds, 3), "said": outcome.said})
            yield task.number, outcome.result

    def _bury(self, tasks: Round, there: set[str]) -> None:
        """Tasks whose workers are gone without a word; those that ended, should their last word have been lost, are heard again.

        A worker that runs a task has its file for stacks open: without one it has not begun, or has ended and nobody said so.
        """
        for address, task in list(tasks.running.items()):
            if task.future.done():
                tasks.ended.put(address)
            elif address not in there:
                self.note(tasks.died(address))
            elif time.monotonic() - task.began > _SILENT and not task.stacks.exists():
                raise ClusterLost(f"nothing is heard of {name_of(tasks.items[task.number], task.number)} for {_SILENT:.0f} s")

    def _apart(self, function: Callable[[Any], Any], item: Any, label: str) -> Any:
        """Run one task while nothing else runs; Died where its worker does."""
        tasks = Round.apart(function, item, label)
        for _, result in self._finished(tasks):
            return result
        raise Died(tasks.reason)

    def _look(self) -> tuple[set[str], set[str]]:
        """The addresses of all workers, and of those that may get tasks; the cluster is started where there is none."""
        if self._client is None or self._greeting is None:
            self._start()
        try:
            known = self._client.sync(self._client.scheduler.identity, n_workers=-1, callback_timeout=_ANSWER)["workers"]
        except Exception as error:
            raise ClusterLost(_first_line(error)) from error
        if self._client.status != "running":
            raise ClusterLost(f"the client is {self._client.status}")
        working = {address for address, worker in known.items() if worker.get("status", "running") == "running"}
        return set(known), cast("Greeting", self._greeting).accepted(working)

    def _start(self) -> None:
        """Start the cluster and wait for a first worker; what has worked before and was lost is tried again."""
        try:
            self._client = self.launcher.start(self.tell)
        except ClusterError as error:
            if not self._restarts:
                raise
            raise ClusterLost(_first_line(error)) from error
        try:
            self._greeting = greet(self._client, self.launcher.workers, self.tell)
        except CurateError:
            raise
        except Exception as error:  # the scheduler was lost meanwhile
            raise ClusterLost(_first_line(error)) from error

    def _deserted(self, there: set[str], fit: set[str], since: float) -> bool:
        """Whether nobody is there to work, since then: say so from time to time, and give up in the end."""
        greeting = cast("Greeting", self._greeting)
        if fit or greeting.pending(there):
            return False
        waited, refused = time.monotonic() - since, greeting.refusals
        if waited >= self.launcher.worker_timeout:
            raise ClusterError(
                f"no worker came in {waited:.0f} s{f', and {len(refused)} were refused, the first because of {refused[0]}' if refused else ''}; "
                "look at the queue or the log of the workers, or wait longer with worker_timeout in the profile, "
                "then run the same command: everything finished is kept"
            )
        if self.launcher.local and waited >= _DESERTED:
            raise ClusterLost(f"no worker is left, for {waited:.0f} s")
        if waited % _REMIND < _LOOK and waited > _REMIND:
            self.tell(f"waiting for workers since {waited:.0f} s, at most {self.launcher.worker_timeout:.0f} s")
        return True

    def _place(self) -> Path:
        if self._folder is None:
            self._scratch = Scratch("stacks")
            self._folder = self._scratch.path
        with refusals(self._folder, "make"):
            self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:200] or type(error).__name__
