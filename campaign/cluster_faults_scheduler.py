"""A Dask scheduler with workers of its own, as a user would start them by hand, so that each can be killed, frozen and started again."""

import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from campaign.command import Running, start


@dataclass
class Cluster:
    """Its processes, its certificates and its port. Close it."""

    scratch: Path
    variables: Mapping[str, str]
    ttl: str = ""
    port: int = 0
    scheduler: Running | None = None
    workers: list[Running] = field(default_factory=list)

    def __post_init__(self) -> None:
        from curate.clusters.certificates import made, written

        self.scratch.mkdir()
        files = written(made(), self.scratch / "tls")
        self._tls = {"ca": str(files.authority), "certificate": str(files.node), "key": str(files.key)}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]

    @property
    def address(self) -> str:
        return f"tls://127.0.0.1:{self.port}"

    def profile(self, **fields: Any) -> dict[str, Any]:
        """What a profile says of it."""
        return {"kind": "scheduler", "address": self.address, **self._tls, **fields}

    def start_scheduler(self) -> Running:
        """At the port at which the last one was."""
        arguments = ["scheduler", "--host", "127.0.0.1", "--port", str(self.port), "--protocol", "tls"]
        variables = dict(self.variables) | ({"DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": self.ttl} if self.ttl else {})
        self.scheduler = self._start(arguments, "scheduler", variables)
        return self.scheduler

    def start_worker(self, *, nanny: bool = True) -> Running:
        """A worker that comes to this scheduler, and goes with it."""
        arguments = ["worker", self.address, "--nthreads", "1", "--host", "127.0.0.1", "--death-timeout", "60", "--local-directory", str(self.scratch)]
        worker = self._start([*arguments, "--nanny" if nanny else "--no-nanny"], f"worker-{len(self.workers)}", self.variables)
        self.workers.append(worker)
        return worker

    def _start(self, arguments: list[str], name: str, variables: Mapping[str, str]) -> Running:
        tls = ["--tls-ca-file", self._tls["ca"], "--tls-cert", self._tls["certificate"], "--tls-key", self._tls["key"]]
        command = [sys.executable, "-m", "dask", *arguments, *tls, "--dashboard-address", "127.0.0.1:0"]
        return start(command, self.scratch, self.scratch / f"{name}.said", variables)

    def close(self) -> None:
        """End all of it."""
        for running in (*self.workers, *([self.scheduler] if self.scheduler else [])):
            running.remove()
        shutil.rmtree(self.scratch, ignore_errors=True)


def worker_of(nanny: Running, seconds: float = 60.0) -> psutil.Process:
    """The worker process under a nanny."""
    deadline = time.monotonic() + seconds
    while not (found := nanny.workers()):
        if time.monotonic() > deadline:
            raise RuntimeError(f"no worker came under the nanny: {nanny.words()}")
        time.sleep(0.1)
    return found[0]


def gone(process: psutil.Process, seconds: float) -> bool:
    """Whether it ends in time."""
    try:
        process.wait(timeout=seconds)
    except psutil.TimeoutExpired:
        return False
    return True


def kill(running: Running) -> bool:
    """SIGKILL to this process alone; False where it has ended already."""
    landed = running.process.poll() is None
    if landed:
        os.kill(running.pid, signal.SIGKILL)
        running.ended(10)
    return landed
