"""The commands beside a run: what it will cost, how far it is, how much to keep, whether a feature foretells training, why a row; and evaluation alone."""

from pathlib import Path
from typing import Annotated, Literal

import typer

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
    places,
    read,
    recipe_file,
    silent,
    told,
)
from curate.errors import ConfigError


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
    profile: ProfileName = None,
    insecure: Insecure = False,
    json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure whether a feature foretells retraining: train on random parts of the pool, and rank what it does to the target."""
    path = recipe_file(recipe)
    typed = read(path, overrides)  # what is wrong with it is said before a library is loaded
    from rich.console import Console

    from curate.pipelines.validate_scores import print_validation
    from curate.pipelines.validate_scores import validate_scores as measure
    from curate.recipe import Runtime

    runtime = Runtime(store=store, runs=runs, device=device, **places(profile, workers, insecure))
    found = measure(typed, runtime, data or path.parent, feature, subsets=subsets, fraction=fraction, seed=seed, quiet=quiet)
    if json:
        print(found.model_dump_json())
        return
    print_validation(found, Console())


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
        found = evaluate_models(wanted, silent if quiet else told)
    except KeyboardInterrupt:
        raise Interrupted("interrupted: everything answered so far is kept; run the same command again to go on") from None
    if json:
        print(found.model_dump_json())
    else:
        print_evaluated(found, Console())


def plan(
    recipe: RecipePath,
    overrides: Overrides = None,
    price: Annotated[float | None, typer.Option("--price", help="What this machine costs per hour, in any currency.")] = None,
    store: StoreFolder = Path("store"),
    runs: Runs = Path("runs"),
    workers: Workers = None,
    device: Device = "auto",
    data: DataFolder = None,
    processes: Processes = 1,
    json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """What a run will find, and the time, memory, disk and money that the rest will take, measured on a few rows; computes nothing of the run."""
    path = recipe_file(recipe)
    typed = read(path, overrides)
    from rich.console import Console

    from curate.pipelines.plan import plan as make
    from curate.pipelines.plan_table import print_plan
    from curate.recipe import Runtime

    runtime = Runtime(store=store, runs=runs, workers=workers or 0, device=device, processes=processes)
    made = make(typed, runtime, data or path.parent, price=price, quiet=quiet)
    if json:
        print(made.model_dump_json())
        return
    print_plan(made, Console())


def explain(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Name of a run.")],
    row: Annotated[str, typer.Argument(metavar="ROW", help="Id of a row of the pool, or at least six of its first characters.")],
    arm: Annotated[str | None, typer.Option("--arm", help="This arm only; default: all of them.")] = None,
    store: StoreFolder = Path("store"),
    runs: Runs = Path("runs"),
    json: AsJson = False,
) -> None:
    """Say what a run did with one row: its numbers, which arms took it and why, and what was taken in its place. Changes nothing."""
    from rich.console import Console

    from curate.pipelines.explain import explain as explain_row
    from curate.report.explained import print_explained

    found = explain_row(runs / run, store, row, arm)
    if json:
        print(found.model_dump_json())
        return
    print_explained(found, Console())


def advise(
    recipe: RecipePath,
    feature: Annotated[str, typer.Option("--feature", help="Name of a feature of the recipe that yields scores.")],
    compute: Annotated[str, typer.Option("--compute", help="Training tokens to advise on, such as '20M tokens'.")],
    overrides: Overrides = None,
    buckets: Annotated[int, typer.Option("--buckets", help="Parts of the pool by score, equal in tokens.")] = 4,
    best: Annotated[Literal["high", "low"], typer.Option("--best", help="Which end of the score is good.")] = "high",
    spend: Annotated[float, typer.Option("--spend", help="Tokens of all small runs together, as a multiple of --compute.")] = 1.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the rows, the training and the intervals.")] = 0,
    store: StoreFolder = Path("store"),
    runs: Runs = Path("runs"),
    workers: Workers = None,
    device: Device = "auto",
    data: DataFolder = None,
    profile: ProfileName = None,
    insecure: Insecure = False,
    json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """How much of the pool to keep for a compute, and how often to repeat it, by a scaling law fitted to a few small runs."""
    path = recipe_file(recipe)
    typed = read(path, overrides)
    from rich.console import Console

    from curate.pipelines.advise import advise as measure
    from curate.recipe import Runtime
    from curate.report.advice import print_advice

    runtime = Runtime(store=store, runs=runs, device=device, **places(profile, workers, insecure))
    found = measure(typed, runtime, data or path.parent, feature, compute=compute, buckets=buckets, best=best, spend=spend, seed=seed, quiet=quiet)
    if json:
        print(found.model_dump_json())
        return
    print_advice(found, Console())


def status(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Name of a run.")],
    store: StoreFolder = Path("store"),
    runs: Runs = Path("runs"),
    json: AsJson = False,
) -> None:
    """How far a run has come, from another shell while it goes on or after it. Changes nothing."""
    from rich.console import Console

    from curate.pipelines.status import status as look
    from curate.report.standing import print_standing

    found = look(runs / run, store)
    if json:
        print(found.model_dump_json())
        return
    print_standing(found, Console())


def doctor(store: StoreFolder = Path("store"), json: AsJson = False) -> None:
    """Whether this machine can run curate: libraries, devices, disk, memory, and what the environment would change. Exit code 4 where it cannot."""
    from rich.console import Console

    from curate.pipelines.doctor import doctor as examine
    from curate.report.doctored import print_doctored

    found = examine(store)
    if json:
        print(found.model_dump_json())
    else:
        print_doctored(found, Console())
    if found.broken:
        raise typer.Exit(4)
