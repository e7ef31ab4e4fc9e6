"""The columns of an export: the fields of the rows, and five that say which row it is and why it is here."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from curate.data.table import table_bytes
from curate.errors import ExportError

if TYPE_CHECKING:
    import pyarrow

ADDED = ("id", "rank", "weight", "score", "reason")
_FILE_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Part:
    """One selection, best first, and what every row of it has: K of each."""

    rows: Sequence[Mapping[str, Any]]
    ids: Sequence[str]
    weights: Sequence[float]
    reasons: Sequence[str]
    scores: Sequence[float] | None = None
    name: str = "default"
    file_bytes: int = field(default=_FILE_BYTES, repr=False)

    def check(self) -> None:
        """ExportError unless every row has its own id, and one of everything else."""
        if not self.rows:
            raise ExportError("export: the selection is empty; choose a larger budget")
        columns = {"ids": self.ids, "weights": self.weights, "reasons": self.reasons, "scores": self.rows if self.scores is None else self.scores}
        for name, values in columns.items():
            if len(values) != len(self.rows):
                raise ExportError(f"export: {len(values)} {name} for {len(self.rows)} rows; give one per row")
        if len(set(self.ids)) != len(self.ids):
            raise ExportError("export: an id repeats; every row needs its own")

    @property
    def names(self) -> list[str]:
        """The names of the five, all prefixed as often as it takes to be apart from the fields of the pool in any case."""
        taken = {str(name).casefold() for row in self.rows for name in row}
        names = list(ADDED)
        while taken & set(names):
            names = [f"curate_{name}" for name in names]
        return names

    def added(self) -> dict[str, list[Any]]:
        """The five columns as they are stored: numpy's numbers as Python's, weights rounded to float32."""
        scores = [None if self.scores is None else float(score) for score in (self.rows if self.scores is None else self.scores)]  # type: ignore[arg-type]
        weights = np.asarray(self.weights, np.float32).tolist()
        columns = ([str(i) for i in self.ids], list(range(len(self.ids))), weights, scores, [str(reason) for reason in self.reasons])
        return dict(zip(self.names, columns, strict=True))

    def records(self) -> Iterator[dict[str, Any]]:
        """Every row as it is to be stored."""
        columns = self.added()
        for number, row in enumerate(self.rows):
            yield {**row, **{name: column[number] for name, column in columns.items()}}


def parquet_files(part: Part, folder: str) -> tuple[dict[str, str], Iterator[tuple[str, bytes]]]:
    """The part's columns with their types; and its files by name, `folder/train-...`, made one by one and cut where they would pass `file_bytes`."""
    table = _table(part)
    return {field.name: str(field.type) for field in table.schema}, _pieces(part, table, folder)


def _pieces(part: Part, table: "pyarrow.Table", folder: str) -> Iterator[tuple[str, bytes]]:
    import pyarrow

    count = min(max(1, math.ceil(table.nbytes / part.file_bytes)), table.num_rows)
    for number in range(count):
        start, stop = number * table.num_rows // count, (number + 1) * table.num_rows // count
        try:
            data = table_bytes(table.slice(start, stop - start))
        except pyarrow.ArrowException as error:
            raise ExportError(f"export: the rows do not fit parquet, {' '.join(str(error).split())[:200]}; change that column of the pool") from error
        yield f"{folder}/train-{number:05d}-of-{count:05d}.parquet", data


def jsonl_file(part: Part) -> tuple[bytes, dict[str, str]]:
    """The part as lines of JSON, and its columns with their types."""
    try:
        lines = [json.dumps(record, ensure_ascii=False, allow_nan=False) for record in part.records()]
        data = "".join(f"{line}\n" for line in lines).encode()
    except (ValueError, TypeError) as error:
        raise ExportError(f"export: the rows do not fit JSON, {str(error)[:200]}; use --format datasets") from error
    kinds = {str: "string", int: "int64", float: "double", list: "list", type(None): "null"}
    return data, {name: kinds[type(value)] for name, value in next(part.records()).items()}


def _table(part: Part) -> "pyarrow.Table":
    import pyarrow

    kinds = (pyarrow.string(), pyarrow.int64(), pyarrow.float32(), pyarrow.float64(), pyarrow.string())
    columns = {}
    for name in dict.fromkeys(name for row in part.rows for name in row):
        if not isinstance(name, str) or not name:
            raise ExportError(f"export: the field name {name!r} is not a word; rename that column of the pool")
        try:
            columns[name] = pyarrow.array([row.get(name) for row in part.rows])
        except (pyarrow.ArrowException, OverflowError, UnicodeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ExportError(f"export: column {name!r} cannot be stored, {reason}; give it one type in the pool") from error
    for (name, values), kind in zip(part.added().items(), kinds, strict=True):
        columns[name] = pyarrow.array(values, kind)
    return pyarrow.table(columns)


def check_stored(part: Part, folder: Path, files: Sequence[str]) -> None:
    """ExportError unless what lies on the disk is the part: as many rows, in this order, with these values."""
    number, expected = -1, part.records()
    for number, stored in enumerate(stored_rows(folder, files)):
        wanted = next(expected, None)
        if wanted is None:
            break
        if not same(stored, wanted):
            wrong = next(name for name in wanted if not same(stored.get(name), wanted[name]))
            raise ExportError(f"export: column {wrong!r} of row {part.ids[number]!r} changed when it was stored; give it one type in the pool")
    if number + 1 != len(part.rows):
        raise ExportError(f"export: {len(part.rows)} rows went in and another number came out; export again")


def stored_rows(folder: Path, files: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of these data files of an export, in their order."""
    from pyarrow import parquet

    for name in files:
        if name.endswith(".jsonl"):
            for line in (folder / name).read_bytes().splitlines():
                yield json.loads(line)
            continue
        for batch in parquet.ParquetFile(folder / name, page_checksum_verification=True).iter_batches(1024):
            yield from batch.to_pylist()


def same(stored: Any, given: Any) -> bool:
    """Equal values; a field that is absent equals null, since columns are the union over rows."""
    if isinstance(given, np.ndarray | np.generic):
        given = given.tolist()
    if isinstance(stored, Mapping) and isinstance(given, Mapping):
        return all(same(stored.get(name), given.get(name)) for name in {*stored, *given})
    if isinstance(stored, list) and isinstance(given, list | tuple):
        return len(stored) == len(given) and all(map(same, stored, given))
    if isinstance(stored, float) and isinstance(given, float) and math.isnan(given):
        return math.isnan(stored)
    return bool(stored == given) and isinstance(stored, bool) == isinstance(given, bool)
