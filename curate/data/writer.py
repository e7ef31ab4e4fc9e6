"""Rows to examples on disk, each under a stable id, used or set aside, and none lost."""

import io
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

import numpy as np

from curate.core import Row, Strings
from curate.data.conversation import Conversation, Rejection
from curate.data.examples import INDEX, QUARANTINE, shard_name
from curate.data.ledger import Ledger, reconcile
from curate.data.load import Parsed
from curate.data.table import table_bytes
from curate.errors import IntegrityError

BATCH = 256  # rows per call of the tokenizer
MAX_SOURCE = 8 * 2**20
SHARD_BYTES = 64 * 2**20

Write = Callable[[str, bytes], Any]


class Encodes(Protocol):
    """What the writer needs of an encoder."""

    @property
    def max_length(self) -> int: ...
    def encode(self, conversations: Sequence[Conversation]) -> list[Row | Rejection]: ...
    def special_tokens_in(self, conversation: Conversation) -> int: ...


@dataclass
class Shards:
    """The used rows: written in files of a fixed number of rows (fewer where they are large), described by columns."""

    write: Write
    shard_rows: int
    ordinals: "array[int]" = field(default_factory=lambda: array("q"))
    files: "array[int]" = field(default_factory=lambda: array("l"))
    positions: "array[int]" = field(default_factory=lambda: array("l"))
    lengths: "array[int]" = field(default_factory=lambda: array("l"))
    supervised: "array[int]" = field(default_factory=lambda: array("l"))
    groups: list[str] = field(default_factory=list)  # one object per distinct name
    pending: list[dict[str, Any]] = field(default_factory=list)
    pending_bytes: int = 0
    written: int = 0
    names: dict[str, str] = field(default_factory=dict)

    def add(self, ordinal: int, group: str, row: Row, texts: Mapping[str, str]) -> None:
        """Take one row; a file that is full is written."""
        self.ordinals.append(ordinal)
        self.files.append(self.written)
        self.positions.append(len(self.pending))
        self.lengths.append(len(row.input_ids))
        self.supervised.append(int(row.supervised.sum()))
        self.groups.append(self.names.setdefault(group, group))
        self.pending.append({**texts, "input_ids": row.input_ids, "supervised": row.supervised})
        self.pending_bytes += 5 * len(row.input_ids) + sum(map(len, texts.values()))
        if len(self.pending) >= self.shard_rows or self.pending_bytes >= SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write the rows that wait."""
        import pyarrow as pa

        if not self.pending:
            return
        tokens = {"input_ids": pa.list_(pa.int32()), "supervised": pa.list_(pa.bool_())}
        kinds = {"content": pa.string(), **tokens, "messages": pa.large_string(), "source": pa.large_string()}
        batch = pa.record_batch({name: pa.array([row[name] for row in self.pending], kind) for name, kind in kinds.items()})
        stream = io.BytesIO()
        with pa.ipc.new_file(stream, batch.schema) as file:
            file.write_batch(batch)
        self.write(shard_name(self.written), stream.getvalue())
        self.pending, self.pending_bytes, self.written = [], 0, self.written + 1


@dataclass
class Aside:
    """The rows that were set aside, and why."""

    ordinals: "array[int]" = field(default_factory=lambda: array("q"))
    rejections: list[Rejection] = field(default_factory=list)

    def add(self, ordinal: int, rejection: Rejection) -> None:
        """Take one row."""
        self.ordinals.append(ordinal)
        self.rejections.append(rejection)


def write_examples(rows: Iterable[Parsed], encoder: Encodes, write: Write, *, shard_rows: int = 16384) -> dict[str, Any]:
    """Encode all rows and write them through `write(name, bytes)`; the summary, as JSON.

    Ids, and so the order of the examples, depend on the content of the rows alone. Memory grows by some hundred bytes
    a row. DataError for a repeated id; IntegrityError unless every row was either used or set aside, by id.
    """
    ledger, shards, aside = Ledger(), Shards(write, shard_rows), Aside()
    escaped = 0
    stream = iter(rows)
    while batch := list(islice(stream, BATCH)):
        ordinals = [ledger.enter(parsed) for parsed in batch]
        for ordinal, parsed, outcome in zip(ordinals, batch, _encode(batch, encoder), strict=True):
            if isinstance(outcome, Rejection):
                aside.add(ordinal, outcome)
            elif isinstance(parsed.meaning, Conversation):
                escaped += encoder.special_tokens_in(parsed.meaning)
                shards.add(ordinal, parsed.row.group, outcome, _texts(parsed, parsed.meaning, ledger.key(ordinal)))
    shards.flush()
    ids = ledger.ids()
    used = _write_index(shards, ids)
    refused = _write_quarantine(aside, ids, ledger, write)
    reconcile(ids, used, refused)
    return {
        "rows_in": len(ledger),
        "used": len(used),
        "quarantined": dict(sorted(Counter(rejection.reason for rejection in aside.rejections).items())),
        "tokens": sum(shards.lengths),
        "supervised_tokens": sum(shards.supervised),
        "groups": dict(sorted(Counter(shards.groups).items())),
        "special_tokens_escaped": escaped,
        "max_length": encoder.max_length,
    }


def _encode(batch: Sequence[Parsed], encoder: Encodes) -> Iterator[Row | Rejection]:
    """The outcome of each row, in order."""
    meanings = [_meaning(parsed) for parsed in batch]
    conversations = [meaning for meaning in meanings if isinstance(meaning, Conversation)]
    outcomes = encoder.encode(conversations)
    if len(outcomes) != len(conversations):
        raise IntegrityError(f"rows do not reconcile: {len(conversations)} were encoded, {len(outcomes)} came back; please report this")
    encoded = iter(outcomes)
    for meaning in meanings:
        yield meaning if isinstance(meaning, Rejection) else next(encoded)


def _meaning(parsed: Parsed) -> Conversation | Rejection:
    size = len(parsed.source_json) if isinstance(parsed.meaning, Conversation) else 0
    return parsed.meaning if size <= MAX_SOURCE else Rejection("too_large", f"its columns hold {size} bytes, at most {MAX_SOURCE} are kept")


def _texts(parsed: Parsed, meaning: Conversation, key: bytes) -> dict[str, str]:
    messages = "{}" if meaning.tokens is not None else meaning.canonical().decode("ascii")
    return {"content": key.hex(), "messages": messages, "source": parsed.source_json}


def _write_index(shards: Shards, ids: Strings) -> Strings:
    import pyarrow as pa

    mine = ids[np.asarray(shards.ordinals, np.int64)]
    order = np.argsort(mine, kind="stable")
    columns = {
        "id": pa.array(mine[order].tolist(), pa.string()),
        "file": pa.array(np.asarray(shards.files, np.int32)[order]),
        "row": pa.array(np.asarray(shards.positions, np.int32)[order]),
        "length": pa.array(np.asarray(shards.lengths, np.int32)[order]),
        "supervised": pa.array(np.asarray(shards.supervised, np.int32)[order]),
        "group": pa.array([shards.groups[row] for row in order], pa.string()),
    }
    _write_table(shards.write, INDEX, columns)
    return mine[order]


def _write_quarantine(aside: Aside, ids: Strings, ledger: Ledger, write: Write) -> Strings:
    import pyarrow as pa

    mine = ids[np.asarray(aside.ordinals, np.int64)]
    order = np.argsort(mine, kind="stable")
    columns = {
        "id": mine[order].tolist(),
        "reason": [aside.rejections[row].reason for row in order],
        "detail": [aside.rejections[row].detail for row in order],
        "origin": [ledger.origin(aside.ordinals[row]) for row in order],
    }
    _write_table(write, QUARANTINE, {name: pa.array(values, pa.string()) for name, values in columns.items()})
    return mine[order]


def _write_table(write: Write, name: str, columns: Mapping[str, Any]) -> None:
    import pyarrow as pa

    write(name, table_bytes(pa.table(columns)))
