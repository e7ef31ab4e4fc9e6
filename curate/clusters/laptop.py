"""Worker processes on this machine, under a scheduler on the loopback interface: one after the other, or one for every GPU."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from curate.clusters.certificates import made
from curate.clusters.settled import without_interrupts
from curate.clusters.site import ANYWHERE, Site
from curate.clusters.started import TASK_DEADLINE, WORKER_TIMEOUT, Notify, Started, let_go
from curate.errors import ConfigError

if TYPE_CHECKING:
    from distributed import Client

HOST, ANY_PORT = "127.0.0.1", "127.0.0.1:0"


class Laptop(Started):
    """So many workers on the loopback interface, each one thread, watched by a nanny. Their certificates are never on the disk.

    `memory` is what each may take in Dask's notation, for its dashboard; nothing is stopped for taking more.
    """

    def __init__(
        self,
        workers: int,
        worker_timeout: float = WORKER_TIMEOUT,
        task_deadline: float = TASK_DEADLINE,
        *,
        site: Site = ANYWHERE,
        memory: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(workers, site, worker_timeout, task_deadline)
        self._memory, self._environment = memory, dict(environment or {})
        self.local = not self._environment

    def environments(self) -> list[dict[str, str]]:
        """The variables of each worker."""
        return [self._environment] * self.workers

    def connect(self, held: contextlib.ExitStack, notify: Notify) -> "Client":
        from distributed import Client, Nanny, Scheduler, SpecCluster

        security = made().security()
        common = {"host": HOST, "protocol": "tls://", "security": security, "dashboard_address": ANY_PORT}
        memory: Any = {"memory_limit": self._memory} if self._memory else {}
        options = {**common, **memory, "nthreads": 1, "dashboard": False, "silence_logs": 50}
        workers = {number: {"cls": Nanny, "options": {**options, "env": given}} for number, given in enumerate(self.environments())}
        scheduler = {"cls": Scheduler, "options": {**common, "port": 0, "dashboard": True}}
        with without_interrupts():
            cluster = let_go(held, SpecCluster(workers, scheduler, security=security, silence_logs=50, name="curate"))
            return let_go(held, Client(cluster, set_as_default=False))  # type: ignore[no-any-return]


class Gpus(Laptop):
    """One worker for every GPU of this machine, which sees no other."""

    def __init__(self, gpus: Sequence[str], **rest: Any) -> None:
        super().__init__(len(gpus), **rest)
        self.gpus = list(gpus)

    def environments(self) -> list[dict[str, str]]:
        return [{**self._environment, "CUDA_VISIBLE_DEVICES": gpu} for gpu in self.gpus]


def visible_gpus(most: int | None = None) -> list[str]:
    """The GPUs of this machine as CUDA_VISIBLE_DEVICES names them, at most so many; ConfigError where there are fewer."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = [part.strip() for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part.strip()]
    found = named[:count] or [str(number) for number in range(count)]
    if not found or (most or 0) > len(found):
        raise ConfigError(f"the profile wants {most or 'one or more'} GPUs, and torch sees {count} here; use --profile laptop, or fewer workers")
    return found[: most or len(found)]
