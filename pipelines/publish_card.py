"""The card of what is published: read off a run's results, its recipe, and the manifests of what the rows were chosen by."""

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from curate import __version__
from curate.card import Card, Chosen, Source
from curate.errors import ConfigError
from curate.hygiene.provenance import rolled_up
from curate.pipelines.check import stages_of
from curate.registry import load, names
from curate.report.results import Comparison, Results, SelectionRow
from curate.report.wording import change, count, score
from curate.store import read_json

_FACTS = ("sources", "tokenizer", "max_length", "scorer", "model", "environment")  # of a stage's fields, those that say what it was made from


@dataclass(frozen=True)
class Where:
    """Where the run and the store lie."""

    directory: Path
    store: Path


def card_of(
    results: Results, chosen: Mapping[str, SelectionRow], rows: Iterable[tuple[Mapping[str, Any], str]], where: Where, stated_license: str = ""
) -> Card:
    """The card of the selections `chosen`, by configuration; `rows` are the fields and the group of each row of them."""
    recipe: Mapping[str, Any] = yaml.safe_load(results.recipe)
    first = next(iter(chosen.values()))
    return Card(
        name=f"{results.name}: {first.arm}" if len(chosen) == 1 else results.name,
        chosen=[_chosen(results, recipe, name, row) for name, row in chosen.items()],
        sources=[_source(source) for source in recipe["pool"]],
        licenses=rolled_up(rows),
        license=stated_license,
        leaks=_leaks(results),
        recipe=results.recipe,
        command=results.command or "",
        model=model_name(results),
        inputs=_inputs(recipe, where),
        versions={"curate": __version__, **results.hardware},
    )


def model_name(results: Results) -> str:
    """The name of the model on the Hub; empty where it is a folder."""
    path = str(yaml.safe_load(results.recipe)["model"]["path"])
    return path if path.count("/") == 1 and not path.startswith((".", "/", "~")) and not Path(path).exists() else ""


def _chosen(results: Results, recipe: Mapping[str, Any], name: str, row: SelectionRow) -> Chosen:
    method = recipe["arms"].get(row.arm, {"selector": {"name": row.arm}})
    features = {feature: recipe["features"][feature] for feature in map(method.get, ("vectors", "scores", "similarity")) if feature}
    steps = [*(step["selector"] for step in method.get("filters", [])), method["selector"]]
    formulas = [_idea("scorers", feature["name"]) for feature in features.values()] + [_idea("selectors", step["name"]) for step in steps]
    return Chosen(
        config=name,
        arm=row.arm,
        target=row.target or ", ".join(results.targets),
        budget=row.budget,
        seed=row.seed,
        pool_rows=results.pool.used,
        method=yaml.safe_dump({"arm": method, "features": features}, sort_keys=False),
        formulas=[line for line in formulas if line],
        certificate=row.certificate,
        comparison=_compared(results, row),
        leaking=_leaking(results, row),
        key=row.key,
    )


def _compared(results: Results, row: SelectionRow) -> list[list[str]]:
    """A row for every task: this arm and random, the difference with its interval, and the verdict."""

    def same(entry: Comparison, arm: str) -> bool:
        return entry.arm == arm and entry.budget in ("", row.budget) and entry.target in (None, row.target)

    lines = []
    for entry in results.comparisons:
        if same(entry, row.arm) and entry.verdict:
            beside = (one for one in results.comparisons if same(one, entry.baseline) and (one.task, one.metric) == (entry.task, entry.metric))
            verdict = f"{entry.verdict} ({entry.seeds} seeds, {entry.n} items)"
            lines.append([entry.task, entry.metric, score(entry), score(next(beside, None)), change(entry), verdict])
    return lines


def _idea(kind: Literal["scorers", "selectors"], name: str) -> str:
    """What a method says of itself: its first sentence, and its formula where it has one on a line of its own."""
    if name not in names(kind):
        return ""
    try:
        paragraphs = (inspect.getdoc(load(kind, name)) or "").split("\n\n")
    except ConfigError:
        return ""
    formula = next((" ".join(part.split()) for part in paragraphs if part.startswith("    ")), "")
    first = " ".join(paragraphs[0].split())
    return f"{name}: {first}" + (f" {formula}" if formula else "")


def _source(source: Mapping[str, Any]) -> Source:
    name = source.get("hub") or (Path(source["path"]).name if source.get("path") else f"synthetic {source.get('synthetic')}")
    return Source(name=name, hub=bool(source.get("hub")), revision=source.get("revision") or "unknown")


def _leaks(results: Results) -> list[list[str]] | None:
    """The leak report of the run as a table, its header first; None where nothing was checked."""
    if results.hygiene is None:
        return None
    header = ["set", "used as", "verdict", "items", "of them dirty", "suspicious", "pool rows that leak it"]
    lines = [[one.name, one.role, one.verdict, *map(str, (one.items, one.dirty, one.suspicious, one.rows_dirty))] for one in results.hygiene.benchmarks]
    return [header, *lines] if lines else []


def _leaking(results: Results, row: SelectionRow) -> str:
    found = results.hygiene.taken if results.hygiene else []
    for one in found:
        if (one.arm, one.target, one.budget) == (row.arm, row.target, row.budget):
            return f"of {count(one.rows)} rows that {row.arm} took, {count(one.leaking)} hold an item of one of these sets (mean over seeds)"
    return ""


def _inputs(recipe: Mapping[str, Any], where: Where) -> dict[str, Any]:
    """Revisions and hashes of what the rows were chosen from and by: pool, targets, features, and the model with its tokenizer and chat template."""
    stages: dict[str, Any] = {}
    for stage in stages_of(where.directory):
        manifest = where.store / stage["key"] / "manifest.json"
        if stage["stage"] in ("examples", "clean", "features", "selection") and manifest.is_file():
            fields = read_json(manifest)["fields"]
            facts = {name: fields[name] for name in _FACTS if name in fields}
            stages[f"{stage['stage']} {stage['label']}".strip()] = {"key": stage["key"], **facts}
    model = {name: recipe["model"].get(name) for name in ("path", "revision", "dtype", "max_length")}
    # One hash over the files of the model's folder: weights, configuration, tokenizer and chat template.
    return {"model": {**model, "fingerprint": _tokenizer(stages)}, "stages": stages, "seeds": recipe["seeds"]}


def _tokenizer(stages: Mapping[str, Any]) -> str:
    return next((str(facts["tokenizer"]) for facts in stages.values() if "tokenizer" in facts), "unknown")
