"""From a profile to its launcher, and to what it would start."""

import json
from pathlib import Path
from typing import Any

from curate.clusters.kubernetes import Kubernetes, manifest
from curate.clusters.laptop import Gpus, Laptop, visible_gpus
from curate.clusters.launcher import Launcher
from curate.clusters.scheduler import Scheduler
from curate.clusters.settings import AnyProfile, GpusProfile, KubernetesProfile, LaptopProfile, SchedulerProfile, SlurmProfile, SshProfile
from curate.clusters.site import Site
from curate.clusters.slurm import Slurm, job_script
from curate.clusters.ssh import Ssh
from curate.errors import ConfigError


def with_workers(profile: AnyProfile, workers: int) -> AnyProfile:
    """The profile with another number of workers, which the command line may ask for."""
    if isinstance(profile, SshProfile):
        raise ConfigError("--workers and a profile of kind ssh exclude each other; change workers_per_host in the profile")
    other: dict[str, Any] = {"adaptive": None} if isinstance(profile, SlurmProfile) else {}
    return profile.model_copy(update={"workers": workers, **other})


def workers_in(profile: AnyProfile, workers: int) -> int:
    """The most workers that a run has; `workers` for a laptop's where the profile leaves them open. ConfigError for GPUs that are not here."""
    match profile:
        case GpusProfile():
            return len(visible_gpus(profile.workers))
        case SlurmProfile():
            return profile.adaptive.maximum if profile.adaptive else profile.workers or 1
        case _:
            return profile.workers or workers


def launcher_of(profile: AnyProfile, site: Site, workers: int, *, insecure: bool = False) -> Launcher:
    """Who starts the workers of this profile; `workers` for a laptop's where the profile leaves them open."""
    match profile:
        case LaptopProfile():
            return Laptop(profile.workers or workers, profile.worker_timeout, profile.task_deadline, site=site, **_here(profile))
        case GpusProfile():
            gpus = visible_gpus(profile.workers)
            return Gpus(gpus, worker_timeout=profile.worker_timeout, task_deadline=profile.task_deadline, site=site, **_here(profile))
        case SchedulerProfile():
            return Scheduler(profile, site, insecure=insecure)
        case SlurmProfile():
            return Slurm(profile, site)
        case KubernetesProfile():
            return Kubernetes(profile, site)
        case SshProfile():
            return Ssh(profile, site)


def _here(profile: LaptopProfile | GpusProfile) -> dict[str, Any]:
    return {"memory": profile.memory, "environment": profile.environment}


def shown(profile: AnyProfile, run: Path, workers: int) -> str:
    """What would be started, in a form that can be read, or given to sbatch or kubectl; nothing is started."""
    match profile:
        case SlurmProfile():
            return job_script(profile, run)
        case KubernetesProfile():
            return "\n---\n".join(json.dumps(one, indent=2) for one in manifest(profile, "curate-NAME", None))
        case LaptopProfile():
            what = f"{profile.workers or workers} worker processes under a scheduler on 127.0.0.1, by TLS with certificates in memory"
        case GpusProfile():
            count = profile.workers or "all"
            what = f"a worker process for each of {count} GPUs of this machine, under a scheduler on 127.0.0.1, by TLS with certificates in memory"
        case SchedulerProfile():
            what = f"nothing: the workers of the scheduler at {profile.address} are used, {profile.workers} of them are expected"
        case SshProfile():
            what = f"a scheduler in this process and {profile.workers_per_host} worker processes on each of {', '.join(profile.hosts)}, by SSH, with TLS"
    return "\n".join([f"kind: {profile.kind}", f"starts: {what}", *(f"{name}: {value}" for name, value in profile if name != "kind" and value)])
