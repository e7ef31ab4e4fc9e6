"""The command line: it parses arguments and calls one function each; what it says goes to standard output, progress to standard error."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from curate.cli_exports import export, verify
from curate.cli_growth import update
from curate.cli_options import (
    AsJson,
    DataFolder,
    Device,
    Insecure,
    Overrides,
    Processes,
    ProfileName,
    Quiet,
    RecipePath,
    Runs,
    StoreFolder,
    Workers,
    command_line,
    places,
    read,
    recipe_file,
    shipped,
    show,
)
from curate.cli_studies import advise, doctor, evaluate, explain, plan, status, validate_scores
from curate.errors import ConfigError, NumericError
from curate.locks import refuse_held

app = typer.Typer(
    help="Choose the training rows that make a language model better at your target, and prove it. Any command takes --debug, for tracebacks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command()
def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    store: StoreFolder = Path("store"),
    runs: Runs = Path("runs"),
    until: Annotated[Literal["prepare", "score", "select", "train"] | None, typer.Option("--until", help="Stop after this stage.")] = None,
    workers: Workers = None,
    device: Device = "auto",
    data: DataFolder = None,
    processes: Processes = 1,
    report_to: Annotated[list[str] | None, typer.Option("--report-to", help="Training curves, also to tensorboard or wandb.")] = None,
    profile: ProfileName = None,
    insecure: Insecure = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what the profile would start, such as SLURM's job script, and start nothing.")] = False,
    json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Run an experiment, or go on with it: score, select, train, evaluate, compare and report."""
    path = recipe_file(recipe)
    typed = read(path, overrides)  # what is wrong with it is said before a library is loaded
    if not dry_run:
        refuse_held(runs / typed.name / ".lock")
    from curate.pipelines.launch import execute, would_start
    from curate.recipe import Runtime
    from curate.training.reporters import reporters

    where = places(profile, workers, insecure)
    runtime = Runtime(store=store, runs=runs, device=device, processes=processes, report_to=reporters(report_to or ()), **where)
    if dry_run:
        print(would_start(runtime, typed.name))
        return
    results = execute(typed, runtime, data or path.parent, until=until or "", command=command_line(recipe, overrides, data is not None), quiet=quiet)
    show(results, json)
    if not json:
        print(f"report: {runs / typed.name / 'report.html'}")
    failed = [cell for cell in results.cells if cell.failed]
    if failed:
        models = f"{len(failed)} of {len(results.cells)} models"
        raise NumericError(f"{models} could not be trained, the first because {failed[0].failed}; the report compares the others")


@app.command()
def validate(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Check a recipe: types, names and what fits together. Loads neither data nor model."""
    typed = read(recipe_file(recipe), overrides)
    arms, budgets, seeds = len(typed.arms), len(typed.budgets), len(typed.seeds)
    print(f"{typed.name}: valid; {arms} arms x {budgets} budgets x {seeds} seeds, baselines {', '.join(typed.baselines) or 'none'}")


app.command("validate-scores")(validate_scores)


@app.command()
def inspect(
    recipe: RecipePath,
    overrides: Overrides = None,
    data: DataFolder = None,
    rows: Annotated[int, typer.Option("--rows", min=0, help="Rows to show.")] = 3,
) -> None:
    """Read the data as the run would: counts, lengths, what is set aside and why, and rows with their supervised tokens marked."""
    path = recipe_file(recipe)
    typed = read(path, overrides)
    from curate.pipelines.inspect import inspect_data

    inspect_data(typed, data or path.parent, rows)


@app.command()
def report(run: Annotated[str, typer.Argument(metavar="RUN", help="Name of a run.")], runs: Runs = Path("runs"), json: AsJson = False) -> None:
    """Print a run's tables again and write report.md and report.html anew."""
    from curate.pipelines.launch import read_results, write_reports

    results = read_results(runs / run)
    write_reports(results, runs / run)
    show(results, json)
    if not json:
        print(f"report: {runs / run / 'report.html'}")


app.command()(plan)
app.command()(status)
app.command()(advise)
app.command()(explain)
app.command()(evaluate)
app.command()(update)
app.command()(doctor)
app.command()(export)
app.command()(verify)


@app.command("list")
def list_methods(
    kind: Annotated[Literal["scorers", "selectors", "presses", "tasks"] | None, typer.Argument(metavar="[scorers|selectors|presses|tasks]")] = None,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One method, for all that it says of itself.")] = None,
) -> None:
    """The methods there are, with a line on each; with NAME, one method's formula, guarantee, cost and fields."""
    from rich.console import Console

    from curate.listing import KINDS, print_method, print_methods

    if kind and name:
        print_method(kind, name, Console())
        return
    print_methods((kind,) if kind else KINDS, Console())


@app.command()
def errors(wanted: Annotated[str | None, typer.Argument(metavar="[CODE|NAME]", help="An exit code, or its name: 3, data.")] = None) -> None:
    """What the exit codes mean, and what helps."""
    from curate.error_pages import page, section

    print(section(wanted) if wanted else page().rstrip())


@app.command()
def schema() -> None:
    """The JSON schema of a recipe, for editors."""
    import json

    from curate.recipe import Recipe

    print(json.dumps(Recipe.model_json_schema(), indent=2))


@app.command()
def certificates(directory: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")]) -> None:
    """Make the certificates of a Dask cluster of your own, for --profile scheduler: an authority, and one node with its key."""
    from curate.clusters.certificates import made, written

    files = written(made(), directory)
    options = f"--protocol tls --tls-ca-file {files.authority} --tls-cert {files.node} --tls-key {files.key} --dashboard-address 127.0.0.1:0"
    print(f"wrote {files.authority}, {files.node} and {files.key}, valid for a year; whoever has the key can run code in the cluster")
    print(f"  dask scheduler {options}")
    print(f"  dask worker tls://HOST:8786 --nthreads 1 {options}")


@app.command()
def init(
    directory: Annotated[Path, typer.Argument(metavar="[DIR]")] = Path("."),
    pool: Annotated[list[str] | None, typer.Option("--pool", metavar="FILE", help="Rows to choose from; or a source in braces. May be repeated.")] = None,
    target: Annotated[str | None, typer.Option("--target", metavar="FILE", help="Examples of what you want, four or more.")] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="PATH|ORG/NAME", help="Folder of a model, or its Hub id.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the run; default: that of the target's file.")] = None,
    budget: Annotated[str | None, typer.Option("--budget", help="How much to keep: 5%, 100 or '2M tokens'; default: 5%.")] = None,
) -> None:
    """Write a recipe: with --pool, --target and --model one that runs on your files; without them a commented starter."""
    from curate.pipelines.start import options, start

    given = options(pool, target, model, {"--name": name, "--budget": budget})
    if given is not None:
        for line in start(directory, *given, name=name, budget=budget or "5%"):
            print(line)
        return
    from curate.store import atomic_write

    path = directory / "recipe.yaml"
    if path.exists():
        raise ConfigError(f"{path} exists; edit it, or name another folder")
    atomic_write(path, shipped("starter").read_bytes())
    print(f"wrote {path}; fill in pool, target and model, then: curate validate {path}")
    print("or let it read your files: curate init DIR --pool FILE --target FILE --model FOLDER|ORG/NAME")
