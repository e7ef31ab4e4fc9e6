"""The rows of a source, one at a time: from files, the Hub or the synthetic pool, filtered, grouped and numbered."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from curate.data.columnar import BATCH, Fields, Record, class_names, dicts
from curate.data.conversation import Rejection
from curate.data.files import is_table, records
from curate.data.locate import paths
from curate.data.source import Scalar, Source, require
from curate.errors import DataError

OnBadRow = Literal["error", "quarantine"]


@dataclass(frozen=True)
class RawRow:
    """One row as it was found; `problem` says why it could not even be read."""

    origin: str  # file:line, or file:row
    group: str
    fields: Fields
    id: str | None = None
    problem: Rejection | None = None


def read(source: Source, folder: Path, *, on_bad_row: OnBadRow = "error") -> Iterator[RawRow]:
    """The rows after `where` and `limit`, in file order and constant memory; `sample` is drawn by `curate.data.load`.

    Paths are relative to `folder`. DataError for a missing file or column, files that disagree, a line that cannot be
    parsed (unless on_bad_row is "quarantine"), and when no row is left.
    """
    empty = True
    for row in islice(_matching(source, folder, on_bad_row), source.limit):
        empty = False
        yield row
    if empty:
        raise DataError(f"{source.label}: {_why_empty(source, folder, on_bad_row)}; check the path and the filter")


def _why_empty(source: Source, folder: Path, on_bad_row: OnBadRow) -> str:
    unfiltered = source.model_copy(update={"where": {}})
    seen = sum(1 for _ in _matching(unfiltered, folder, on_bad_row))
    counts = []
    for column, wanted in source.where.items():
        matching = sum(1 for row in _matching(unfiltered, folder, on_bad_row) if _accepts(wanted, row.fields.get(column)))
        counts.append(f"{column}: {ascii(wanted)} matches {matching}")
    return f"no row is left of {seen} ({', '.join(counts)})" if seen else "it has no rows"


def _matching(source: Source, folder: Path, on_bad_row: OnBadRow) -> Iterator[RawRow]:
    for origin, stem, (_, fields, problem) in _records(source, folder):
        if problem is not None:
            if on_bad_row == "error" and problem.reason != "too_large":
                raise DataError(f"{origin}: {problem.reason} ({problem.detail}); mend the line, or set hygiene.on_bad_row: quarantine to leave it out")
            yield RawRow(origin, _clean(_literal_group(source) or stem), fields, problem=problem)
        elif all(_accepts(wanted, fields.get(column)) for column, wanted in source.where.items()):
            yield RawRow(origin, _group(source, fields, stem), _licensed(source, fields), id=_own_id(source, fields, origin))


def _licensed(source: Source, fields: Fields) -> Fields:
    """The fields, with the licence that the recipe gives for the source where the row has none."""
    return {**fields, "license": source.license} if source.license and not fields.get("license") else fields


def _records(source: Source, folder: Path) -> Iterator[tuple[str, str, Record]]:
    """(origin, default group, record) of every row, once the first row of each file has been compared with the first of all."""
    if source.path is None:
        name = source.hub or f"synthetic-{source.synthetic}"
        rows = _hub_rows(source) if source.hub is not None else _synthetic_rows(source)
        for number, fields in enumerate(rows, 1):
            if number == 1:
                _check_columns(source, fields)
            yield f"{name}:{number}", name.rpartition("/")[2], (number, fields, None)
        return
    first: tuple[Path, Fields] | None = None
    for path in paths(source, folder):
        name = _clean(str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path))
        unseen = True
        for record in records(path):
            if unseen and record[2] is None:
                unseen = False
                first = first or (path, record[1])
                _check_agreement(first, (path, record[1]))
                _check_columns(source, record[1])
            yield f"{name}:{record[0]}", path.name.partition(".")[0], record


def _check_columns(source: Source, fields: Fields) -> None:
    for column in source.where:
        require(column, fields, f"{source.label}: where")
    if source.id is not None:
        require(source.id, fields, f"{source.label}: id")
    if source.group is not None and _literal_group(source) is None:
        require(source.group, fields, f"{source.label}: group (write label:{source.group} to give all rows this group)")


def _check_agreement(first: tuple[Path, Fields], other: tuple[Path, Fields]) -> None:
    (path, columns), (there, found) = first, other
    if is_table(path) and is_table(there) and columns.keys() != found.keys():
        odd = sorted(columns.keys() ^ found.keys())[0]
        raise DataError(f"{there}: column {odd!r} is {'missing' if odd in columns else 'new'}, compared with {path}; make them separate sources")
    for name in columns.keys() & found.keys():
        if columns[name] is not None and found[name] is not None and type(columns[name]) is not type(found[name]):
            kinds = f"{type(found[name]).__name__}, but {type(columns[name]).__name__}"
            raise DataError(f"{there}: column {name!r} holds {kinds} in {path}; make them separate sources or convert one")


def _accepts(wanted: Scalar | list[Scalar], value: Any) -> bool:
    """Equality, also with a number that a text file could only spell."""
    return any(value == one or (isinstance(value, str) and value == str(one)) for one in (wanted if isinstance(wanted, list) else [wanted]))


def _literal_group(source: Source) -> str | None:
    return source.group.removeprefix("label:") if source.group is not None and source.group.startswith("label:") else None


def _group(source: Source, fields: Fields, stem: str) -> str:
    literal = _literal_group(source)
    return _clean(literal or (stem if source.group is None else str(fields.get(source.group))))


def _clean(text: str) -> str:
    """Text that any file can hold: bytes that were no UTF-8 are spelled out."""
    return text.encode("utf-8", "backslashreplace").decode()


def _own_id(source: Source, fields: Fields, origin: str) -> str | None:
    if source.id is None:
        return None
    name = fields.get(source.id)
    text = str(name) if isinstance(name, str | int) else ""
    if not 0 < len(text) <= 256 or not text.isprintable():
        raise DataError(f"{origin}: {ascii(name)[:60]} in column {source.id!r} is no id; ids are 1 to 256 printable characters or whole numbers")
    return text


def _synthetic_rows(source: Source) -> Iterator[Fields]:
    from curate.data.synthetic import instructions

    return iter(instructions(source.synthetic or "pool", source.rows or 0, source.seed))


def _hub_rows(source: Source) -> Iterator[Fields]:
    import datasets

    if Path(source.hub or "").exists():
        raise DataError(f"hub dataset {source.hub}: a folder of that name is here, and would be read in its place; write path: for the folder")
    try:
        data = datasets.load_dataset(source.hub, source.config, revision=source.revision, split=source.split, data_files=source.files)
        if isinstance(data, dict) and len(data) > 1:
            raise DataError(f"hub dataset {source.hub}: no split is chosen; add split: with one of {', '.join(data)}")
        table = next(iter(data.values())) if isinstance(data, dict) else data
        names = class_names(table.features.arrow_schema)
        for batch in table.with_format("arrow").iter(batch_size=BATCH):
            yield from dicts(batch, names)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        if isinstance(error, DataError):
            raise
        reason = ascii(str(error).partition("\n")[0][:200])
        raise DataError(f"hub dataset {source.hub}: cannot be read ({type(error).__name__}: {reason}); check the name, the revision and the network") from error
