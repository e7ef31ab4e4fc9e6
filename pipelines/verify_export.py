"""Verify an export, in a folder or on the Hub, without a GPU: its files, its rows against the data they came from, and its certificates."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from curate.card import LOCAL, Chosen
from curate.core import Artifact
from curate.errors import DataError, IntegrityError
from curate.exporting.columns import stored_rows
from curate.exporting.hub import fetch
from curate.exporting.manifest import Manifest, changed_files, ids_digest, read_manifest
from curate.pipelines.certify import arm_of, difference_of, recertified
from curate.pipelines.explain import Untouched
from curate.pipelines.launch import execute
from curate.pipelines.publish import pick
from curate.pipelines.select import read_selection
from curate.pipelines.verify_upstream import compared_with_pool
from curate.recipe import Runtime, parse_recipe
from curate.scratch import Scratch
from curate.store import Store
from curate.strict_yaml import load

HUB = "hf://"
_SHOWN = 20  # differences that are told one by one
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Given:
    """Where to look: the folder that the recipe's relative paths start from, and the store; and whether to select again, by which model."""

    data: Path
    store: Path
    rebuild: bool = False
    model: str | None = None  # in the place of the recipe's, where that was a folder of the machine that exported


@dataclass
class Found:
    """What was compared, and what differs."""

    said: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def is_export_place(place: str) -> bool:
    """Whether `curate verify` is given an export and not the name of a run."""
    return place.startswith(HUB) or (Path(place) / "manifest.json").is_file()


def verify_export(place: str, given: Given) -> list[str]:
    """What was found to hold, a line each; IntegrityError with every difference. `place` is a folder, or `hf://org/name`, with `@commit` for an older one."""
    if not place.startswith(HUB):
        return _verified(place, Path(place), given)
    name, _, revision = place.removeprefix(HUB).removeprefix("datasets/").partition("@")
    with Scratch("verify") as scratch:
        folder, commit = fetch(name, scratch, revision or None)
        return _verified(f"{name} at {commit[:12]}", folder, given)


def _verified(what: str, folder: Path, given: Given) -> list[str]:
    about = read_manifest(folder)
    found = Found(wrong=changed_files(folder, about))
    rows = {name: _rows(folder, name, config, found) for name, config in about["configs"].items()}
    if not found.wrong:
        found.said.append(f"{what}: {len(about['files'])} files intact, {sum(map(len, rows.values()))} rows in {len(rows)} selections")
    readable = {name: stored for name, stored in rows.items() if stored}
    try:
        lines, differ = compared_with_pool(about, readable, given.data)
    except DataError as error:
        if found.wrong:
            raise IntegrityError(_told(found.wrong)) from None
        raise DataError(f"{what}: files and ids are intact, but the data that the rows came from is not here: {error}; name its folder with --data") from error
    found.said += lines
    found.wrong += differ
    again = _selected_again(about, given) if given.rebuild else None
    for name, stored in readable.items():
        _compare_selection(name, about, stored, Untouched(given.store), again, found)
    if found.wrong:
        raise IntegrityError(_told(found.wrong))
    return found.said


def _told(wrong: Sequence[str]) -> str:
    more = [f"and {len(wrong) - _SHOWN} more"] if len(wrong) > _SHOWN else []
    return "\n".join([*wrong[:_SHOWN], *more, "the export is not what curate wrote, or its data has changed; export again, or ask who published it"])


def _rows(folder: Path, name: str, config: Manifest, found: Found) -> list[dict[str, Any]]:
    """The stored rows of a configuration, its ids and ranks checked against the manifest; none where they cannot be read."""
    try:
        rows = list(stored_rows(folder, config["files"]))
        ids, ranks = ([row[config["added_columns"][column]] for row in rows] for column in ("id", "rank"))
    except Exception as error:  # a damaged file makes readers raise a dozen kinds; its bytes were compared before
        found.wrong.append(f"{name}: its rows cannot be read ({type(error).__name__})")
        return []
    if len(rows) != config["rows"] or ids_digest(ids) != config["ids_sha256"]:
        found.wrong.append(f"{name}: the ids are not those that were exported ({len(rows)} rows, {config['rows']} were)")
    odd = next((place for place, rank in enumerate(ranks) if rank != place), None)
    if odd is not None:
        found.wrong.append(f"{name}: row {ids[odd]!r}: field 'rank' is {ranks[odd]}, its place is {odd}")
    return rows


def _selected_again(about: Manifest, given: Given) -> dict[str, Artifact]:
    """Run the recipe up to its selections, on the CPU; the artifact of every configuration."""
    settings = _localised(yaml.safe_load(about["card"]["recipe"]), given.data.absolute())
    if given.model is not None:
        settings["model"]["path"] = given.model
    recipe = parse_recipe(load(yaml.safe_dump(settings, sort_keys=False), "the recipe of the export"))
    with Scratch("verify") as runs:
        runtime = Runtime(store=given.store, runs=runs, workers=1, device="cpu")
        results = execute(recipe, runtime, given.data, until="select", command="", quiet=True)
    found = {}
    for chosen in (Chosen.model_validate_json(json.dumps(one)) for one in about["card"]["chosen"]):
        row = pick(results, chosen.arm, chosen.budget, chosen.seed, chosen.target if chosen.target in recipe.target and recipe.per_target else None)
        artifact = Untouched(given.store).find(row.key)
        if artifact is not None:
            found[chosen.config] = artifact
    return found


def _localised(value: Any, folder: Path) -> Any:
    """The recipe with folders of the machine that exported it taken for `folder`."""
    if isinstance(value, str) and value.startswith(LOCAL):
        return str(folder / value.removeprefix(LOCAL).lstrip("/"))
    if isinstance(value, dict):
        return {key: _localised(item, folder) for key, item in value.items()}
    return [_localised(item, folder) for item in value] if isinstance(value, list) else value


def _compare_selection(name: str, about: Manifest, rows: Rows, store: Store, again: Mapping[str, Artifact] | None, found: Found) -> None:
    """Hold the rows against the selection that the store has, or that was just made, and its certificate against the features."""
    chosen: Mapping[str, Any] = next((one for one in about["card"]["chosen"] if one["config"] == name), {"key": "", "certificate": None})
    artifact = again.get(name) if again is not None else store.find(chosen["key"]) if chosen["key"] else None
    if artifact is None:
        found.said.append(f"{name}: the choice was not repeated, for the selection is not in {store.root}; --rebuild runs the recipe up to it, on the CPU")
        return
    differ = _differences(name, rows, about["configs"][name]["added_columns"], artifact)
    arm, claimed = arm_of(artifact.manifest["fields"]), chosen["certificate"]
    if arm is None or artifact.manifest["version"] != arm.selector.version or "given" not in artifact.manifest["summary"]:
        proof = "no certificate was recomputed, for a control, or another version of the selector, made it"
    else:
        differ += [f"{name}: certificate: {said}" for said in [difference_of(claimed, recertified(store, artifact, arm))] if said]
        proof = "it claims no certificate" if claimed is None else "its certificate, recomputed from the features, is as claimed"
    if not differ:
        how = "made again from the recipe" if again is not None else "in the store"
        found.said.append(f"{name}: ids, order, weights and scores are those of the selection {how}; {proof}")
    found.wrong += differ


def _differences(name: str, rows: Rows, columns: Mapping[str, str], artifact: Artifact) -> list[str]:
    """Where exported rows and a selection differ: which ids, which field."""
    kept = read_selection(artifact)
    selected, exported = [str(row) for row in kept["id"]], [str(row[columns["id"]]) for row in rows]
    wrong = [f"{name}: row {row!r} is in the selection and not in the export" for row in sorted(set(selected) - set(exported))]
    wrong += [f"{name}: row {row!r} is in the export and not in the selection" for row in sorted(set(exported) - set(selected))]
    if wrong or selected != exported:
        first = next((place for place, pair in enumerate(zip(selected, exported, strict=False)) if pair[0] != pair[1]), 0)
        return wrong or [f"{name}: the order differs from rank {first} on: {exported[first]!r} is there, {selected[first]!r} was chosen"]
    for field_name, stored in (("weight", kept["weight"]), ("score", kept["score"])):
        for row, value in zip(rows, stored.tolist(), strict=True):
            there = row[columns[field_name]]
            given = None if value is None or value != value else value
            if there is not None and there != given:
                wrong.append(f"{name}: row {row[columns['id']]!r}: field {columns[field_name]!r} is {there}, the selection has {given}")
    return wrong
