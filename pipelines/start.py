"""Start: from files of one's own to a commented recipe that runs, by reading their first rows."""

import os
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from curate.core import Budget
from curate.data.conversation import Rejection
from curate.data.formats import Reading, recognise
from curate.data.given import in_braces
from curate.data.load import load
from curate.data.locate import pinned
from curate.data.source import Source
from curate.errors import ConfigError, DataError
from curate.model_folder import absence, positions, read_config
from curate.pipelines.start_text import Chosen, recipe_text, run_name
from curate.recipe import parse_recipe
from curate.store import atomic_write
from curate.strict_yaml import load as load_yaml

LOOKED_AT = 1000  # rows of each source of the pool
MOST_TARGETS = 10_000
MOST_SELECTED_FOR = 200
FEWEST_TARGETS = 4  # two to select for and two to evaluate on
FEW_ITEMS = 30
SMALL_MODEL = 200 * 2**20  # bytes of weights up to which all of them are trained
_GROUPS = 50  # values of a column by which rows may be grouped, at most


@dataclass(frozen=True)
class Found:
    """What the first rows of a source are: how their columns are read, how many can be used, and by what they may be grouped."""

    label: str  # the source as it was given
    source: Source  # as the recipe names it
    reading: Reading
    columns: tuple[str, ...]
    rows: int
    whole: bool  # all rows were read
    distinct: int  # usable rows that differ in content
    aside: Counter[str]
    first_aside: str
    groups: dict[str, int]  # column, and how many values it has

    def __str__(self) -> str:
        """`pool.jsonl: 300 rows, read as prompt_completion (prompt -> completion); columns 'prompt', ...; may be grouped by 'kind' (4 values)`."""
        count = f"{self.rows} rows" if self.whole else f"more than {self.rows} rows (the first {self.rows} were read)"
        columns = ", ".join(map(ascii, self.columns[:12])) + (f" and {len(self.columns) - 12} more" if len(self.columns) > 12 else "")
        by = "; may be grouped by " + ", ".join(f"{name!a} ({values} values)" for name, values in self.groups.items()) if self.groups else ""
        aside = ", ".join(f"{reason} {number}" for reason, number in sorted(self.aside.items()))
        unused = f"; cannot be used: {aside}, the first is {self.first_aside}" if aside else ""
        return f"{self.label}: {count}, read as {self.reading}; columns {columns}{by}{unused}"


def start(directory: Path, pool: list[str], target: str, model: str, *, name: str | None, budget: str) -> list[str]:
    """Write DIRECTORY/recipe.yaml and return what was found and what to type next. ConfigError, DataError and ModelError in one line.

    Files are named from the current folder, or given as a source in braces. Rows of the target are split by their content: some are selected for,
    and an evaluation on the same file leaves those out by itself.
    """
    path = directory / "recipe.yaml"
    if path.exists():
        raise ConfigError(f"{path} exists; edit it, or name another folder")
    asked = Budget.parse(budget)
    folder = directory.resolve()
    pools = [_look(_source(text, "--pool"), folder, LOOKED_AT) for text in pool]
    wanted = _look(_source(target, "--target"), folder, MOST_TARGETS)
    selected_for = _split(wanted)
    _check_budget(asked, pools)
    where, lora, trained = _model(model, folder)
    called = run_name(name) if name is not None else _stem(wanted.source)
    chosen = Chosen(
        name=called,
        pools=[(found.source, str(found.reading), _rows(found), list(found.groups), "license" in found.columns) for found in pools],
        target=(wanted.source, str(wanted.reading), _stem(wanted.source)),
        selected_for=selected_for,
        held_out=wanted.distinct - selected_for,
        model=where,
        lora=lora,
        words=all(found.reading.format != "pretokenised" for found in pools),
        budget=str(asked),
    )
    text = recipe_text(chosen)
    parse_recipe(load_yaml(text, path.name))  # what is written is valid, whatever the files are called
    atomic_write(path, text.encode())
    return [*map(str, pools), str(wanted), *_said(chosen, trained), f"wrote {path}", *_next(path, chosen)]


def _source(text: str, option: str) -> Source:
    """A source as in a recipe, in braces, or a file; its path starts from here."""
    source = in_braces(text, option) or Source(path=text)
    if option == "--target" and (source.limit is not None or source.sample is not None):
        raise ConfigError(f"{option}: init decides itself how many rows are selected for and how many evaluated on; leave limit and sample out")
    return source


def _from(folder: Path, path: str) -> str:
    """A path from here as one from the recipe's folder, which need not exist yet."""
    return path if Path(path).is_absolute() else os.path.relpath(path, folder)


def _look(source: Source, folder: Path, most: int) -> Found:
    """Read the first rows as a run would; DataError where no way, or more than one, of reading their columns is known."""
    source = pinned(source)
    reading: Reading | None = None
    aside: Counter[str] = Counter()
    values: dict[str, Counter[str]] = {}
    first, rows = "", 0
    keys: set[bytes] = set()
    columns: tuple[str, ...] = ()
    parsed = load([source], Path(), on_bad_row="quarantine")
    for one in islice(parsed, most):
        rows += 1
        meaning = one.meaning
        problem = meaning if isinstance(meaning, Rejection) else meaning.problem()
        if problem is not None:
            aside[problem.reason] += 1
            first = first or f"{one.row.origin}: {problem.reason}, {problem.detail}"
            continue
        if reading is None:
            reading, columns = recognise(one.row.fields, source), tuple(one.row.fields)
        keys.add(one.key)
        for column, value in one.row.fields.items():
            if isinstance(value, str | int):
                values.setdefault(column, Counter())[str(value)] += 1
    if reading is None:
        raise DataError(f"{source.label}: none of its first {rows} rows can be used; the first is {first}")
    written = source if source.path is None else source.model_copy(update={"path": _from(folder, source.path)})
    return Found(source.label, written, reading, columns, rows, next(parsed, None) is None, len(keys), aside, first, _groups(values, reading, rows))


def _groups(values: dict[str, Counter[str]], reading: Reading, rows: int) -> dict[str, int]:
    """Columns beside the text with a few values that repeat."""
    text = {*reading.columns, "license", "input", "system"}
    few = {column: len(found) for column, found in values.items() if column not in text and 2 <= len(found) <= min(_GROUPS, rows // 3)}
    return dict(sorted(few.items(), key=lambda pair: (pair[1], pair[0])))


def _rows(found: Found) -> str:
    return f"{found.rows} rows" if found.whole else f"more than {found.rows} rows"


def _split(wanted: Found) -> int:
    """How many rows of the target to select for: half of those that differ, at most 200."""
    label = wanted.label
    if wanted.reading.format in ("text", "pretokenised"):
        raise DataError(
            f"{label}: it is read as {wanted.reading}, and an evaluation needs a question and an answer; give columns of question and answer, or in braces: "
            "--target '{path: FILE, prompt: \"Write on: {title}\", completion: \"{text}\"}'"
        )
    if wanted.distinct < FEWEST_TARGETS:
        raise DataError(f"{label}: {wanted.distinct} different rows are too few to select for some and evaluate on others; give {FEWEST_TARGETS} or more")
    return min(MOST_SELECTED_FOR, wanted.distinct // 2)


def _check_budget(budget: Budget, pools: list[Found]) -> None:
    rows = sum(found.rows for found in pools)
    if budget.amount <= 0:
        raise ConfigError(f"--budget {budget} keeps nothing; give rows (100), a share (5%) or tokens (2M tokens)")
    if not all(found.whole for found in pools):
        return
    if budget.unit == "fraction" and budget.amount * rows < 1:
        raise ConfigError(f"--budget {budget} of {rows} rows is less than one; give a number of rows, such as --budget {max(1, rows // 4)}")
    if budget.unit == "rows" and budget.amount > rows:
        raise ConfigError(f"--budget {budget} is more than the {rows} rows of the pool; give fewer")


def _model(model: str, folder: Path) -> tuple[str, bool, str]:
    """The model as the recipe names it, whether adapters are trained, and a line about it. ModelError for a folder that holds none."""
    path = Path(model).expanduser()
    if path.is_dir():
        limit = positions(read_config(path), path)
        size = sum(file.stat().st_size for file in path.glob("model*.safetensors"))
        lora = size > SMALL_MODEL
        how = "adapters (LoRA) are trained" if lora else "all weights are trained"
        return _from(folder, str(path)), lora, f"model {model}: {size / 2**20:.0f} MiB of weights, at most {limit} tokens; {how}"
    if path.exists() or model.startswith((".", "/", "~")) or model.count("/") != 1 or not all(model.split("/")):
        raise ConfigError(f"--model {model!r} is no folder ({path} {absence(path)}) and no Hub id; give a folder with config.json, or org/name")
    return model, True, f"model {model}: of the Hub, fetched by the first command that needs it; adapters (LoRA) are trained"


def _stem(source: Source) -> str:
    """A name after the target's file, or `mine` where that is none."""
    return run_name(Path(source.label).name.partition(".")[0], fallback="mine")


def _said(chosen: Chosen, trained: str) -> list[str]:
    few = "; so few say little, and intervals will be wide: more examples narrow them" if chosen.held_out < FEW_ITEMS else ""
    return [trained, f"target: {chosen.selected_for} rows are selected for, {chosen.held_out} others evaluated on{few}"]


def _next(path: Path, chosen: Chosen) -> list[str]:
    import shlex

    file = shlex.quote(str(path))
    steps = {
        f"curate inspect {file}": "what the model will see, what is set aside, what leaks",
        f"curate plan {file}": "time, memory and disk, before anything is computed",
        f"curate run {file} --until select": "only choose the rows",
        f"curate run {file}": "train on every choice and compare with random rows",
        f"curate export {chosen.name} {chosen.arms[0]} DIR": "the rows as a data set",
    }
    width = max(map(len, steps))
    return ["next:", *(f"  {command:{width}}  # {why}" for command, why in steps.items())]


def options(pool: list[str] | None, target: str | None, model: str | None, others: dict[str, Any]) -> tuple[list[str], str, str] | None:
    """Pool, target and model where all are given, None where nothing is; ConfigError between the two."""
    given = {"--pool": pool, "--target": target, "--model": model}
    missing = [option for option, value in given.items() if not value]
    named = [option for option, value in {**given, **others}.items() if value]
    if not named:
        return None
    if missing:
        raise ConfigError(f"init was given {', '.join(named)} and misses {', '.join(missing)}; give --pool, --target and --model, or none for a starter")
    return pool or [], target or "", model or ""
