"""A scheduler that runs already, with workers that others started: used, and left as it was."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from curate.clusters.certificates import Certificates
from curate.clusters.preflight import difference, versions
from curate.clusters.settings import SchedulerProfile
from curate.clusters.site import ANYWHERE, Site
from curate.clusters.started import Notify, Started, let_go
from curate.errors import ClusterError, ConfigError, SafetyError

if TYPE_CHECKING:
    from distributed import Client

_CONNECT = 30.0  # seconds
INSECURE = "anyone who reaches this port can run code as you"


class Scheduler(Started):
    """The workers of a scheduler at an address. Nothing is started or stopped; workers that do not fit get no task."""

    dismisses = False

    def __init__(self, profile: SchedulerProfile, site: Site = ANYWHERE, *, insecure: bool = False) -> None:
        super().__init__(profile.workers, site, profile.worker_timeout, profile.task_deadline)
        if profile.address.startswith("tcp://") and not insecure:
            raise SafetyError(
                f"{profile.address} is not encrypted and asks nobody who they are: {INSECURE}; "
                "use tls:// (`curate certificates DIR`), or say --i-understand-insecure-cluster"
            )
        self._profile = profile

    def connect(self, held: contextlib.ExitStack, notify: Notify) -> "Client":
        from distributed import Client

        profile = self._profile
        security = certificates_of(profile).security() if profile.address.startswith("tls://") else None
        if security is None:
            notify(f"warning: {profile.address} has no TLS: {INSECURE}")
        try:
            client = let_go(held, Client(profile.address, security=security, timeout=_CONNECT, set_as_default=False))
        except (OSError, ValueError, RuntimeError) as error:
            said = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise ClusterError(
                f"no scheduler answers at {profile.address} within {_CONNECT:.0f} s ({said[:300]}); start it, or look at address, ca, certificate and key"
            ) from error
        theirs = client.sync(client.scheduler.versions, packages=[])["packages"]
        ours = versions()
        if different := difference(f"the scheduler at {profile.address}", theirs, {name: ours[name] for name in ("python", "dask", "distributed")}):
            raise ClusterError(different)
        return client  # type: ignore[no-any-return]


def certificates_of(profile: SchedulerProfile) -> Certificates:
    """The files of a profile, each of them there."""
    given = {"ca": profile.ca, "certificate": profile.certificate, "key": profile.key}
    for name, file in given.items():
        if not file or not Path(file).is_file():
            raise ConfigError(f"the profile's {name} is {file}, which is no file; `curate certificates DIR` makes ca.pem, node.pem and node.key")
    return Certificates(*(str(Path(file or "").absolute()) for file in given.values()))
