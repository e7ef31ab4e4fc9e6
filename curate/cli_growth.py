"""The command about pools that grow: `curate update`."""

from pathlib import Path
from typing import Annotated

import typer

from curate.cli_options import AsJson, Device, Quiet, Runs, StoreFolder, Workers, show


def update(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Name of a run.")],
    add: Annotated[
        list[str] | None, typer.Option("--add", metavar="FILE", help="Rows that come: a file, or a source in braces; paths are from the current folder.")
    ] = None,
    remove: Annotated[Path | None, typer.Option("--remove", metavar="FILE", help="Rows that go: a file with an id on each line.")] = None,
    name: Annotated[str, typer.Option("--name", help="Name of the new run; default: the old one's with the next number.")] = "",
    train: Annotated[bool, typer.Option("--train", help="Train and evaluate too; default: stop after the selection.")] = False,
    data: Annotated[Path | None, typer.Option("--data", help="Folder that the recipe's relative paths start from; default: as in the run.")] = None,
    workers: Workers = None,
    device: Device = "auto",
    store: StoreFolder = Path("store"),
    runs: Runs = Path("runs"),
    json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Select again after rows have joined or left a run's pool: only new rows are prepared and scored, and the report says what changed."""
    from curate.pipelines.launch import execute
    from curate.pipelines.update import folder_of, updated
    from curate.recipe import Runtime

    recipe = updated(runs / run, add or (), remove, name)
    folder = data or folder_of(runs / run) or Path()
    runtime = Runtime(store=store, runs=runs, workers=workers or 0, device=device)
    command = f"curate run {runs / recipe.name / 'recipe.yaml'}"
    results = execute(recipe, runtime, folder, until="" if train else "select", command=command, quiet=quiet)
    show(results, json)
    if not json:
        print(f"report: {runs / recipe.name / 'report.html'}; {command} --data {folder} trains and evaluates")
