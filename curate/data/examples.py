"""Tokenised examples on disk, read as they are needed.

    index.parquet        id, file, row, length, supervised, group: one line per example, sorted by id
    rows-00000.arrow     content, input_ids, supervised, messages, source: uncompressed, so that they are memory-mapped
    quarantine.parquet   id, reason, detail, origin: the rows that were set aside

Rows lie in the order they were read; their order for everything else is that of the index. An index may have no rows of its own and name the folders
that they lie in: that of the whole for a pool without its duplicates, several for a pool that has grown.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, overload

import numpy as np

from curate.core import Examples, Integers, Row, Turns
from curate.errors import DataError, IntegrityError

INDEX = "index.parquet"
QUARANTINE = "quarantine.parquet"
WHOLE = b"curate rows"  # in an index without rows of its own: the folders, beside its own, that they lie in, with commas between
FILES = 1_000_000  # more than a folder has: the rows of file f in folder n of those are in file n FILES + f of the index


def shard_name(number: int) -> str:
    """The name of the numbered file of rows."""
    return f"rows-{number:05d}.arrow"


@dataclass(frozen=True)
class StoredContent:
    """What a row on disk says, parsed when it is asked for."""

    batch: Any
    position: int

    @property
    def turns(self) -> Turns:
        found = json.loads(self.batch.column("messages")[self.position].as_py())
        if "text" in found:
            return (("", found["text"]),)
        return tuple((role, content) for role, content in found.get("messages", ()))

    @property
    def fields(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = json.loads(self.batch.column("source")[self.position].as_py())
        return found


@dataclass(frozen=True)
class StoredRows(Sequence[Row]):
    """Rows on disk in the order of the index: (N,), of which only those that are asked for are read."""

    folders: tuple[Path, ...]
    files: Integers  # (N,)
    positions: Integers  # (N,)

    def __len__(self) -> int:
        return len(self.files)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        if isinstance(index, slice):
            return StoredRows(self.folders, self.files[index], self.positions[index])
        batch, position = self.locate(index)
        return Row(
            batch.column("input_ids")[position].values.to_numpy(),
            batch.column("supervised")[position].values.to_numpy(zero_copy_only=False),
            StoredContent(batch, position),
        )

    def locate(self, index: int) -> tuple[Any, int]:
        """The Arrow batch that holds a row, and the row's place in it."""
        folder, file = divmod(int(self.files[index]), FILES)
        return _shard(self.folders[folder], file), int(self.positions[index])


def open_examples(path: Path) -> Examples:
    """The examples under `path`, in the order of their ids. IntegrityError if a file is missing or damaged."""
    index = _table(path / INDEX)
    return Examples(
        ids=np.asarray(index["id"].to_pylist(), np.str_),
        lengths=_integers(index, "length"),
        supervised=_integers(index, "supervised"),
        groups=np.asarray(index["group"].to_pylist(), np.str_),
        rows=_rows(path, index),
    )


opened = lru_cache(maxsize=4)(open_examples)  # a million ids and groups are not to be held once for every stage


def sources(path: Path, indices: Iterable[int]) -> list[dict[str, Any]]:
    """The original fields of these rows of the index; bytes in hexadecimal, dates and decimals as text."""
    return [json.loads(text) for text in _strings(path, "source", indices)]


def conversations(path: Path, indices: Iterable[int]) -> list[list[dict[str, str]]]:
    """The turns of these rows of the index, each {"role", "content"}. DataError for a row that came as plain text or as tokens."""
    found = []
    for text in _strings(path, "messages", indices):
        turns = json.loads(text).get("messages")
        if turns is None:
            raise DataError(f"{path}: a row is plain text or token ids and has no question and answer; use prompt: and completion: to make them")
        found.append([{"role": role, "content": content} for role, content in turns])
    return found


def quarantined(path: Path) -> list[dict[str, str]]:
    """The rows that were set aside: id, reason, detail and origin, sorted by id."""
    return [dict(row) for row in _table(path / QUARANTINE).to_pylist()]


def check_quarantine(summary: Mapping[str, Any], limit: float, name: str, path: Path | None = None) -> None:
    """DataError if no row is left, or if more than the share `limit` was set aside; with the examples' `path` it names one such row."""
    aside = sum(summary["quarantined"].values())
    if summary["used"] and aside <= limit * summary["rows_in"]:
        return
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(summary["quarantined"].items(), key=lambda item: (-item[1], item[0])))
    longer = f"raise model.max_length (now {summary['max_length']}) or " if "too_long" in summary["quarantined"] else ""
    advice = f"{longer or 'mend them or '}raise hygiene.quarantine_limit" if summary["used"] else f"no row is left: {longer}mend the data"
    share = aside / summary["rows_in"] if summary["rows_in"] else 0.0
    found = next(iter(quarantined(path)), None) if path else None
    example = f"; for example {found['origin']}: {found['reason']}, {found['detail']}" if found else ""
    raise DataError(f"{name}: {share:.1%} of {summary['rows_in']} rows were set aside ({reasons}{example}); the limit is {limit * 100:g}%: {advice}")


def _strings(path: Path, column: str, indices: Iterable[int]) -> Iterator[str]:
    rows = _rows(path, _table(path / INDEX))
    for index in indices:
        batch, position = rows.locate(index)
        yield batch.column(column)[position].as_py()


def _rows(path: Path, index: Any) -> StoredRows:
    """The rows that the index names: in its own folder, or in those of the examples that it is made of."""
    return StoredRows(tuple(path.parent / name for name in folders_of(path.name, index)), _integers(index, "file"), _integers(index, "row"))


def folders_of(own: str, index: Any) -> list[str]:
    """The names of the folders that the rows of an index lie in, its `own` where it names none."""
    whole = (index.schema.metadata or {}).get(WHOLE)
    return whole.decode().split(",") if whole else [own]


@lru_cache(maxsize=4)
def in_reading_order(path: Path) -> Integers:
    """(N,) the rows of the index, by their place in the sources."""
    rows = opened(path).rows
    return np.lexsort((rows.positions, rows.files)) if isinstance(rows, StoredRows) else np.arange(len(rows))


def _integers(table: Any, column: str) -> Integers:
    return np.asarray(table[column].to_numpy(), np.int64)


def _table(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise IntegrityError(f"{path} is missing or damaged ({type(error).__name__}); remove its folder and run the same command again") from error


@lru_cache(maxsize=256)
def _shard(folder: Path, number: int) -> Any:
    import pyarrow as pa

    path = folder / shard_name(number)
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
    except (OSError, pa.ArrowException) as error:
        raise IntegrityError(f"{path} is missing or damaged ({type(error).__name__}); remove its folder and run the same command again") from error
