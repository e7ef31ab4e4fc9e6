"""The commands about exports: `curate export` and `curate verify`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from curate.cli_options import Runs, StoreFolder
from curate.errors import ExportError


def export(
    run: Annotated[str, typer.Argument(metavar="RUN")],
    arm: Annotated[str, typer.Argument(metavar="ARM", help="An arm, or all: every arm at every budget, each a configuration.")],
    directory: Annotated[Path | None, typer.Argument(metavar="[DIR]", help="A new folder; leave it out with --push.")] = None,
    also: Annotated[list[str] | None, typer.Option("--arm", help="A further arm; may be repeated.")] = None,
    budget: Annotated[str | None, typer.Option("--budget", help="Which budget; needed if one arm has several.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Which seed; default: the first.")] = None,
    target: Annotated[str | None, typer.Option("--target", help="Which target; needed if one arm selected for several.")] = None,
    layout: Annotated[Literal["datasets", "trl", "llama-factory", "axolotl"], typer.Option("--format", help="What reads the rows.")] = "datasets",
    push: Annotated[str | None, typer.Option("--push", metavar="ORG/NAME", help="Push to this Hub dataset instead, in one commit.")] = None,
    public: Annotated[bool, typer.Option("--public", help="A new Hub dataset may be seen by everybody; default: private.")] = False,
    license: Annotated[str, typer.Option("--license", help="Licence to state in the card, such as mit; default: what sources and rows name.")] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace DIR if it holds an export.")] = False,
    store: StoreFolder = Path("store"),
    runs: Runs = Path("runs"),
) -> None:
    """Write one arm's rows, or several, as a dataset folder or Hub dataset that `datasets.load_dataset` opens, with card and manifest."""
    from curate.pipelines.publish import Wanted, publish_folder, publish_hub

    if (directory is None) == (push is None):
        raise ExportError("give a folder DIR, or --push org/name for the Hub: one of them")
    wanted = Wanted([arm, *(also or ())], budget, seed, target, layout, license)
    if directory is not None:
        written = publish_folder(runs / run, store, wanted, directory, overwrite=overwrite)
        _opens(sum(written.values()), f"in {directory}", str(directory), list(written))
        return
    pushed = publish_hub(runs / run, store, wanted, push or "", public=public)
    state = "pushed to" if pushed.new else "already at"
    print(f"{pushed.rows} rows {state} {pushed.repository}, commit {pushed.revision}; read back and equal to the selection")


def _opens(rows: int, where: str, place: str, configs: list[str]) -> None:
    named = "" if configs == ["default"] else f", {configs[0]!r}"
    others = f"; configurations: {', '.join(configs)}" if len(configs) > 1 else ""
    print(f"{rows} rows {where}; load_dataset({place!r}{named}) opens it{others}")


def verify(
    run: Annotated[str, typer.Argument(metavar="RUN|DIR|hf://ORG/NAME")],
    store: StoreFolder = Path("store"),
    runs: Runs = Path("runs"),
    data: Annotated[Path, typer.Option("--data", help="Of an export: folder that the recipe's relative paths start from.")] = Path("."),
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Of an export: run the recipe up to its selections again, on the CPU.")] = False,
    model: Annotated[str | None, typer.Option("--model", help="With --rebuild: the model, where the recipe named a folder elsewhere.")] = None,
) -> None:
    """Check a run or an export, changing nothing: hashes, that no row was lost or altered on the way, and every certificate, from the features."""
    from curate.pipelines.verify_export import Given, is_export_place, verify_export

    if not (runs / run / "run.json").is_file() and is_export_place(run):
        here = str(Path(model).absolute()) if model and Path(model).exists() else model
        for line in verify_export(run, Given(data, store, rebuild, here)):
            print(line)
        return
    _verify_run(run, store, runs)


def _verify_run(run: str, store: Path, runs: Path) -> None:
    from curate.pipelines.certify import certify_run
    from curate.pipelines.check import check

    print(f"{run}: {check(runs / run, store)} artifacts intact, all rows accounted for")
    found = certify_run(runs / run, store)
    print(f"certificates: {len(found.equal)} of {len(found.equal) + len(found.without)} selections have one; recomputed from the features, all are as claimed")
    if found.without:
        print(f"  none is claimed by {', '.join(sorted(set(found.without.values())))}: these sample, or follow a rule that has no objective")
    if found.other_version:
        print(f"  not compared, for another version of the selector or of curate made them: {', '.join(found.other_version)}")
