"""Publish: one arm's rows of a finished run, as a dataset folder with its provenance."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from curate import __version__
from curate.card import Card, Source
from curate.core import Artifact
from curate.data.examples import sources
from curate.errors import ExportError
from curate.export import export_dataset
from curate.pipelines.check import stages_of
from curate.pipelines.launch import read_results
from curate.pipelines.select import read_selection
from curate.report.results import Results, SelectionRow
from curate.report.wording import number
from curate.store import Store


def publish(
    directory: Path, store: Path, arm: str, to: Path, *, budget: str | None, seed: int | None, overwrite: bool, target: str | None = None
) -> int:
    """Write the rows that `arm` chose to the folder `to`; how many. ExportError where the run has no such selection."""
    results = read_results(directory)
    chosen = pick(results, arm, budget, seed, target)
    pool_key = next(stage["key"] for stage in stages_of(directory) if stage["stage"] == "examples" and stage["label"] == "pool")
    kept, pool = read_selection(_artifact(store, chosen.key)), _artifact(store, pool_key)
    ids = [str(row) for row in kept["id"]]
    scored = np.asarray(kept["score"], np.float64)
    gains = np.asarray(kept["gain"], np.float64)
    export_dataset(
        to,
        sources(pool.path, [int(row) for row in kept["row"]]),
        ids=ids,
        ranks=list(range(len(ids))),
        weights=[float(weight) for weight in kept["weight"]],
        scores=[float(score) for score in scored] if np.isfinite(scored).all() else None,
        reasons=[_reason(arm, rank, len(ids), gain) for rank, gain in enumerate(gains)],
        card=_card(results, chosen),
        overwrite=overwrite,
    )
    return len(ids)


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


def _artifact(store: Path, key: str) -> Artifact:
    found = Store(store).find(key)
    if found is None:
        raise ExportError(f"{store / key} is missing or damaged; run the recipe again to compute it")
    return found


def _reason(arm: str, rank: int, count: int, gain: float) -> str:
    added = f", which added {number(gain)} to its objective" if np.isfinite(gain) else ""
    return f"choice {rank + 1} of {count} by {arm}{added}"


def _card(results: Results, chosen: SelectionRow) -> Card:
    recipe: Mapping[str, Any] = yaml.safe_load(results.recipe)
    method = recipe["arms"].get(chosen.arm, {"selector": {"name": chosen.arm}})
    features = {name: recipe["features"][name] for name in map(method.get, ("vectors", "scores", "similarity")) if name}
    compared = [c for c in results.comparisons if (c.arm, c.budget) == (chosen.arm, chosen.budget) and c.target in (None, chosen.target) and c.verdict]
    return Card(
        name=f"{results.name}: {chosen.arm}",
        arm=chosen.arm,
        target=chosen.target or ", ".join(results.targets),
        budget=chosen.budget,
        seed=chosen.seed,
        pool_rows=results.pool.used,
        method=yaml.safe_dump({"arm": method, "features": features}, sort_keys=False),
        certificate=chosen.certificate,
        comparison=[f"{c.task} ({c.metric}), {c.seeds} seeds, {c.n} items: {c.verdict}" for c in compared],
        sources=[_source(source) for source in recipe["pool"]],
        recipe=results.recipe,
        command=results.command or "",
        versions={"curate": __version__, **{name: results.hardware[name] for name in ("python", "torch") if name in results.hardware}},
    )


def _source(source: Mapping[str, Any]) -> Source:
    name = source.get("hub") or (Path(source["path"]).name if source.get("path") else f"synthetic {source.get('synthetic')}")
    return Source(name=name, revision=source.get("revision") or "unknown")
