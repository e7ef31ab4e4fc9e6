"""Publish: selections of a finished run, as a data set with its provenance, in a folder or on the Hub."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from curate.core import Artifact
from curate.data.examples import opened, sources
from curate.errors import ExportError
from curate.export import Export, Part, export_folder
from curate.exporting.hub import Pushed, push_folder
from curate.exporting.layouts import Layout, companions, kind_of, shaped
from curate.exporting.manifest import read_manifest
from curate.exporting.names import check_repository, config_name
from curate.pipelines.check import stages_of
from curate.pipelines.describe_taken import Numbers, Taken
from curate.pipelines.launch import read_results
from curate.pipelines.publish_card import Where, card_of, model_name
from curate.pipelines.publish_reasons import reasons
from curate.pipelines.select import read_selection
from curate.report.results import Results, SelectionRow
from curate.scratch import Scratch
from curate.store import Store

ALL = "all"


@dataclass(frozen=True)
class Wanted:
    """Which selections of a run, and how they are to be laid out; None takes the only one there is, or of several arms every one."""

    arms: Sequence[str]
    budget: str | None = None
    seed: int | None = None
    target: str | None = None
    layout: Layout = "datasets"
    license: str = ""


def publish(directory: Path, store: Path, arm: str, to: Path, *, budget: str | None, seed: int | None, overwrite: bool, target: str | None = None) -> int:
    """Write the rows that `arm` chose to the folder `to`; how many. ExportError where the run has no such selection."""
    return sum(publish_folder(directory, store, Wanted([arm], budget, seed, target), to, overwrite=overwrite).values())


def publish_folder(directory: Path, store: Path, wanted: Wanted, to: Path, *, overwrite: bool) -> dict[str, int]:
    """Write what is wanted of the run in `directory` to the folder `to`; the rows of every configuration."""
    export = gathered(directory, store, wanted)
    export_folder(to, export, overwrite=overwrite)
    return {part.name: len(part.rows) for part in export.parts}


def publish_hub(directory: Path, store: Path, wanted: Wanted, repository: str, *, public: bool) -> Pushed:
    """Push what is wanted of the run in `directory` to a Hub dataset, by way of a folder that is written, checked and removed."""
    check_repository(repository)
    with Scratch("export") as scratch:
        folder = export_folder(scratch / "export", gathered(directory, store, wanted))
        return push_folder(folder, read_manifest(folder), repository, public=public)


def gathered(directory: Path, store: Path, wanted: Wanted) -> Export:
    """The rows, the card and the layout of what is wanted."""
    results = read_results(directory)
    chosen = [pick(results, wanted.arms[0], wanted.budget, wanted.seed, wanted.target)] if _single(wanted) else _several(results, wanted)
    artifacts = [_artifact(store, row.key) for row in chosen]
    taken = [Taken.of(artifact, row.arm, row.budget, row.seed, row.matched_to) for artifact, row in zip(artifacts, chosen, strict=True)]
    names = ["default"] if len(chosen) == 1 else [config_name(row.arm, row.target, row.budget) for row in chosen]
    pool = _artifact(store, _pool_key(directory, artifacts[0]))
    numbers = Numbers(pool, Store(store))
    parts = [_part(name, artifact, one, numbers) for name, artifact, one in zip(names, artifacts, taken, strict=True)]
    groups = (str(numbers.examples.groups[row]) for one in taken for row in one.rows)
    rows = zip((row for part in parts for row in part.rows), groups, strict=True)
    card = card_of(results, dict(zip(names, chosen, strict=True)), rows, Where(directory, store), wanted.license)
    if wanted.layout == "datasets":
        return Export(parts, card)
    return _laid_out(parts, [one.rows.tolist() for one in taken], pool.path, wanted.layout, Export(parts, card), model_name(results))


def _laid_out(parts: Sequence[Part], rows: Sequence[Sequence[int]], pool: Path, layout: Layout, plain: Export, model: str) -> Export:
    """The same export in a trainer's layout: one kind of rows for all configurations, and the trainer's files."""
    examples = opened(pool)
    said = [[tuple(examples.rows[row].content.turns) for row in chosen] for chosen in rows]
    kind = kind_of([turns for one in said for turns in one], [name for part in parts for name in part.ids])
    laid = [
        Part([shaped(layout, kind, turns) for turns in one], part.ids, part.weights, part.reasons, part.scores, part.name)
        for part, one in zip(parts, said, strict=True)
    ]
    files = [(part.name, f"data/{part.name}.jsonl") for part in laid]
    return Export(laid, plain.card, layout, companions(layout, kind, files, model or "MODEL"))


def _part(name: str, artifact: Artifact, taken: Taken, numbers: Numbers) -> Part:
    kept = read_selection(artifact)
    scored = np.asarray(kept["score"], np.float64)
    return Part(
        rows=sources(numbers.pool.path, taken.rows.tolist()),
        ids=[str(row) for row in kept["id"]],
        weights=taken.weights.tolist(),
        reasons=reasons(taken, numbers),
        scores=scored.tolist() if np.isfinite(scored).all() else None,
        name=name,
    )


def _single(wanted: Wanted) -> bool:
    return len(wanted.arms) == 1 and wanted.arms[0] != ALL


def _several(results: Results, wanted: Wanted) -> list[SelectionRow]:
    """One selection for every arm, target and budget that is wanted: of the seed that is given, or the first."""
    recipe = yaml.safe_load(results.recipe)
    arms = list(recipe["arms"]) if ALL in wanted.arms else list(dict.fromkeys(wanted.arms))
    found = []
    for arm in arms:
        mine = [row for row in results.selections if row.arm == arm]
        for target in dict.fromkeys(row.target for row in mine):
            for budget in dict.fromkeys(row.budget for row in mine if row.target == target):
                if wanted.budget in (None, budget) and wanted.target in (None, target):
                    found.append(pick(results, arm, budget, wanted.seed, target))
        if not any(row.arm == arm for row in found):
            pick(results, arm, wanted.budget, wanted.seed, wanted.target)  # says what there is
            raise ExportError(f"arm {arm} has no selection of that target and budget; leave out --target or --budget")
    return found


def pick(results: Results, arm: str, budget: str | None, seed: int | None, target: str | None = None) -> SelectionRow:
    """The one selection that is meant; ExportError that lists those there are."""
    mine = [row for row in results.selections if row.arm == arm]
    if not mine:
        known = dict.fromkeys(row.arm for row in results.selections)
        raise ExportError(f"run {results.name} has no selection of arm {arm!r}; there are {', '.join(known) or 'none'}")
    targets = [name for name in dict.fromkeys(row.target for row in mine) if name]
    if target is None and len(targets) > 1:
        raise ExportError(f"arm {arm} selected for several targets; add --target with one of {', '.join(targets)}")
    if target is not None and targets and target not in targets:
        raise ExportError(f"arm {arm} did not select for target {target!r}; there are {', '.join(targets)}")
    mine = [row for row in mine if target is None or row.target in (None, target)]
    budgets = list(dict.fromkeys(row.budget for row in mine))
    if budget is None and len(budgets) > 1:
        raise ExportError(f"arm {arm} was run at several budgets; add --budget with one of {', '.join(budgets)}")
    mine = [row for row in mine if row.budget == (budget or budgets[0])]
    if not mine:
        raise ExportError(f"arm {arm} has no budget {budget!r}; there are {', '.join(budgets)}")
    seeds = [row.seed for row in mine]
    if seed is not None and seed not in seeds:
        raise ExportError(f"arm {arm} has no seed {seed}; there are {', '.join(map(str, seeds))}")
    return mine[seeds.index(seed) if seed is not None else 0]


def _pool_key(directory: Path, selection: Artifact) -> str:
    """The key of the rows that arms chose from: without leaks and duplicates, where the recipe had them left out."""
    if given := selection.manifest["summary"].get("given"):
        return str(given["pool"])
    keys = {stage["stage"]: stage["key"] for stage in stages_of(directory) if stage["label"] == "pool"}
    return str(keys.get("clean") or keys["examples"])


def _artifact(store: Path, key: str) -> Artifact:
    found = Store(store).find(key)
    if found is None:
        raise ExportError(f"{store / key} is missing or damaged; run the recipe again to compute it")
    return found
