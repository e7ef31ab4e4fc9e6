"""How many rows a source will give, counted without reading them where the format allows it."""

from pathlib import Path
from typing import Any

from curate.data.columnar import Fields
from curate.data.files import CODECS, records
from curate.data.load import Parsed
from curate.data.locate import paths, pinned
from curate.data.source import Source

SMALL = 4 * 2**20  # bytes of a file whose records are simply counted
PIECE = 2**23  # decoded bytes from which the length of a line is taken


def scanned_and_kept(source: Source, folder: Path, sample: list[Parsed]) -> tuple[int, int]:
    """(rows that must be read, rows that are left after `where`, `limit` and `sample`); `sample` holds the first rows that pass the filter."""
    total, share = rows_in(source, folder), _share(sample) if source.where else 1.0
    matching = round(total * share)
    if source.sample is not None:
        return 2 * total, min(matching, source.sample)  # two passes: one finds the draw, one yields it
    kept = min(matching, source.limit or matching)
    return (min(total, round(kept / share)) if source.limit else total), kept


def rows_in(source: Source, folder: Path) -> int:
    """Rows before any filter: exact for generated rows, parquet, Hub datasets and small files, by the length of the first lines for the rest."""
    if source.synthetic is not None:
        return source.rows or 0
    if source.hub is not None:
        return _hub_rows(pinned(source))
    return sum(_file_rows(path) for path in paths(source, folder))


def bytes_hashed(source: Source, folder: Path) -> int:
    """Bytes of the files whose hashes stand for the source's content."""
    return sum(path.stat().st_size for path in paths(source, folder)) if source.path is not None else 0


def _share(sample: list[Parsed]) -> float:
    """The share of rows that pass the filter, by the numbers of those of the first file that did."""
    name = sample[0].row.origin.rpartition(":")[0]
    numbers = [int(parsed.row.origin.rpartition(":")[2]) for parsed in sample if parsed.row.origin.rpartition(":")[0] == name]
    return len(numbers) / max(numbers)


def _file_rows(path: Path) -> int:
    import pyarrow.parquet as pq

    with path.open("rb") as file:
        head = file.read(64)
    if head[:4] == b"PAR1":
        return int(pq.read_metadata(path).num_rows)
    size = path.stat().st_size
    if size <= SMALL or _is_list(path, head):
        return sum(1 for _ in records(path))
    if head[:6] == b"ARROW1" or path.suffix == ".arrow":
        return _by_bytes(path, size)
    return _by_lines(path, head, size)


def _is_list(path: Path, head: bytes) -> bool:
    """A JSON list, which is read whole in any case."""
    return path.suffix == ".json" and head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["


def _by_lines(path: Path, head: bytes, size: int) -> int:
    """By the lines in the first piece, and the stored bytes that it came from."""
    import pyarrow as pa

    codec = CODECS.get(head[:2])
    with path.open("rb") as raw:
        stream: Any = pa.CompressedInputStream(pa.PythonFile(raw), codec) if codec else raw
        piece = bytes(stream.read(PIECE))
        stored = raw.tell()
    return max(1, round(piece.count(b"\n") / max(1, stored) * size))


def _by_bytes(path: Path, size: int) -> int:
    """By the text of the first records: what Arrow stores is about as long."""
    first: list[Fields] = []
    for _, fields, _ in records(path):
        first.append(fields)
        if len(first) == 256:
            break
    mean = sum(len(str(value)) for fields in first for value in fields.values()) / max(1, len(first))
    return max(len(first), round(size / max(1.0, mean)))


def _hub_rows(source: Source) -> int:
    import datasets

    table = datasets.load_dataset(source.hub, source.config, revision=source.revision, split=source.split, data_files=source.files)
    return len(next(iter(table.values())) if isinstance(table, dict) else table)
