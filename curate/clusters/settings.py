"""Cluster profiles: where workers come from, typed like a recipe. What a profile says changes no number, so it is never hashed."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from curate.core import Config


def _like(pattern: str, wanted: str) -> AfterValidator:
    """Text of this form; `wanted` says so in words."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"{text!r} is not understood; write {wanted}")
        return text

    return AfterValidator(check)


Memory = Annotated[str, _like(r"[0-9]+(\.[0-9]+)? ?[KMGT]i?B", "a number and KB, MB, GB, TB, KiB, MiB, GiB or TiB, such as 16 GiB")]
Line = Annotated[str, _like(r"[^\n\r\x00]+", "one line")]
Word = Annotated[str, _like(r"[A-Za-z0-9][A-Za-z0-9._:@/+=,-]*", "letters, digits and ._:@/+=,- only: it goes into a shell script")]
Address = Annotated[str, _like(r"(tls|tcp)://[^\s/]+:[0-9]+", "tls://HOST:PORT")]
Namespace = Annotated[str, _like(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", "small letters, digits and - only")]
Walltime = Annotated[str, _like(r"([0-9]+-)?[0-9]{1,2}:[0-9]{2}:[0-9]{2}", "[days-]hours:minutes:seconds, in quotes, such as '04:00:00'")]
_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|API_?KEY", re.IGNORECASE)


def seconds(walltime: str) -> int:
    """`[days-]hours:minutes:seconds` in seconds."""
    days, _, clock = walltime.rpartition("-")
    hours, minutes, rest = (int(part) for part in clock.split(":"))
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + rest


class Profile(Config):
    """What all profiles have."""

    kind: str
    worker_timeout: float = Field(300.0, gt=0, description="Seconds without any worker after which a run gives up; it says every 30 s that it waits.")
    task_deadline: float = Field(1800.0, gt=0, description="Seconds that a task may go on without a sign of life; then its worker ends itself.")

    @field_validator("environment", check_fields=False)
    @classmethod
    def _no_secrets(cls, environment: dict[str, str]) -> dict[str, str]:
        for name in environment:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise ValueError(f"{name!r} is no name of a variable")
            if _SECRET.search(name):
                raise ValueError(f"{name} looks like a secret, and profiles are printed and kept; let it be set on the workers' machines instead")
            if name.startswith("DASK_"):
                raise ValueError(f"{name} would change Dask, whose settings are curate's own; leave it out")
        return environment


_VARIABLES = "Variables of every worker process, such as HF_HOME. No secrets."


class LaptopProfile(Profile):
    """Worker processes on this machine, over its loopback interface."""

    kind: Literal["laptop"] = "laptop"
    workers: int | None = Field(None, ge=1, description="Worker processes; default: one per core, at most 8, or one per GPU.")
    memory: Memory | None = Field(None, description="Of each worker, such as 8 GiB; default: an equal share. Shown, not enforced.")
    environment: dict[str, str] = Field({}, description=_VARIABLES)


class GpusProfile(Profile):
    """One worker process for every GPU of this machine."""

    kind: Literal["gpus"] = "gpus"
    workers: int | None = Field(None, ge=1, description="GPUs to use, from the first; default: all of them.")
    memory: Memory | None = Field(None, description="Of each worker's process on the host, such as 32 GiB; default: an equal share. Shown, not enforced.")
    environment: dict[str, str] = Field({}, description=_VARIABLES)


class SchedulerProfile(Profile):
    """A Dask scheduler that runs already, with workers that others start; it is used and left running."""

    kind: Literal["scheduler"] = "scheduler"
    address: Address = Field(description="tls://HOST:PORT; tcp:// only with --i-understand-insecure-cluster.")
    ca: str | None = Field(None, min_length=1, description="PEM file of the authority that signed both sides (ca.pem of `curate certificates`).")
    certificate: str | None = Field(None, min_length=1, description="PEM file of this process's certificate (node.pem).")
    key: str | None = Field(None, min_length=1, description="PEM file of its key (node.key).")
    workers: int = Field(1, ge=1, description="Workers that are expected; work begins with the first that comes.")

    @model_validator(mode="after")
    def _complete(self) -> "SchedulerProfile":
        if self.address.startswith("tls://") and not (self.ca and self.certificate and self.key):
            raise ValueError("a tls:// address needs ca, certificate and key; `curate certificates DIR` makes them")
        return self


class Adaptive(Config):
    """Workers that come while all are busy, and go when some are idle."""

    minimum: int = Field(1, ge=1, description="Workers that are always wanted.")
    maximum: int = Field(ge=1, description="Workers that are never exceeded.")

    @model_validator(mode="after")
    def _ordered(self) -> "Adaptive":
        if self.maximum < self.minimum:
            raise ValueError(f"maximum is {self.maximum}, less than minimum {self.minimum}; make it at least that")
        return self


class SlurmProfile(Profile):
    """Jobs of SLURM, each of which is one worker."""

    kind: Literal["slurm"] = "slurm"
    workers: int | None = Field(None, ge=1, description="Jobs, each one worker; jobs that end are replaced.")
    adaptive: Adaptive | None = Field(None, description="In place of workers: how many jobs there are at least and at most.")
    queue: Word | None = Field(None, description="Partition (sbatch -p); default: SLURM's own.")
    account: Word | None = Field(None, description="Who pays (sbatch -A).")
    cores: int = Field(1, ge=1, description="Cores of each job; tasks use one thread, more help where data is decoded.")
    memory: Memory = Field("8 GiB", description="Of each job.")
    walltime: Walltime | None = Field(None, description="[days-]hours:minutes:seconds of each job; workers end before their job does.")
    gpus: int = Field(0, ge=0, description="GPUs of each job (--gres=gpu:N).")
    job_directives: list[Line] = Field([], description="More #SBATCH lines, such as --constraint=a100.")
    prologue: list[Line] = Field([], description="Lines of shell before the worker starts, such as: module load cuda.")
    environment: dict[str, str] = Field({}, description=_VARIABLES)
    python: str | None = Field(None, min_length=1, description="Python on the nodes; default: this one, by its path.")
    host: Word | None = Field(None, description="Address of this machine as the nodes reach it; default: the one of its default route.")
    interface: Word | None = Field(None, description="Or the network interface to use, here and on the nodes, such as ib0.")

    @model_validator(mode="after")
    def _fitting(self) -> "SlurmProfile":
        if self.workers is not None and self.adaptive is not None:
            raise ValueError("workers and adaptive exclude each other; remove one")
        if self.host is not None and self.interface is not None:
            raise ValueError("host and interface exclude each other; remove one")
        if self.walltime is not None and seconds(self.walltime) < 120:
            raise ValueError(f"a walltime of {self.walltime} leaves no time to work; give two minutes or more")
        return self


class KubernetesProfile(Profile):
    """Pods of a DaskCluster resource, which the Dask operator of the Kubernetes cluster runs."""

    kind: Literal["kubernetes"] = "kubernetes"
    image: str = Field(min_length=1, description="Container image with this version of curate; its Python and libraries must be those of this process.")
    workers: int = Field(2, ge=1, description="Worker pods.")
    namespace: Namespace = "default"
    cores: float = Field(1.0, gt=0, description="Requested and allowed for each pod.")
    memory: Memory = Field("8 GiB", description="Requested and allowed for each pod.")
    gpus: int = Field(0, ge=0, description="Of each worker pod (nvidia.com/gpu).")
    claims: dict[str, str] = Field({}, description="Volumes that hold the store, runs and data: claim name to the path here, which is the path in the pods.")
    environment: dict[str, str] = Field({}, description=_VARIABLES)


class SshProfile(Profile):
    """Workers on machines that are reached by SSH; the scheduler runs in this process."""

    kind: Literal["ssh"] = "ssh"
    hosts: list[str] = Field(min_length=1, description="Machines that run workers.")
    workers_per_host: int = Field(1, ge=1, description="Worker processes on each.")
    username: str | None = Field(None, min_length=1)
    port: int = Field(22, ge=1, le=65535)
    client_keys: list[str] = Field([], description="Files of private keys; default: those of ssh.")
    known_hosts: str | None = Field(None, min_length=1, description="File of the machines' public keys; default: that of ssh. Unknown machines are refused.")
    python: str | None = Field(None, min_length=1, description="Python on the machines; default: the path of this one.")
    host: Word | None = Field(None, description="Address of this machine as the others reach it; default: the one of its default route.")
    memory: Memory | None = Field(None, description="Of each worker; default: an equal share of its machine. Shown, not enforced.")
    environment: dict[str, str] = Field({}, description=_VARIABLES)

    @property
    def workers(self) -> int:
        return len(self.hosts) * self.workers_per_host


AnyProfile = Annotated[
    LaptopProfile | GpusProfile | SchedulerProfile | SlurmProfile | KubernetesProfile | SshProfile,
    Field(discriminator="kind"),
]
KINDS: dict[str, type[Profile]] = {
    "laptop": LaptopProfile,
    "gpus": GpusProfile,
    "scheduler": SchedulerProfile,
    "slurm": SlurmProfile,
    "kubernetes": KubernetesProfile,
    "ssh": SshProfile,
}
