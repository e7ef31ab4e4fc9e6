"""Workers on machines that are reached by SSH, by the parts of Dask's SSHCluster; the scheduler runs in this process.

The certificates travel as paths of files in the run's folder, which the machines share. Machines whose keys are unknown are refused.
"""

import contextlib
import socket
from typing import TYPE_CHECKING, Any

from curate.clusters.certificates import lent
from curate.clusters.extras import needs
from curate.clusters.settings import SshProfile
from curate.clusters.settled import ENVIRONMENT
from curate.clusters.site import ANYWHERE, Site
from curate.clusters.started import Notify, Started, let_go
from curate.errors import ConfigError

if TYPE_CHECKING:
    from distributed import Client


class Ssh(Started):
    """`workers_per_host` workers on each host, under a nanny each."""

    def __init__(self, profile: SshProfile, site: Site = ANYWHERE) -> None:
        super().__init__(profile.workers, site, profile.worker_timeout, profile.task_deadline)
        self._profile = profile

    def connect(self, held: contextlib.ExitStack, notify: Notify) -> "Client":
        needs("asyncssh", "ssh")
        if self.site.run is None:
            raise ConfigError("workers on other machines need a run folder that they see")
        import dask
        from distributed import Client, Scheduler, SpecCluster
        from distributed.deploy.ssh import Worker

        profile, certificates = self._profile, held.enter_context(lent(self.site.run))
        security = certificates.security()
        # Dask's worker processes elsewhere get this configuration, and find the files by it.
        pair = {"key": certificates.key, "cert": certificates.node}
        tls = {"ca-file": certificates.authority, "worker": pair, "client": pair, "scheduler": pair, "min-version": 1.3}
        dask.config.set({"distributed.comm.tls": {**dask.config.get("distributed.comm.tls"), **tls}, "distributed.comm.require-encryption": True})
        dask.config.set({"distributed.nanny.pre-spawn-environ": {**ENVIRONMENT, **profile.environment}})
        common = {"host": profile.host or _own_address(profile.hosts[0], profile.port), "port": 0, "dashboard_address": "127.0.0.1:0"}
        scheduler = {"cls": Scheduler, "options": {**common, "protocol": "tls://", "security": security}}
        options = {
            "connect_options": connection(profile),
            "kwargs": {"nthreads": 1, "protocol": "tls://", "dashboard_address": "127.0.0.1:0", "death_timeout": 120}
            | ({"memory_limit": profile.memory} if profile.memory else {}),
            "worker_class": "distributed.Nanny",
            "remote_python": profile.python,
        }
        places = [host for host in profile.hosts for _ in range(profile.workers_per_host)]
        workers = {number: {"cls": Worker, "options": {**options, "address": host}} for number, host in enumerate(places)}
        cluster = let_go(held, SpecCluster(workers, scheduler, security=security, silence_logs=50, name="curate"))
        return let_go(held, Client(cluster, set_as_default=False))  # type: ignore[no-any-return]


def connection(profile: SshProfile) -> dict[str, Any]:
    """How asyncssh connects; what the profile leaves open is as for ssh."""
    wanted: dict[str, Any] = {"port": profile.port}
    if profile.username:
        wanted["username"] = profile.username
    if profile.client_keys:
        wanted["client_keys"] = list(profile.client_keys)
    if profile.known_hosts:
        wanted["known_hosts"] = profile.known_hosts
    return wanted


def _own_address(host: str, port: int) -> str:
    """The address of this machine on the way to another; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, port))
        except OSError as error:
            raise ConfigError(f"there is no way to {host} ({error.strerror or error}); look at hosts, or give host: of the profile") from error
        return str(probe.getsockname()[0])
