"""Rows of columnar files, a few hundred at a time."""

import contextlib
import json
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from curate.data.conversation import Rejection

BATCH = 256
MOST_MEMORY = 2 * 2**30  # that a batch may take beyond what the process holds and what its file does on the disk

Fields = dict[str, Any]
Record = tuple[int, Fields, Rejection | None]
Rows = list[Fields]


def parquet(path: Path) -> Iterator[Record]:
    """The rows of a parquet file, whose page checksums are verified where it has any, and all of those that its footer counts."""
    return _numbered(_parquet(path), path)


def _parquet(path: Path) -> Iterator[Rows]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        names, seen = class_names(file.schema_arrow), 0
        for batch in file.iter_batches(batch_size=BATCH):
            seen += len(batch)
            yield list(dicts(batch, names))
        if seen != file.metadata.num_rows:
            raise ValueError(f"its footer counts {file.metadata.num_rows} rows, and {seen} are there")


def arrow(path: Path) -> Iterator[Record]:
    """The rows of an Arrow file or stream; `datasets` saves streams."""
    return _numbered(_arrow(path), path)


def _arrow(path: Path) -> Iterator[Rows]:
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        is_file = source.read(6) == b"ARROW1"
        source.seek(0)
        reader = pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)
        names = class_names(reader.schema)
        batches = (reader.get_batch(index) for index in range(reader.num_record_batches)) if is_file else reader
        for batch in batches:
            _validate(batch)
            for start in range(0, len(batch), BATCH):
                yield list(dicts(batch.slice(start, BATCH), names))


def _validate(batch: Any) -> None:
    """ValueError where offsets of a damaged file lead out of its buffers; text that is no UTF-8 is a matter of its row."""
    import pyarrow as pa

    binary = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}
    for column in batch.columns:
        (column.view(binary[column.type]) if column.type in binary else column).validate(full=True)


def _numbered(batches: Iterator[Rows], path: Path) -> Iterator[Record]:
    number = 0
    while True:
        with memory_limit(path.stat().st_size):
            batch = next(batches, None)
        if batch is None:
            return
        for fields in batch:
            number += 1
            yield number, fields, None


@contextlib.contextmanager
def memory_limit(stored: int) -> Iterator[None]:
    """A MemoryError instead of a process without memory, where a file unpacks to far more than the `stored` bytes; on Linux only.

    What a footer says of sizes proves nothing: a dictionary of one huge value, or a forged page header, takes hardly any bytes of the file.
    The limit is that of the whole process while one batch is decoded.
    """
    if sys.platform != "linux":
        yield
        return
    with open("/proc/self/statm", encoding="ascii") as file:
        held = int(file.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = held + MOST_MEMORY + stored
    resource.setrlimit(resource.RLIMIT_AS, (wanted if soft == resource.RLIM_INFINITY else min(soft, wanted), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def class_names(schema: Any) -> dict[str, list[str]]:
    """The names behind the integers of each label column that `datasets` wrote, from the schema's metadata."""
    features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    return {name: feature["names"] for name, feature in features.items() if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"}


def dicts(batch: Any, names: dict[str, list[str]]) -> Iterator[Fields]:
    """The rows of an Arrow batch, with labels by name."""
    columns = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        values = _values(column)
        known = names.get(name)
        columns[name] = values if known is None else [known[value] if isinstance(value, int) and 0 <= value < len(known) else None for value in values]
    for index in range(len(batch)):
        yield {name: values[index] for name, values in columns.items()}


def _values(column: Any) -> list[Any]:
    import pyarrow as pa

    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            raise
        binary = column.cast(pa.large_binary()).to_pylist()
        return [None if value is None else value.decode("utf-8", "surrogateescape") for value in binary]
