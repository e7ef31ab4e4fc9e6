"""A selection as a folder that `datasets.load_dataset` opens: rows, card, manifest; all of it verified, or nothing.

    DIR/data/train-00000-of-00001.parquet   the rows in the order of the selection, best first
    DIR/README.md                           the card: what was selected for what, how, how it compares, how to rebuild it
    DIR/manifest.json                       hashes of ids and files, counts, recipe, seed, versions

Every row keeps its fields and gains five: `id`, `rank` (0 is best), `weight` of its loss, `score` (null where the method
has none) and `reason`. Where a field of the pool bears one of these names, in any case, all five are prefixed `curate_`.
Rows with differing fields get their union, absent ones null. Equal selections give equal bytes.
"""

import contextlib
import glob
import io
import json
import math
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from curate.card import Card, readme, without_local_paths
from curate.errors import DiskError, ExportError
from curate.store import atomic_write, locked

if TYPE_CHECKING:
    import pyarrow

__all__ = ["Card", "export_dataset"]

FORMAT = "curate-export-1"
_ADDED = ("id", "rank", "weight", "score", "reason")
Added = dict[str, list[Any]]
_FILE_BYTES = 256 * 2**20


def export_dataset(
    directory: Path,
    rows: Sequence[Mapping[str, Any]],
    *,
    ids: Sequence[str],
    ranks: Sequence[int],
    weights: Sequence[float],
    scores: Sequence[float] | None,
    reasons: Sequence[str],
    card: Card,
    overwrite: bool = False,
    file_bytes: int = _FILE_BYTES,
) -> Path:
    """Write `rows`, in the order of the selection, as a data set under `directory`, and return it.

    Built beside its place, read back and compared, then renamed. A folder that holds anything is refused unless
    `overwrite`, and replaced only if it is an export of ours. Errors: ExportError; DiskError where the disk fails.
    """
    directory = Path(os.path.abspath(directory))
    with _held(directory, overwrite):
        names = _added_names(rows)
        added = _added(ids, ranks, weights, scores if scores is not None else [None] * len(rows), reasons)
        for name, values in added.items():
            if len(values) != len(rows):
                raise ExportError(f"export: {len(values)} values of {name} for {len(rows)} rows; give one per row")
        if not rows or len(set(ids)) != len(ids):
            raise ExportError("export: the selection is empty; choose a larger budget" if not rows else "export: an id repeats; every row needs its own")
        table = _table(rows, dict(zip(names, added.values(), strict=True)))
        building = directory.with_name(f".{directory.name}.{uuid.uuid4().hex[:8]}.part")
        try:
            files = _write_shards(building, table, file_bytes)
            _verify(building, rows, names, added)
            about = _manifest(files, table, names, ids, card)
            atomic_write(building / "README.md", readme(card, columns=_columns(table), names=names, rows=len(rows)).encode())
            atomic_write(building / "manifest.json", (json.dumps(about, indent=2, sort_keys=True) + "\n").encode())
            _swap(building, directory)
        except DiskError:
            raise
        except OSError as error:
            raise DiskError(f"cannot export to {directory}: {error.strerror or error}; free the disk and export again") from error
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return directory


@contextlib.contextmanager
def _held(directory: Path, overwrite: bool) -> Iterator[None]:
    """The place for this export alone, what a killed export left there undone; refused where something else stands."""
    with locked(directory.with_name(f".{directory.name}.lock"), wait=False):
        _settle(directory)
        _check_place(directory, overwrite)
        yield


def _settle(directory: Path) -> None:
    """Undo an export that was killed: the folder that stood there comes back, and what was being built or removed goes."""
    name = glob.escape(f".{directory.name}.") + "[0-9a-f]" * 8
    for old in sorted(directory.parent.glob(f"{name}.old")):
        if not directory.exists():
            os.rename(old, directory)
    for leftover in (*directory.parent.glob(f"{name}.part"), *directory.parent.glob(f"{name}.old")):
        shutil.rmtree(leftover, ignore_errors=True)


def _check_place(directory: Path, overwrite: bool) -> None:
    if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
        raise ExportError(f"cannot export to {directory}: it is not a folder; name one that does not exist yet")
    if not directory.exists() or not any(directory.iterdir()):
        return
    if not overwrite:
        raise ExportError(f"cannot export to {directory}: it is not empty; name another folder or pass --overwrite")
    try:
        ours = json.loads((directory / "manifest.json").read_bytes())["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise ExportError(f"cannot overwrite {directory}: it holds no export of curate; remove it yourself or name another folder")


def _added_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The five names, all prefixed as often as it takes to be apart from the fields of the pool in any case."""
    taken = {str(name).casefold() for row in rows for name in row}
    names = list(_ADDED)
    while taken & set(names):
        names = [f"curate_{name}" for name in names]
    return names


def _added(ids: Sequence[str], ranks: Sequence[int], weights: Sequence[float], scores: Sequence[float | None], reasons: Sequence[str]) -> Added:
    """The five columns as they are stored: numpy's numbers as Python's, weights rounded to float32."""
    numbers = [None if score is None else float(score) for score in scores]
    columns = ([str(i) for i in ids], [int(rank) for rank in ranks], np.asarray(weights, np.float32).tolist(), numbers, [str(reason) for reason in reasons])
    return dict(zip(_ADDED, columns, strict=True))


def _table(rows: Sequence[Mapping[str, Any]], added: Added) -> "pyarrow.Table":
    import pyarrow

    kinds = (pyarrow.string(), pyarrow.int64(), pyarrow.float32(), pyarrow.float64(), pyarrow.string())
    columns = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        if not isinstance(name, str) or not name:
            raise ExportError(f"export: the field name {name!r} is not a word; rename that column of the pool")
        try:
            columns[name] = pyarrow.array([row.get(name) for row in rows])
        except (pyarrow.ArrowException, OverflowError, UnicodeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ExportError(f"export: column {name!r} cannot be stored, {reason}; give it one type in the pool") from error
    for (name, values), kind in zip(added.items(), kinds, strict=True):
        columns[name] = pyarrow.array(values, kind)
    return pyarrow.table(columns)


def _write_shards(building: Path, table: "pyarrow.Table", file_bytes: int) -> dict[str, dict[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    count = min(max(1, math.ceil(table.nbytes / file_bytes)), table.num_rows)
    files = {}
    for number in range(count):
        start, stop = number * table.num_rows // count, (number + 1) * table.num_rows // count
        buffer = io.BytesIO()
        try:
            parquet.write_table(table.slice(start, stop - start), buffer, compression="zstd", write_page_checksum=True)
        except pyarrow.ArrowException as error:
            raise ExportError(f"export: the rows do not fit parquet, {' '.join(str(error).split())[:200]}; change that column of the pool") from error
        name, data = f"data/train-{number:05d}-of-{count:05d}.parquet", buffer.getvalue()
        atomic_write(building / name, data)
        files[name] = {"bytes": len(data), "sha256": sha256(data).hexdigest(), "rows": stop - start}
    return files


def _verify(building: Path, rows: Sequence[Mapping[str, Any]], names: Sequence[str], added: Added) -> None:
    """What lies on the disk is the selection: as many rows, in this order, with these values."""
    number = -1
    for number, stored in enumerate(_stored(building)):
        if number >= len(rows):
            break
        expected = {**rows[number], **{name: column[number] for name, column in zip(names, added.values(), strict=True)}}
        if not _same(stored, expected):
            wrong = next(name for name in expected if not _same(stored.get(name), expected[name]))
            raise ExportError(f"export: column {wrong!r} of row {added['id'][number]!r} changed when it was stored; give it one type in the pool")
    if number + 1 != len(rows):
        raise ExportError(f"export: {len(rows)} rows went in and another number came out; export again")


def _stored(building: Path) -> Iterator[dict[str, Any]]:
    from pyarrow import parquet

    for path in sorted((building / "data").iterdir()):
        for batch in parquet.ParquetFile(path, page_checksum_verification=True).iter_batches(1024):
            yield from batch.to_pylist()


def _same(stored: Any, given: Any) -> bool:
    """Equal values; a field that is absent equals null, since columns are the union over rows."""
    if isinstance(given, np.ndarray | np.generic):
        given = given.tolist()
    if isinstance(stored, Mapping) and isinstance(given, Mapping):
        return all(_same(stored.get(name), given.get(name)) for name in {*stored, *given})
    if isinstance(stored, list) and isinstance(given, list | tuple):
        return len(stored) == len(given) and all(map(_same, stored, given))
    if isinstance(stored, float) and isinstance(given, float) and math.isnan(given):
        return math.isnan(stored)
    return bool(stored == given) and isinstance(stored, bool) == isinstance(given, bool)


def _manifest(files: dict[str, Any], table: "pyarrow.Table", names: Sequence[str], ids: Sequence[str], card: Card) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "rows": table.num_rows,
        "ids_sha256": sha256(json.dumps(list(ids)).encode()).hexdigest(),
        "columns": _columns(table),
        "added_columns": dict(zip(_ADDED, names, strict=True)),
        "files": files,
        "selection": without_local_paths(card.model_dump()),
    }


def _columns(table: "pyarrow.Table") -> dict[str, str]:
    return {field.name: str(field.type) for field in table.schema}


def _swap(building: Path, directory: Path) -> None:
    """Put the finished folder in its place; where one stands there, it comes back if that fails."""
    old = directory.with_name(f".{directory.name}.{uuid.uuid4().hex[:8]}.old")
    if directory.exists():
        os.rename(directory, old)
    try:
        os.rename(building, directory)
    except OSError:
        if old.exists():
            os.rename(old, directory)
        raise
    shutil.rmtree(old, ignore_errors=True)
