"""The documents of local files, split by split, each with an id of its row number and its content.

Values are those that `datasets` gives lm-eval: label columns are their integers, a CSV column of numbers holds numbers (as pandas reads them), a
missing value is None. JSON values are taken as they stand, where `datasets` first gives a column one type (ISO times become datetimes, whole
numbers beside others floats). All documents of a split are held in memory.
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from curate.data import columnar
from curate.data.conversation import digest
from curate.data.files import is_data, records
from curate.data.locate import paths
from curate.data.source import Source
from curate.errors import DataError
from curate.harness.reading import READERS, LocalTask
from curate.harness.task_file import Files

KEYWORDS = {  # by which `datasets` finds the splits of a folder in names of files and folders
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_BREAKS = "-._ 0123456789"


@dataclass(frozen=True)
class HarnessDocument:
    """One row: its number from 0 in the split, and its columns."""

    id: str
    number: int
    fields: Mapping[str, Any]


def split_files(task: LocalTask, data: Files | None = None) -> dict[str, list[Path]]:
    """The files of each split. `data` takes the place of what the file says; files without a split are those that are asked."""
    file = task.file
    asked = file.asked_split or "test"
    given = data if data is not None else file.data
    if given is not None:
        return _located(given, asked, task)
    if file.dataset_path is None:
        raise DataError(f"{task.place('task')}: the task names no data; add data: FILE, or give the file on the command line")
    if file.dataset_name is not None:
        raise DataError(f"{task.place('dataset_name')} is a part of a Hub dataset, and only local files are read here; download it and give data: FILE")
    files = file.dataset_kwargs.data_files if file.dataset_kwargs else None
    if file.dataset_path in READERS:
        return _located(files or [], "train", task)
    path = task.folder / file.dataset_path
    if path.is_dir():
        return _located(files, "train", LocalTask(file, path, task.documents)) if files else _by_name(path)
    if path.is_file() and files is None:
        return {asked: [path]}
    raise DataError(f"{task.place('dataset_path')} {file.dataset_path!r} is no local file or folder (from {task.folder}); give data: FILE")


def read_documents(files: Sequence[Path], limit: int | None = None) -> list[HarnessDocument]:
    """The rows of files in their order; a column that some rows lack is None there. DataError names a row that cannot be read."""
    rows = [*islice((row for file in files for row in _rows(file)), limit)]
    columns = list(dict.fromkeys(column for _, row in rows for column in row))
    if not rows:
        raise DataError(f"{', '.join(map(str, files))}: holds no row; check the path")
    return [_document(number, origin, {column: row.get(column) for column in columns}) for number, (origin, row) in enumerate(rows)]


def _document(number: int, origin: str, fields: Mapping[str, Any]) -> HarnessDocument:
    try:
        content = json.dumps(fields, ensure_ascii=False, sort_keys=True, default=_as_text, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        raise DataError(f"{origin}: holds bytes that are not UTF-8; save the file as UTF-8") from None
    return HarnessDocument(f"{number:06d}-{digest(content).hex()[:16]}", number, fields)


def _rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(file:row, columns) of every row."""
    suffix = file.suffix.lower()
    if suffix == ".parquet":
        yield from ((f"{file}:{number}", row) for number, row in enumerate(_parquet(file), 1))
        return
    if suffix == ".arrow":
        raise DataError(f"{file}: Arrow files are not read as task data; write it as parquet or JSON lines")
    found: list[tuple[str, Mapping[str, Any]]] = []
    for number, row, problem in records(file):
        if problem is not None:
            raise DataError(f"{file}:{number}: {problem.reason} ({problem.detail}); mend the line")
        found.append((f"{file}:{number}", row))
    table = [part.lower() for part in file.suffixes if part in (".csv", ".tsv")]
    yield from zip([origin for origin, _ in found], _typed([row for _, row in found]), strict=True) if table and found else found


def _parquet(file: Path) -> Iterator[Mapping[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file, page_checksum_verification=True) as table:
            for batch in table.iter_batches(batch_size=columnar.BATCH):
                yield from columnar.dicts(batch, {})
    except (OSError, ValueError, MemoryError, pa.ArrowException) as error:
        reason = ascii(str(error).partition("\n")[0][:160])
        raise DataError(f"{file}: cannot be read ({type(error).__name__}: {reason}); the file is damaged or no parquet") from error


def _typed(rows: Sequence[Mapping[str, str]]) -> list[Mapping[str, Any]]:
    """Rows of text with the types that pandas finds in each column."""
    import pandas as pd  # type: ignore[import-untyped]
    import pyarrow as pa

    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerows([list(rows[0]), *(row.values() for row in rows)])
    stream.seek(0)
    return list(pa.Table.from_pandas(pd.read_csv(stream), preserve_index=False).to_pylist())


def _located(given: Files, unnamed: str, task: LocalTask) -> dict[str, list[Path]]:
    by_split = given if isinstance(given, dict) else {unnamed: given}
    found: dict[str, list[Path]] = {}
    for split, names in by_split.items():
        found[split] = []
        for name in [names] if isinstance(names, str) else names:
            if "://" in name:
                raise DataError(f"{task.name}: {name!r} is an address, and only local files are read; download it first")
            found[split] += paths(Source(path=name), task.folder)
    return found


def _by_name(folder: Path) -> dict[str, list[Path]]:
    """The splits of a folder by the words in the names of its folders, or else of its files; all in `train` where there are none."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and is_data(path) and not path.name.startswith("."))
    for part in ("folders", "file"):
        found: dict[str, list[Path]] = {}
        for file in files:
            below = file.relative_to(folder)
            names = below.parts[:-1] if part == "folders" else (below.name,)
            for split, words in KEYWORDS.items():
                if any(_holds(name, words) for name in names):
                    found.setdefault(split, []).append(file)
        if found:
            return found
    if not files:
        raise DataError(f"{folder}: holds no data file; the kinds are parquet, JSON and CSV")
    return {"train": files}


def _holds(name: str, words: Sequence[str]) -> bool:
    """Whether a word stands in the name between its ends and breaks, as `datasets` matches it."""
    pieces = "".join(" " if character in _BREAKS else character for character in name).split()
    return any(piece in words for piece in pieces)


def _as_text(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
