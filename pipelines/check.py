"""Check: that a finished run is whole, without computing or changing anything."""

from pathlib import Path
from typing import Any

from curate.core import Artifact
from curate.data.account import unaccounted, unaccounted_growth
from curate.data.examples import open_examples, quarantined
from curate.errors import DataError, IntegrityError
from curate.features import map_tensors
from curate.features import quarantined as unscored
from curate.store import read_json, verify


def check(directory: Path, store: Path) -> int:
    """How many artifacts the run used, all intact and all rows accounted for; IntegrityError with what is wrong otherwise."""
    if not (directory / "run.json").is_file():
        raise DataError(f"there is no finished run in {directory}; `curate run RECIPE` makes one")
    keys = list(dict.fromkeys(stage["key"] for stage in stages_of(directory)))
    wrong: list[str] = []
    for key in keys:
        path = store / key
        if not (path / "manifest.json").is_file():
            wrong.append(f"{path} is missing")
            continue
        wrong += verify(path) or _lost_rows(Artifact(key, path, read_json(path / "manifest.json")), store)
    if wrong:
        raise IntegrityError("\n".join(wrong) + "\nrun the recipe again to compute what is missing")
    return len(keys)


def stages_of(directory: Path) -> list[dict[str, Any]]:
    """The stages of a finished run, each with its label and the key of its artifact."""
    record = read_json(directory / "run.json")
    stages = record.get("stages") if isinstance(record, dict) else None
    if not isinstance(stages, list) or not all(isinstance(stage, dict) and {"stage", "label", "key"} <= stage.keys() for stage in stages):
        raise IntegrityError(f"{directory / 'run.json'} is no record of a run; run the recipe again to write it anew")
    return stages


def _lost_rows(artifact: Artifact, store: Path) -> list[str]:
    """Rows that are neither used nor set aside, by id, in an artifact of examples or features."""
    stage, summary = artifact.manifest["stage"], artifact.manifest["summary"]
    if stage == "examples":
        used, aside = set(open_examples(artifact.path).ids.tolist()), {row["id"] for row in quarantined(artifact.path)}
        if used & aside or len(used) + len(aside) != summary["rows_in"]:
            return [f"{artifact.path}: {summary['rows_in']} rows came in, but {len(used)} are used and {len(aside)} set aside"]
    if stage == "clean":
        whole = store / artifact.manifest["inputs"][0]
        return unaccounted(artifact, Artifact(whole.name, whole, {}))
    if stage == "grown":
        return unaccounted_growth(artifact, *(Artifact(key, store / key, {}) for key in artifact.manifest["inputs"]))
    if stage == "features":
        ids = open_examples(store / artifact.manifest["inputs"][0]).ids
        scored = [str(ids[int(row)]) for name in summary["shards"] for row in map_tensors(artifact.path / name)["rows"]]
        if sorted(scored + [row for row, _ in unscored(artifact)]) != sorted(ids.tolist()):
            return [f"{artifact.path}: its scored and set-aside rows are not those of its examples"]
    return []
