"""Where tasks run: in this process, or on worker processes of a Dask cluster on this machine.

Tasks take and return small values (paths, hashes, counts): nothing large crosses the scheduler. One task at a
time per worker process, one thread per task, so that any number of workers computes the same bits.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, TypeVar

from curate.errors import ClusterError, CurateError, ModelError, SafetyError

T = TypeVar("T")
R = TypeVar("R")
Listener = Callable[[str, int, int], None]  # label, done, total


def one_thread(function: Callable[[T], R], item: T) -> R:
    """Run a task with one arithmetic thread: another number of threads adds floats in another order."""
    import torch

    _take_own_gpu()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return function(item)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise ModelError(
            f"the memory of the device or machine does not suffice ({str(error).partition('. ')[0] or type(error).__name__}); lower train.micro_batch_tokens, "
            "warmup.micro_batch_tokens or model.max_length, or use --workers 1, and run the same command again: finished shards are kept"
        ) from error
    finally:
        torch.set_num_threads(before)


def _take_own_gpu() -> None:
    """In a worker process, `cuda` is the GPU that its number stands for, so that workers do not crowd on the first."""
    import torch

    number = worker_number() if torch.cuda.device_count() > 1 else None
    if number is not None:
        torch.cuda.set_device(number % torch.cuda.device_count())


def worker_number() -> int | None:
    """Which worker process this is, from 0; None where it is none."""
    from distributed import get_worker

    try:
        return int(get_worker().name)
    except ValueError:
        return None


def out_of_memory(error: Exception) -> bool:
    """Whether memory ran out; torch's allocator on a CPU has no error of its own for it."""
    import torch

    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


class InProcess:
    """Tasks one after the other in this process; `listener` hears how many are done."""

    workers = 1

    def __init__(self, listener: Listener = lambda label, done, total: None) -> None:
        self.listener = listener

    def map(self, function: Callable[[T], R], items: Sequence[T], *, label: str = "") -> Generator[R, None, None]:
        self.listener(label, 0, len(items))
        for done, item in enumerate(items, 1):
            result = one_thread(function, item)
            self.listener(label, done, len(items))
            yield result

    def close(self) -> None:
        """Nothing to stop."""


class LocalDask:
    """Worker processes under a Dask scheduler on the loopback interface, started when the first tasks come."""

    def __init__(self, workers: int, listener: Listener = lambda label, done, total: None) -> None:
        self.workers = workers
        self.listener = listener
        self._client: Any = None

    def map(self, function: Callable[[T], R], items: Sequence[T], *, label: str = "") -> Generator[R, None, None]:
        """Results in the order of `items`; the first error stops the rest."""
        if len(items) <= 1:
            yield from InProcess(self.listener).map(function, items, label=label)
            return
        from dask.distributed import as_completed

        client = self._start()
        self.listener(label, 0, len(items))
        futures = [client.submit(one_thread, function, item, pure=False, key=f"{label or 'task'}-{os.urandom(4).hex()}-{i}") for i, item in enumerate(items)]
        position = {future.key: i for i, future in enumerate(futures)}
        ready: dict[int, R] = {}
        following = 0
        try:
            for done, future in enumerate(as_completed(futures, loop=client.loop), 1):
                ready[position[future.key]] = self._result(future)
                self.listener(label, done, len(items))
                while following in ready:
                    yield ready.pop(following)
                    following += 1
        finally:
            client.cancel(futures, force=True)

    def _result(self, future: Any) -> Any:
        from distributed.scheduler import KilledWorker

        try:
            return future.result()
        except CurateError:
            raise
        except KilledWorker as error:
            raise ClusterError(
                f"a worker process died again and again on the same task ({error.task}), most often for lack of memory; "
                "use fewer workers (--workers 1), then run the same command: finished shards are kept"
            ) from error

    def _start(self) -> Any:
        if self._client is None:
            _settle_dask()
            from dask.distributed import Client, LocalCluster

            with _without_interrupts():
                self._cluster = LocalCluster(
                    n_workers=self.workers, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs=50
                )
                self._client = Client(self._cluster, set_as_default=False)
                self._client.register_plugin(_undisturbed())
        return self._client

    def close(self) -> None:
        """Stop the workers; what they computed is on disk, so errors on the way out do not matter."""
        if self._client is not None:
            with contextlib.suppress(Exception):
                self._client.close()
            with contextlib.suppress(Exception):
                self._cluster.close()
            self._client = None


def _settle_dask() -> None:
    """Dask's configuration files and DASK_ variables count for nothing: a preload in them is code to run, an address an open door."""
    for name in [name for name in os.environ if name.startswith("DASK_")]:
        del os.environ[name]
    import dask

    # A worker process reads the files again while it imports Dask, and sets up logging as they say, before it hears what counts.
    for path, read in dask.config.collect_yaml(paths=dask.config.paths, return_paths=True):
        if any("logging-file-config" in part or "version" in (part.get("logging") or {}) for part in (read, read.get("distributed") or {})):
            raise SafetyError(f"{path} sets up Python's logging for Dask, which can run any code; take `logging` and `logging-file-config` out of it")
    dask.config.refresh(paths=[], env={})
    environment = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")} | {"TOKENIZERS_PARALLELISM": "false"}
    dask.config.set({"distributed.worker.memory.pause": False, "distributed.worker.memory.terminate": False, "distributed.worker.daemon": True})
    dask.config.set({"distributed.nanny.pre-spawn-environ": environment})


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes started meanwhile ignore Ctrl-C, which a terminal sends to them too: it is the driver's to handle."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _undisturbed() -> Any:
    """The same for workers that are started later, in the place of one that died."""
    from distributed import WorkerPlugin

    class Undisturbed(WorkerPlugin):
        def setup(self, worker: Any) -> None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    return Undisturbed()


def cluster_of(workers: int, listener: Listener = lambda label, done, total: None) -> InProcess | LocalDask:
    """This process for one worker, worker processes for more."""
    return InProcess(listener) if workers <= 1 else LocalDask(workers, listener)
