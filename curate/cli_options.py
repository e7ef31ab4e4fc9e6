"""What the commands share: their options, and how a recipe is found and read."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from curate.errors import ConfigError

if TYPE_CHECKING:
    from curate.recipe import Recipe
    from curate.report.results import Results

RecipePath = Annotated[str, typer.Argument(metavar="RECIPE", help="A YAML file, or the name of a recipe that ships with curate, such as quickstart.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Fields to change, such as train.epochs=2.")]
DataFolder = Annotated[Path | None, typer.Option("--data", help="Folder that the recipe's relative paths start from; default: the recipe's own.")]
Runs = Annotated[Path, typer.Option("--runs", help="Folder of run folders.")]
StoreFolder = Annotated[Path, typer.Option("--store", help="Folder of artifacts; shared by all runs.")]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Worker processes; default: one per core, at most 8, or one with a GPU.")]
ProfileName = Annotated[
    str | None,
    typer.Option("--profile", help="Where workers come from: laptop, gpus, scheduler, slurm, kubernetes, ssh, or a YAML file; default: this machine."),
]
Insecure = Annotated[bool, typer.Option("--i-understand-insecure-cluster", help="Use a scheduler without TLS: anyone who reaches it can run code as you.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Processes = Annotated[int, typer.Option("--processes", min=1, help="Processes that train each model together: one per GPU.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]


def recipe_file(name: str) -> Path:
    """The file of this path, or of a recipe that ships with curate."""
    path = Path(name)
    if path.is_file() or "/" in name or name.endswith((".yaml", ".yml")):
        return path
    found = shipped(name)
    if not found.is_file():
        known = sorted(file.stem for file in found.parent.glob("*.yaml"))
        raise ConfigError(f"there is no recipe file {name!r}, and none of that name ships with curate; shipped: {', '.join(known)}")
    return found


def shipped(name: str) -> Path:
    """Where a recipe that ships with curate lies."""
    return Path(__file__).parent / "configs" / f"{name}.yaml"


def read(path: Path, overrides: list[str] | None) -> "Recipe":
    """The typed recipe, with fields changed."""
    from curate.recipe import read_recipe

    return read_recipe(path, overrides or ())


def places(profile: str | None, workers: int | None, insecure: bool) -> dict[str, Any]:
    """The fields of a runtime that say where workers come from."""
    if profile is None:
        return {"workers": workers or 0}
    from curate.clusters.chosen import with_workers
    from curate.clusters.profile import read_profile

    chosen = read_profile(profile)
    return {"workers": workers or 0, "profile": with_workers(chosen, workers) if workers else chosen, "insecure_cluster": insecure}


def command_line(recipe: str, overrides: list[str] | None, elsewhere: bool) -> str:
    """What to type to run this again."""
    import shlex

    return shlex.join(["curate", "run", recipe, *(overrides or ()), *(("--data", "DIR") if elsewhere else ())])


def told(message: str) -> None:
    """A line of progress."""
    from curate.report.wording import visible

    print(visible(message), file=sys.stderr, flush=True)


def silent(message: str) -> None:
    """Says nothing."""


def show(results: "Results", as_json: bool) -> None:
    """A run's tables, or all of it as JSON."""
    if as_json:
        print(results.model_dump_json())
        return
    from rich.console import Console

    from curate.report.terminal import print_tables

    print_tables(results, Console())
