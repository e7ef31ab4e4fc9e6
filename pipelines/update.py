"""Update: the recipe of a run whose pool has grown or shrunk since, as a run of its own."""

import re
from collections.abc import Sequence
from pathlib import Path

from curate.data.given import in_braces
from curate.data.source import Source
from curate.errors import ConfigError, DataError
from curate.growth import Step
from curate.recipe import Recipe, read_recipe
from curate.store import read_json

_READ_ALIKE = ("format", "prompt", "completion", "id", "group")  # of a source: how its columns are read


def updated(directory: Path, add: Sequence[str], remove: Path | None, name: str) -> Recipe:
    """The recipe of the run in this folder with one more step of growth, under another name. ConfigError, DataError.

    `add` holds files, or sources as they stand in a recipe in braces; paths of both start from the current folder, and the recipe holds them in full.
    A file is read like the sources of the pool, where those are read alike.
    """
    if not (directory / "recipe.yaml").is_file():
        raise DataError(f"there is no run in {directory}; `curate run RECIPE` makes one, --runs names the folder of runs")
    recipe = read_recipe(directory / "recipe.yaml")
    if remove is not None and not remove.is_file():
        raise DataError(f"{remove} is no file; give a text file with the id of a row on each line")
    if not add and remove is None:
        raise ConfigError("nothing is to change: give --add FILE, --remove FILE, or both")
    step = Step(add=[_source(text, recipe) for text in add], remove=str(remove.absolute()) if remove else None)
    if name == directory.name:
        raise ConfigError(f"--name {name} is the run itself, which stays as it is; give another name")
    return Recipe.model_validate({**recipe.model_dump(), "name": name or _next(directory), "growth": [*recipe.growth, step]})


def folder_of(directory: Path) -> Path | None:
    """The folder that the relative paths of a run's recipe start from, as far as the run says."""
    record = read_json(directory / "run.json") if (directory / "run.json").is_file() else {}
    found = record.get("folder") if isinstance(record, dict) else None
    return Path(found) if isinstance(found, str) else None


def _source(text: str, recipe: Recipe) -> Source:
    if (given := in_braces(text, "--add")) is not None:
        return given if given.path is None else given.model_copy(update={"path": str(Path(given.path).absolute())})
    alike = {tuple((field, getattr(source, field)) for field in _READ_ALIKE) for source in recipe.pool}
    return Source(path=str(Path(text).absolute()), **(dict(alike.pop()) if len(alike) == 1 else {}))


def _next(directory: Path) -> str:
    """The run's name with the next number behind it that no run has."""
    stem, number = directory.name, 2
    if found := re.fullmatch(r"(.+)-(\d+)", stem):
        stem, number = found[1], int(found[2]) + 1
    while (directory.parent / f"{stem}-{number}").exists():
        number += 1
    return f"{stem}-{number}"
