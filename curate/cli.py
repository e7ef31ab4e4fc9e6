"""The command line: it parses arguments and calls one function each; what it says goes to standard output, progress to standard error."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from curate.errors import ConfigError

if TYPE_CHECKING:
    from curate.recipe import Recipe
    from curate.report.results import Results

app = typer.Typer(
    help="Choose the training rows that make a language model better at your target, and prove it. Any command takes --debug, for tracebacks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RecipePath = Annotated[str, typer.Argument(metavar="RECIPE", help="A YAML file, or the name of a recipe that ships with curate, such as quickstart.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Fields to change, such as train.epochs=2.")]
DataFolder = Annotated[Path | None, typer.Option("--data", help="Folder that the recipe's relative paths start from; default: the recipe's own.")]
Runs = Annotated[Path, typer.Option("--runs", help="Folder of run folders.")]
StoreFolder = Annotated[Path, typer.Option("--store", help="Folder of artifacts; shared by all runs.")]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Worker processes; default: one per core, at most 8, or one with a GPU.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]


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
    json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Run an experiment, or go on with it: score, select, train, evaluate, compare and report."""
    from curate.pipelines.launch import execute
    from curate.recipe import Runtime

    path = _recipe_file(recipe)
    typed = _read(path, overrides)
    runtime = Runtime(store=store, runs=runs, workers=workers or 0, device=device)
    results = execute(typed, runtime, data or path.parent, until=until or "", command=_command(recipe, overrides, data is not None), quiet=quiet)
    _show(results, json)
    if not json:
        print(f"report: {runs / typed.name / 'report.html'}")


@app.command()
def validate(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Check a recipe: types, names and what fits together. Loads neither data nor model."""
    typed = _read(_recipe_file(recipe), overrides)
    arms, budgets, seeds = len(typed.arms), len(typed.budgets), len(typed.seeds)
    print(f"{typed.name}: valid; {arms} arms x {budgets} budgets x {seeds} seeds, baselines {', '.join(typed.baselines) or 'none'}")


@app.command("validate-scores")
def validate_scores(
    recipe: RecipePath,
    feature: Annotated[str, typer.Option("--feature", help="Name of a feature of the recipe.")],
    overrides: Overrides = None,
    subsets: Annotated[int, typer.Option("--subsets", help="Models to train, each on a random part of the pool.")] = 20,
    fraction: Annotated[str, typer.Option("--fraction", help="Share of the pool in each part.")] = "50%",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the parts, the training and the bootstrap.")] = 0,
    store: StoreFolder = Path("store"),
    runs: Runs = Path("runs"),
    workers: Workers = None,
    device: Device = "auto",
    data: DataFolder = None,
    json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure whether a feature foretells retraining: train on random parts of the pool, and rank what it does to the target."""
    from rich.console import Console

    from curate.pipelines.validate_scores import print_validation
    from curate.pipelines.validate_scores import validate_scores as measure
    from curate.recipe import Runtime

    path = _recipe_file(recipe)
    typed = _read(path, overrides)
    runtime = Runtime(store=store, runs=runs, workers=workers or 0, device=device)
    found = measure(typed, runtime, data or path.parent, feature, subsets=subsets, fraction=fraction, seed=seed, quiet=quiet)
    if json:
        print(found.model_dump_json())
        return
    print_validation(found, Console())


@app.command()
def inspect(
    recipe: RecipePath,
    overrides: Overrides = None,
    data: DataFolder = None,
    rows: Annotated[int, typer.Option("--rows", min=0, help="Rows to show.")] = 3,
) -> None:
    """Read the data as the run would: counts, lengths, what is set aside and why, and rows with their supervised tokens marked."""
    from curate.pipelines.inspect import inspect_data

    path = _recipe_file(recipe)
    inspect_data(_read(path, overrides), data or path.parent, rows)


@app.command()
def report(run: Annotated[str, typer.Argument(metavar="RUN", help="Name of a run.")], runs: Runs = Path("runs"), json: AsJson = False) -> None:
    """Print a run's tables again and write report.md and report.html anew."""
    from curate.pipelines.launch import read_results, write_reports

    results = read_results(runs / run)
    write_reports(results, runs / run)
    _show(results, json)
    if not json:
        print(f"report: {runs / run / 'report.html'}")


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder of a model, or a Hub id.")],
    tasks: Annotated[list[str], typer.Option("--tasks", help="A task file, or a built-in task; NAME=DATA gives its data file. Repeat for several.")],
    adapter: Annotated[list[Path] | None, typer.Option("--adapter", help="Folder of a LoRA adapter of the model. Repeat for several variants.")] = None,
    shots: Annotated[int | None, typer.Option("--shots", min=0, help="Few-shot examples, in place of the task's num_fewshot.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="First documents of each task only.")] = None,
    max_length: Annotated[int | None, typer.Option("--max-length", min=8, help="Longest request in tokens; default: all positions of the model.")] = None,
    press: Annotated[str | None, typer.Option("--press", help="Compress the shared prefix: a press's name, or {name: ..., field: ...}. Not exact.")] = None,
    calibrate_on: Annotated[int, typer.Option("--calibrate-on", min=1, help="With --press: items of each task that are run exactly too.")] = 32,
    revision: Annotated[str | None, typer.Option("--revision", help="Of a Hub model.")] = None,
    dtype: Annotated[Literal["float32", "bfloat16"], typer.Option("--dtype")] = "float32",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of sampled answers and of a press's calibration.")] = 0,
    batch_tokens: Annotated[int, typer.Option("--batch-tokens", min=1, help="Tokens of one forward pass.")] = 8192,
    continuous: Annotated[bool, typer.Option("--continuous", help="Greedy answers by transformers' continuous batching.")] = False,
    log_items: Annotated[Path | None, typer.Option("--log-items", help="Write one JSON line per item.")] = None,
    store: StoreFolder = Path("store"),
    device: Device = "auto",
    json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate a model and adapters of it on tasks: shared prompts are computed once, and no answer twice."""
    from curate.errors import Interrupted

    try:
        from rich.console import Console

        from curate.pipelines.evaluate_models import Wanted, evaluate_models
        from curate.press_option import read_press
        from curate.report.examined import print_evaluated
        from curate.settings import ModelSpec

        if not model:
            raise ConfigError("MODEL is empty; give the folder of a model, or a Hub id such as org/name")
        spec = ModelSpec(path=model, revision=revision, dtype=dtype, max_length=max_length)
        wanted = Wanted(spec, adapter or (), tasks, shots, limit, seed, read_press(press), calibrate_on, device, batch_tokens, continuous, log_items, store)
        found = evaluate_models(wanted, _silent if quiet else _told)
    except KeyboardInterrupt:
        raise Interrupted("interrupted: everything answered so far is kept; run the same command again to go on") from None
    if json:
        print(found.model_dump_json())
    else:
        print_evaluated(found, Console())


@app.command()
def export(
    run: Annotated[str, typer.Argument(metavar="RUN")],
    arm: Annotated[str, typer.Argument(metavar="ARM")],
    directory: Annotated[Path, typer.Argument(metavar="DIR")],
    budget: Annotated[str | None, typer.Option("--budget", help="Which budget; needed if the run has several.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Which seed; default: the first.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace DIR if it holds files.")] = False,
    store: StoreFolder = Path("store"),
    runs: Runs = Path("runs"),
) -> None:
    """Write one arm's rows as a dataset folder that `datasets.load_dataset` opens, with card and manifest."""
    from curate.pipelines.publish import publish

    rows = publish(runs / run, store, arm, directory, budget=budget, seed=seed, overwrite=overwrite)
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
    atomic_write(path, _shipped("starter").read_bytes())
    print(f"wrote {path}; fill in pool, target and model, then: curate validate {path}")


def _recipe_file(name: str) -> Path:
    path = Path(name)
    if path.is_file() or "/" in name or name.endswith((".yaml", ".yml")):
        return path
    shipped = _shipped(name)
    if not shipped.is_file():
        known = sorted(file.stem for file in shipped.parent.glob("*.yaml"))
        raise ConfigError(f"there is no recipe file {name!r}, and none of that name ships with curate; shipped: {', '.join(known)}")
    return shipped


def _shipped(name: str) -> Path:
    return Path(__file__).parent / "configs" / f"{name}.yaml"


def _read(path: Path, overrides: list[str] | None) -> "Recipe":
    from curate.recipe import read_recipe

    return read_recipe(path, overrides or ())


def _command(recipe: str, overrides: list[str] | None, elsewhere: bool) -> str:
    import shlex

    return shlex.join(["curate", "run", recipe, *(overrides or ()), *(("--data", "DIR") if elsewhere else ())])


def _told(message: str) -> None:
    from curate.report.wording import visible

    print(visible(message), file=sys.stderr, flush=True)


def _silent(message: str) -> None:
    """Says nothing."""


def _show(results: "Results", as_json: bool) -> None:
    if as_json:
        print(results.model_dump_json())
        return
    from rich.console import Console

    from curate.report.terminal import print_tables

    print_tables(results, Console())
