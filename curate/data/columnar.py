"""Rows of columnar files, a few hundred at a time."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from curate.data.conversation import Rejection

BATCH = 256

Fields = dict[str, Any]
Record = tuple[int, Fields, Rejection | None]


def parquet(path: Path) -> Iterator[Record]:
    """The rows of a parquet file, whose page checksums are verified where it has any."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        names = class_names(file.schema_arrow)
        for start, batch in _numbered(file.iter_batches(batch_size=BATCH)):
            yield from ((start + offset, fields, None) for offset, fields in enumerate(dicts(batch, names)))


def arrow(path: Path) -> Iterator[Record]:
    """The rows of an Arrow file or stream; `datasets` saves streams."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        is_file = source.read(6) == b"ARROW1"
        source.seek(0)
        reader = pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)
        names = class_names(reader.schema)
        batches = (reader.get_batch(index) for index in range(reader.num_record_batches)) if is_file else reader
        small = (batch.slice(start, BATCH) for batch in batches for start in range(0, len(batch), BATCH))
        for start, batch in _numbered(small):
            yield from ((start + offset, fields, None) for offset, fields in enumerate(dicts(batch, names)))


def _numbered(batches: Iterator[Any]) -> Iterator[tuple[int, Any]]:
    start = 1
    for batch in batches:
        yield start, batch
        start += len(batch)


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
