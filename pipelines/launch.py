"""Launch: one run from a typed recipe to its folder: lock, compute, summarise, report."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from curate.cluster import cluster_of
from curate.errors import ConfigError, DataError, IntegrityError, Interrupted, SafetyError
from curate.pipelines.experiment import run
from curate.pipelines.session import Session
from curate.pipelines.summarise import recipe_text, summarise
from curate.progress import Progress
from curate.recipe import Recipe, Runtime
from curate.report.results import Results
from curate.store import Store, atomic_write, canonical, locked

MOST_WORKERS = 8  # each holds a copy of the model; more are had by asking for them


def execute(recipe: Recipe, runtime: Runtime, folder: Path, *, until: str, command: str, quiet: bool) -> Results:
    """Run the recipe in RUNS/<name>; whatever was computed before is found, not computed again."""
    directory = runtime.runs / recipe.name
    with session_of(recipe, runtime, folder, quiet=quiet) as session:
        started = time.monotonic()
        atomic_write(directory / "recipe.yaml", recipe_text(recipe).encode())
        experiment = run(recipe, session, until)
        results = summarise(recipe, session, experiment, seconds=time.monotonic() - started, command=command)
        computed = {"hardware": results.hardware, "version": results.version, "device": session.device, "workers": session.cluster.workers}
        atomic_write(directory / "run.json", canonical({"stages": session.stages, **computed}))
        write_reports(results, directory)
    return results


@contextlib.contextmanager
def session_of(recipe: Recipe, runtime: Runtime, folder: Path, *, quiet: bool) -> Iterator[Session]:
    """The session of a run in RUNS/<name>: its folder locked, workers, and a log; Interrupted where the user stops it."""
    directory, device = runtime.runs / recipe.name, pick_device(runtime.device)
    refuse_links(directory)
    with locked(directory / ".lock", wait=False):
        progress = Progress(directory / "log.jsonl", quiet=quiet)
        workers = workers_of(runtime, device)
        cluster = cluster_of(workers, progress.advance)
        outputs = (runtime.store.absolute(), runtime.runs.absolute())
        try:
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


def workers_of(runtime: Runtime, device: str) -> int:
    """As many as were asked for; unasked, one for every GPU or core, or for every `processes` of them."""
    return runtime.workers or max(1, _most_workers(device) // runtime.processes)


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
