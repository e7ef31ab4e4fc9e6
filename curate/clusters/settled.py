"""Dask as curate uses it: nobody else's settings, one arithmetic thread, and Ctrl-C left to the driver."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from copy import deepcopy
from importlib.util import find_spec
from typing import Any

from curate.errors import SafetyError

_PAGES = ["distributed.http.scheduler.info", "distributed.http.scheduler.json", "distributed.http.health", "distributed.http.statics"]
ENVIRONMENT = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")} | {"TOKENIZERS_PARALLELISM": "false"}

SETTINGS = {
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    "distributed.worker.daemon": True,
    "distributed.worker.http.routes": ["distributed.http.health"],
    "distributed.worker.preload": [],
    "distributed.nanny.preload": [],
    "distributed.nanny.pre-spawn-environ": ENVIRONMENT,
}


def inherited() -> str:
    """The settings for worker processes that Dask starts elsewhere, as the variable DASK_INTERNAL_INHERIT_CONFIG hands them on."""
    import dask

    nested: dict[str, Any] = {}
    for name, value in SETTINGS.items():
        dask.config.set({name: deepcopy(value)}, config=nested)
    return str(dask.config.serialize(nested))


def settle_dask() -> None:
    """Dask's configuration files and DASK_ variables count for nothing: a preload in them is code to run, an address an open door."""
    for name in [name for name in os.environ if name.startswith("DASK_")]:
        del os.environ[name]
    import dask

    # A worker process reads the files again while it imports Dask, and sets up logging as they say, before it hears what counts.
    for path, read in dask.config.collect_yaml(paths=dask.config.paths, return_paths=True):
        if any("logging-file-config" in part or "version" in (part.get("logging") or {}) for part in (read, read.get("distributed") or {})):
            raise SafetyError(f"{path} sets up Python's logging for Dask, which can run any code; take `logging` and `logging-file-config` out of it")
    dask.config.refresh(paths=[], env={})
    dask.config.set(deepcopy(SETTINGS))  # Dask writes into what it is given
    # Nothing that passes requests on to other ports; without a dashboard nothing but signs of life.
    dask.config.set({"distributed.scheduler.http.routes": _PAGES if find_spec("bokeh") else ["distributed.http.health"]})
    dask.config.set({"distributed.scheduler.allowed-failures": 0})  # the driver hears of the first death of a worker, and counts them itself


@contextlib.contextmanager
def without_interrupts() -> Iterator[None]:
    """Processes started meanwhile ignore Ctrl-C, which a terminal sends to them too: it is the driver's to handle."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def undisturbed() -> Any:
    """The same for workers that are started later, in the place of one that died."""
    from distributed import WorkerPlugin

    class Undisturbed(WorkerPlugin):
        def setup(self, worker: Any) -> None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    return Undisturbed()


@contextlib.contextmanager
def ended_like_interrupted() -> Iterator[None]:
    """SIGTERM, by which queues and clouds take a machine back, is answered as Ctrl-C is."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
