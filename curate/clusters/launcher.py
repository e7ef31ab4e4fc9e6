"""The seam between who runs tasks and who starts workers: a launcher brings a connected client, and later stops what it started."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from distributed import Client


class Launcher(Protocol):
    """Starts a scheduler with workers, or finds one, and stops what it started."""

    workers: int  # as many as there will be at most
    local: bool  # whether this process has what its workers have, so that a single task may run in it instead
    worker_timeout: float  # seconds without any worker after which there is no use in waiting
    task_deadline: float  # seconds that a task may go on without a sign of life (`curate.beat.beat`)

    def start(self, notify: Callable[[str], None]) -> "Client":
        """A connected client, with Dask settled and TLS set; does not wait for workers. ClusterError where nothing can be started or found."""

    def close(self) -> None:
        """Stop what was started; never raises."""
