"""Workers as jobs of SLURM, by dask-jobqueue; the scheduler runs in this process, and all of it speaks TLS.

A worker ends a while before its job does, so that Dask hears of it; its task is given to another, and a new job takes its place.
"""

import contextlib
import getpass
import re
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate.clusters.certificates import FILES, Certificates, lent
from curate.clusters.extras import needs
from curate.clusters.settings import Adaptive, SlurmProfile, seconds
from curate.clusters.settled import ENVIRONMENT, inherited, settle_dask
from curate.clusters.site import ANYWHERE, Site
from curate.clusters.started import Notify, Started, let_go
from curate.errors import ConfigError

if TYPE_CHECKING:
    from distributed import Client

_GRACE, _STAGGER = 300, 120  # seconds before the end of a job, and how far its workers' ends lie apart; less of short jobs
_LOOK = 15.0  # seconds between two looks at the queue
_DEATH = 120  # seconds without a scheduler after which a worker ends itself
_LOGS = "logs"  # a folder in the run's own
_SHELL_SAFE = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")


class Slurm(Started):
    """Jobs, one worker each."""

    def __init__(self, profile: SlurmProfile, site: Site = ANYWHERE) -> None:
        most = profile.adaptive.maximum if profile.adaptive else profile.workers or 1
        super().__init__(most, site, profile.worker_timeout, profile.task_deadline)
        self._profile = profile

    def connect(self, held: contextlib.ExitStack, notify: Notify) -> "Client":
        from distributed import Client

        needs("dask_jobqueue", "slurm")
        if self.site.run is None:
            raise ConfigError("workers of SLURM need a run folder that the nodes see")
        from dask_jobqueue import SLURMCluster

        certificates = held.enter_context(lent(self.site.run))
        (self.site.run / _LOGS).mkdir(parents=True, exist_ok=True)
        options = job_options(self._profile, self.site.run, certificates)
        scheduler = {"dashboard_address": "127.0.0.1:0", "port": 0}
        scheduler |= {name: value for name in ("host", "interface") if (value := getattr(self._profile, name))}
        cluster = let_go(held, SLURMCluster(**options, security=certificates.security(), protocol="tls://", scheduler_options=scheduler, silence_logs=50))
        adaptive = self._profile.adaptive or Adaptive(minimum=self.workers, maximum=self.workers)
        cluster.adapt(Adaptive=_busy(), minimum=adaptive.minimum, maximum=adaptive.maximum, interval="2s", wait_count=30)
        notify(f"asked SLURM for {adaptive.minimum} of at most {adaptive.maximum} workers; their logs: {self.site.run / _LOGS}")
        return let_go(held, Client(cluster, set_as_default=False))  # type: ignore[no-any-return]


def job_options(profile: SlurmProfile, run: Path, certificates: Certificates) -> dict[str, Any]:
    """What dask-jobqueue makes the job script of."""
    for path in (str(run), profile.python or "", certificates.key):
        if path and not _SHELL_SAFE.fullmatch(path):
            raise ConfigError(f"{path} goes into a job script, where only letters, digits and _@%+=:,./- are safe; use another --runs or python")
    variables = {**ENVIRONMENT, **profile.environment, "DASK_INTERNAL_INHERIT_CONFIG": inherited()}
    logs = [f"--output={run / _LOGS}/%j.out", f"--error={run / _LOGS}/%j.err"]
    arguments = ["--nthreads", "1", "--dashboard-address", "127.0.0.1:0", *lifetime(profile)]
    return {
        "queue": profile.queue,
        "account": profile.account,
        "cores": profile.cores,
        "processes": 1,
        "memory": profile.memory,
        "walltime": profile.walltime,
        "python": profile.python,
        "interface": profile.interface,
        "job_name": "curate-worker",
        "death_timeout": _DEATH,
        "worker_extra_args": arguments,
        "job_extra_directives": [*logs, *([f"--gres=gpu:{profile.gpus}"] if profile.gpus else []), *profile.job_directives],
        "job_script_prologue": [*profile.prologue, *(f"export {name}={shlex.quote(value)}" for name, value in variables.items())],
    }


def lifetime(profile: SlurmProfile) -> list[str]:
    """When a worker ends itself: a grace before its job does, not all at once; less grace where the job is short."""
    if profile.walltime is None:
        return []
    whole = seconds(profile.walltime)
    grace, stagger = min(_GRACE, whole // 4), min(_STAGGER, whole // 8)
    return ["--lifetime", f"{whole - grace - stagger}s", "--lifetime-stagger", f"{stagger}s"]


def job_script(profile: SlurmProfile, run: Path) -> str:
    """The script of each job, as sbatch would get it, but for the scheduler's address and the folder of the certificates."""
    needs("dask_jobqueue", "slurm")
    settle_dask()
    from dask_jobqueue.slurm import SLURMJob

    certificates = Certificates(*(str(run / ".tls-RANDOM" / name) for name in FILES))
    job = SLURMJob("tls://ADDRESS:PORT", name="NAME", protocol="tls://", security=certificates.security(), **job_options(profile, run, certificates))
    return str(job.job_script())


def _busy() -> Any:
    """Adaptive workers for a driver that hands out one task to each: while all are busy, twice as many are wanted; idle ones may go.

    Jobs that ended before their worker came are noticed too, which Dask does not: it would wait for them.
    """
    from distributed import Adaptive as Adapting

    class Busy(Adapting):
        looked = float("-inf")

        async def target(self) -> int:
            if time.monotonic() - self.looked >= _LOOK:
                self.looked = time.monotonic()
                await _forget_ended(self.cluster)
            workers = self.cluster.scheduler.workers.values()  # type: ignore[attr-defined]  # it runs in this process
            busy = sum(bool(worker.processing) for worker in workers)
            wanted = 2 * busy if busy == len(workers) else busy
            return int(min(max(wanted, self.minimum), self.maximum))

    return Busy


async def _forget_ended(cluster: Any) -> None:
    """Jobs that SLURM does not know any more, and whose worker is not there, are asked for again."""
    there = {str(worker.name) for worker in cluster.scheduler.workers.values()}
    waiting = {str(job.job_id): name for name, job in cluster.workers.items() if job.job_id and str(name) not in there}
    if not waiting:
        return
    try:
        known = (await next(iter(cluster.workers.values()))._call(["squeue", "--noheader", "--format=%i", f"--user={getpass.getuser()}"])).split()
    except (RuntimeError, OSError):  # the controller does not answer now; it is asked again
        return
    for number in waiting.keys() - set(known):
        cluster.workers.pop(waiting[number], None)
