"""The command line: it parses arguments and calls one function each; what it says goes to standard output, progress to standard error."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from curate.cli_options import (
    AsJson,
    DataFolder,
    Device,
    Overrides,
    Processes,
    Quiet,
    RecipePath,
    Runs,
    StoreFolder,
    Workers,
    command_line,
    read,
    recipe_file,
    shipped,
)
from curate.cli_studies import advise, doctor, evaluate, explain, plan, status, validate_scores
from curate.errors import ConfigError, NumericError

if TYPE_CHECKING:
    from curate.report.results import Results

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
    json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Run an experiment, or go on with it: score, select, train, evaluate, compare and report."""
    from curate.pipelines.launch import execute
    from curate.recipe import Runtime
    from curate.training.reporters import reporters

    path = recipe_file(recipe)
    typed = read(path, overrides)
    runtime = Runtime(store=store, runs=runs, workers=workers or 0, device=device, processes=processes, report_to=reporters(report_to or ()))
    results = execute(typed, runtime, data or path.parent, until=until or "", command=command_line(recipe, overrides, data is not None), quiet=quiet)
    _show(results, json)
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
    from curate.pipelines.inspect import inspect_data

    path = recipe_file(recipe)
    inspect_data(read(path, overrides), data or path.parent, rows)


@app.command()
def report(run: Annotated[str, typer.Argument(metavar="RUN", help="Name of a run.")], runs: Runs = Path("runs"), json: AsJson = False) -> None:
    """Print a run's tables again and write report.md and report.html anew."""
    from curate.pipelines.launch import read_results, write_reports

    results = read_results(runs / run)
    write_reports(results, runs / run)
    _show(results, json)
    if not json:
        print(f"report: {runs / run / 'report.html'}")


app.command()(plan)
app.command()(status)
app.command()(advise)
app.command()(explain)
app.command()(evaluate)
app.command()(doctor)


@app.command()
def export(
    run: Annotated[str, typer.Argument(metavar="RUN")],
    arm: Annotated[str, typer.Argument(metavar="ARM")],
    directory: Annotated[Path, typer.Argument(metavar="DIR")],
    budget: Annotated[str | None, typer.Option("--budget", help="Which budget; needed if the run has several.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Which seed; default: the first.")] = None,
    target: Annotated[str | None, typer.Option("--target", help="Which target; needed if the arm selected for several.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace DIR if it holds files.")] = False,
    store: StoreFolder = Path("store"),
    runs: Runs = Path("runs"),
) -> None:
    """Write one arm's rows as a dataset folder that `datasets.load_dataset` opens, with card and manifest."""
    from curate.pipelines.publish import publish

    rows = publish(runs / run, store, arm, directory, budget=budget, seed=seed, target=target, overwrite=overwrite)
    print(f"{rows} rows in {directory}; load_dataset({str(directory)!r}) opens it")


@app.command()
def verify(run: Annotated[str, typer.Argument(metavar="RUN")], store: StoreFolder = Path("store"), runs: Runs = Path("runs")) -> None:
    """Check a run offline, changing nothing: every file's hash, that no row was lost on the way, and every certificate, from the features."""
    from curate.pipelines.certify import certify_run
    from curate.pipelines.check import check

    print(f"{run}: {check(runs / run, store)} artifacts intact, all rows accounted for")
    found = certify_run(runs / run, store)
    print(f"certificates: {len(found.equal)} of {len(found.equal) + len(found.without)} selections have one; recomputed from the features, all are as claimed")
    if found.without:
        print(f"  none is claimed by {', '.join(sorted(set(found.without.values())))}: these sample, or follow a rule that has no objective")
    if found.other_version:
        print(f"  not compared, for another version of the selector or of curate made them: {', '.join(found.other_version)}")


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
def schema() -> None:
    """The JSON schema of a recipe, for editors."""
    import json

    from curate.recipe import Recipe

    print(json.dumps(Recipe.model_json_schema(), indent=2))


@app.command()
def init(directory: Annotated[Path, typer.Argument(metavar="[DIR]")] = Path(".")) -> None:
    """Write a commented starter recipe for your own pool and target."""
    from curate.store import atomic_write

    path = directory / "recipe.yaml"
    if path.exists():
        raise ConfigError(f"{path} exists; edit it, or name another folder")
    atomic_write(path, shipped("starter").read_bytes())
    print(f"wrote {path}; fill in pool, target and model, then: curate validate {path}")


def _show(results: "Results", as_json: bool) -> None:
    if as_json:
        print(results.model_dump_json())
        return
    from rich.console import Console

    from curate.report.terminal import print_tables

    print_tables(results, Console())
