"""A Dask cluster that is none: workers that die, leave, freeze and come on cue, at once."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from curate.one_task import Outcome

Cue = Callable[["FakeClient", "FakeFuture"], None]


class FakeFuture:
    def __init__(self, number: int, address: str, run: Callable[[], Any], stacks: Path) -> None:
        self.number, self.address, self.run, self.stacks = number, address, run, stacks
        self.status, self.error, self.heard = "pending", None, True  # type: str, Exception | None, bool
        self.callbacks: list[Callable[[Any], None]] = []

    def done(self) -> bool:
        return self.status != "pending"

    def result(self, timeout: float) -> Any:
        if self.error is not None or not self.done():
            raise self.error or TimeoutError
        return Outcome(self.run(), 0.0, "")

    def add_done_callback(self, call: Callable[[Any], None]) -> None:
        self.callbacks.append(call)
        self.tell()

    def tell(self) -> None:
        while self.heard and self.done() and self.callbacks:
            self.callbacks.pop()(self)

    def cancel(self, force: bool) -> None:
        self.end("cancelled")

    def end(self, status: str, error: Exception | None = None, *, heard: bool = True) -> None:
        if not self.done():
            self.status, self.error, self.heard = status, error, heard
            self.tell()


class FakeClient:
    """Workers are names; `cue` says what becomes of every task that is handed out."""

    def __init__(self, workers: int, cue: Cue) -> None:
        self.status, self.cue, self.born = "running", cue, workers
        self.workers: dict[str, str] = {f"worker-{number}": "running" for number in range(workers)}
        self.scheduler = SimpleNamespace(identity=None)
        self.futures: list[FakeFuture] = []
        self.fails: Exception | None = None

    def sync(self, call: Any, **more: Any) -> dict[str, Any]:
        assert more["callback_timeout"] > 0
        if self.fails:
            raise self.fails
        return {"workers": {address: {"status": status} for address, status in self.workers.items()}}

    def submit(self, call: Any, function: Any, item: Any, deadline: float, stacks: Path, *, key: str, pure: bool, workers: Any, **more: Any) -> FakeFuture:
        future = FakeFuture(len(self.futures), workers[0], lambda: function(item), stacks)
        self.futures.append(future)
        if workers[0] in self.workers:
            self.cue(self, future)
        return future

    def die(self, future: FakeFuture, *, word: bool = True, replaced: bool = True) -> None:
        """The worker of this task dies, with the scheduler's word or without."""
        from distributed.scheduler import KilledWorker

        self.workers.pop(future.address, None)
        if replaced:
            self.workers[f"worker-{self.born}"] = "running"
            self.born += 1
        if word:
            future.end("error", KilledWorker("task", SimpleNamespace(address=future.address), 0))  # type: ignore[arg-type]


class FakeLauncher:
    worker_timeout, task_deadline = 5.0, 5.0

    def __init__(self, workers: int, cue: Cue, *, local: bool = False) -> None:
        self.workers, self.cue, self.local = workers, cue, local
        self.clients: list[FakeClient] = []
        self.refuses: list[Exception] = []  # to start, one after the other
        self.closed = 0

    def start(self, notify: Callable[[str], None]) -> Any:
        if self.clients and self.refuses:
            raise self.refuses.pop()
        self.clients.append(FakeClient(self.workers, self.cue))
        return self.clients[-1]

    def close(self) -> None:
        self.closed += 1
