"""What all launchers do alike: Dask settled, workers greeted, ports audited, the dashboard named, and everything stopped in the end."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from curate.clusters.audit import audit, listening
from curate.clusters.preflight import Greeting, expect
from curate.clusters.sentinel import Sentinel
from curate.clusters.settled import settle_dask, undisturbed
from curate.clusters.site import ANYWHERE, Site
from curate.errors import ClusterError, CurateError

if TYPE_CHECKING:
    from distributed import Client

Notify = Callable[[str], None]
WORKER_TIMEOUT = 300.0  # seconds without any worker
TASK_DEADLINE = 1800.0  # seconds of a task without a sign of life


class Started(ABC):
    """A launcher that can be started again after it was closed; a subclass says how to come to a client."""

    local = False
    dismisses = True  # whether a worker that is refused is stopped, for it is ours

    def __init__(self, workers: int, site: Site = ANYWHERE, worker_timeout: float = WORKER_TIMEOUT, task_deadline: float = TASK_DEADLINE) -> None:
        self.workers, self.site = workers, site
        self.worker_timeout, self.task_deadline = worker_timeout, task_deadline
        self._held = contextlib.ExitStack()

    @abstractmethod
    def connect(self, held: contextlib.ExitStack, notify: Notify) -> "Client":
        """A client of a scheduler; what has to be closed later goes on `held`, the client too."""

    def start(self, notify: Notify = lambda message: None) -> "Client":
        settle_dask()
        before = listening()
        try:
            client = self._reached(notify)
            client.register_plugin(undisturbed())
            sentinels = [self._held.enter_context(Sentinel(folder).placed()) for folder in self.site.folders]
            expect(client, Greeting(client, self.site, sentinels, timeout=self.worker_timeout, dismisses=self.dismisses))
            audit(before)
            if find_spec("bokeh") is not None:
                notify(f"dashboard: {client.dashboard_link}")
        except BaseException:
            self.close()
            raise
        return client

    def _reached(self, notify: Notify) -> "Client":
        try:
            return self.connect(self._held, notify)
        except (CurateError, KeyboardInterrupt):
            raise
        except Exception as error:  # whatever Dask, a queue or another machine raises
            said = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise ClusterError(f"the workers cannot be started: {said[:400]}; mend it and run the same command again") from error

    def close(self) -> None:
        """Stop what was started; what it computed is on disk, so errors on the way out do not matter."""
        held, self._held = self._held, contextlib.ExitStack()
        with contextlib.suppress(Exception):
            held.close()


def let_go(held: contextlib.ExitStack, part: Any, *arguments: Any) -> Any:
    """`part`, which is closed when `held` is, whatever that raises."""

    def close() -> None:
        with contextlib.suppress(Exception):
            part.close(*arguments)

    held.callback(close)
    return part
