"""Launch: one run from a typed recipe to its folder: lock, compute, summarise, report."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from curate.cluster import InProcess, Workers, cluster_of
from curate.clusters.certificates import remove_left
from curate.clusters.chosen import launcher_of, shown
from curate.clusters.sentinel import remove_stale
from curate.clusters.settings import LaptopProfile
from curate.clusters.settled import ended_like_interrupted
from curate.clusters.site import Site
from curate.errors import ConfigError, DataError, IntegrityError, Interrupted, SafetyError
from curate.intact import SetAside
from curate.pipelines.experiment import run
from curate.pipelines.session import Session
from curate.pipelines.summarise import recipe_text, summarise
from curate.progress import Progress
from curate.recipe import Recipe, Runtime
from curate.report.results import Results
from curate.store import Store, atomic_write, canonical, locked
from curate.task_log import TaskLog

MOST_WORKERS = 8  # each holds a copy of the model; more are had by asking for them


def execute(recipe: Recipe, runtime: Runtime, folder: Path, *, until: str, command: str, quiet: bool) -> Results:
    """Run the recipe in RUNS/<name>; whatever was computed before is found, not computed again."""
    directory = runtime.runs / recipe.name
    with session_of(recipe, runtime, folder, quiet=quiet) as session:
        started = time.monotonic()
        atomic_write(directory / "recipe.yaml", recipe_text(recipe).encode())
        try:
            results = _computed(recipe, session, until, command, started)
        except SetAside as damage:  # found where it was read; everything else is there, so once more computes that alone
            session.store.notify(str(damage))
            session.stages.clear()
            results = _computed(recipe, session, until, command, started)
        computed = {"hardware": results.hardware, "version": results.version, "device": session.device, "workers": session.cluster.workers}
        computed["folder"] = str(session.folder)  # that relative paths of the recipe start from, for who goes on from this run
        atomic_write(directory / "run.json", canonical({"stages": session.stages, **computed}))
        write_reports(results, directory)
    return results


def _computed(recipe: Recipe, session: Session, until: str, command: str, started: float) -> Results:
    experiment = run(recipe, session, until)
    return summarise(recipe, session, experiment, seconds=time.monotonic() - started, command=command)


@contextlib.contextmanager
def session_of(recipe: Recipe, runtime: Runtime, folder: Path, *, quiet: bool) -> Iterator[Session]:
    """The session of a run in RUNS/<name>: its folder locked, workers, and a log; Interrupted where the user stops it."""
    directory, device = runtime.runs / recipe.name, pick_device(runtime.device)
    refuse_links(directory)
    with ended_like_interrupted(), locked(directory / ".lock", wait=False):
        remove_left(directory)
        for place in Site(runtime.store.absolute(), directory.absolute()).folders:
            remove_stale(place)  # of drivers that were killed while they greeted workers
        progress = Progress(directory / "log.jsonl", quiet=quiet)
        cluster = _cluster(runtime, device, directory.absolute(), progress)
        outputs = (runtime.store.absolute(), runtime.runs.absolute())
        try:
            with progress.noting_end():
                yield Session(
                    Store(outputs[0], progress.message),
                    cluster,
                    folder.absolute(),
                    device,
                    progress.stage,
                    outputs,
                    run_folder=directory.absolute(),
                    report_to=runtime.report_to,
                    processes=runtime.processes,
                )
        except KeyboardInterrupt:
            raise Interrupted("interrupted: everything finished so far is kept; run the same command again to go on") from None
        finally:
            cluster.close()
            progress.close()


def _cluster(runtime: Runtime, device: str, directory: Path, progress: Progress) -> InProcess | Workers:
    """This process, where one worker on this machine is enough; otherwise the workers of the profile, which see what this process sees."""
    workers, logs = workers_of(runtime, device), directory / "logs"
    heard = (progress.advance, progress.message, TaskLog(logs / "tasks.jsonl").note, logs)
    profile = runtime.profile or LaptopProfile()
    if workers == 1 and isinstance(profile, LaptopProfile) and not profile.environment:
        return cluster_of(1, *heard, deadline=profile.task_deadline)
    site = Site(runtime.store.absolute(), directory, device)
    launcher = launcher_of(profile, site, workers, insecure=runtime.insecure_cluster)
    return Workers(launcher, *heard)


def would_start(runtime: Runtime, name: str) -> str:
    """What the profile would start for a run of this name: a job script, a manifest, or a few lines."""
    return shown(runtime.profile or LaptopProfile(), (runtime.runs / name).absolute(), workers_of(runtime, pick_device(runtime.device)))


def workers_of(runtime: Runtime, device: str) -> int:
    """As many as were asked for; unasked, one for every GPU or core, or for every `processes` of them."""
    given = runtime.profile.workers if isinstance(runtime.profile, LaptopProfile) else None
    return runtime.workers or given or max(1, _most_workers(device) // runtime.processes)


def _most_workers(device: str) -> int:
    """One for every GPU, or one for every core up to `MOST_WORKERS`."""
    if device == "cpu":
        return min(len(os.sched_getaffinity(0)), MOST_WORKERS)
    import torch

    return torch.cuda.device_count() if device == "cuda" else 1


def pick_device(wanted: str) -> str:
    """`auto` is a GPU where there is one; a device that is not there is refused."""
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted != "cpu" and not (wanted.split(":")[0] == "cuda" and torch.cuda.is_available()):
        raise ConfigError(f"--device {wanted} is not to be had here; torch sees {torch.cuda.device_count()} CUDA devices: use cpu or auto")
    return wanted


def write_reports(results: Results, directory: Path) -> None:
    """results.json, report.md, report.html and tables/*.parquet of a run."""
    from curate.report import html, markdown
    from curate.report.frames import frames

    refuse_links(directory)
    atomic_write(directory / "results.json", results.model_dump_json(indent=1).encode())
    atomic_write(directory / "report.md", markdown.render(results).encode())
    atomic_write(directory / "report.html", html.render(results).encode())
    for name, table in frames(results).items():
        atomic_write(directory / "tables" / f"{name}.parquet", table)


def refuse_links(directory: Path) -> None:
    """SafetyError where the run's folder, or a place in it that a run writes to, is a link: what is written there must stay there.

    Folders of others in it, such as that of a library that reports training curves, may hold links.
    """
    found = [path for path in (directory, *sorted(directory.glob("*")), *sorted((directory / "tables").glob("*"))) if path.is_symlink()]
    if found:
        raise SafetyError(f"{found[0]} is a link, and a run writes in its own folder only; remove it, or name another folder with --runs")


def read_results(directory: Path) -> Results:
    """The results of a finished run."""
    file = directory / "results.json"
    if not file.is_file():
        raise DataError(f"there is no finished run in {directory}; `curate run RECIPE` makes one, --runs names the folder of runs")
    try:
        return Results.model_validate_json(file.read_bytes())
    except ValueError as error:
        raise IntegrityError(f"{file} is damaged, or of another version of curate; run the recipe again to write it anew") from error
