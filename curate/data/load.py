"""From sources to conversations: read, recognise, sample."""

import heapq
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path

from curate.data.conversation import Conversation, Rejection, digest
from curate.data.formats import Reading, recognise
from curate.data.read import OnBadRow, RawRow, read
from curate.data.source import Source
from curate.errors import DataError


@dataclass(frozen=True)
class Parsed:
    """A row and what it means, or why it means nothing."""

    row: RawRow
    meaning: Conversation | Rejection

    @cached_property
    def source_json(self) -> str:
        """The original fields as ASCII JSON; bytes, dates and decimals as text."""
        return json.dumps(self.row.fields, default=_as_text, separators=(",", ":"))

    @cached_property
    def key(self) -> bytes:
        """The hash of the content: of the conversation where there is one, of the fields as found otherwise."""
        return digest(self.meaning.canonical() if isinstance(self.meaning, Conversation) else self.source_json.encode())

    @cached_property
    def tie(self) -> bytes:
        """Tells rows of equal content apart by what else they carry, so that file order never has to."""
        return blake2b(f"{self.row.group}\n{self.source_json}".encode("utf-8", "surrogatepass"), digest_size=8).digest()


def load(sources: Iterable[Source], folder: Path, *, on_bad_row: OnBadRow = "error") -> Iterator[Parsed]:
    """The rows of all sources, one after the other, in constant memory. Errors are those of `read` and `recognise`."""
    for source in sources:
        yield from _sampled(source, folder, on_bad_row) if source.sample is not None else _parsed(source, folder, on_bad_row)


def _parsed(source: Source, folder: Path, on_bad_row: OnBadRow) -> Iterator[Parsed]:
    reading: Reading | None = None
    file = ""
    for row in read(source, folder, on_bad_row=on_bad_row):
        if row.problem is not None:
            yield Parsed(row, row.problem)
            continue
        there = row.origin.rpartition(":")[0]
        if reading is None or there != file:
            found = recognise(row.fields, source)
            if reading is not None and found != reading:
                raise DataError(f"{there}: reads as {found}, but {file} as {reading}; make them separate sources or give format")
            reading, file = found, there
        yield Parsed(row, reading.conversation(row.fields))


def _sampled(source: Source, folder: Path, on_bad_row: OnBadRow) -> Iterator[Parsed]:
    """The `sample` rows whose keyed hashes are smallest: one pass finds the largest of these, a second yields the rows.

    Rows that tie on everything they carry are the same row, so any of them will do.
    """
    size = source.sample or 0
    smallest = heapq.nsmallest(size, (_draw(source, parsed) for parsed in _parsed(source, folder, on_bad_row)))
    last = smallest[-1]
    ties = smallest.count(last)
    for parsed in _parsed(source, folder, on_bad_row):
        draw = _draw(source, parsed)
        if draw < last or (draw == last and ties > 0):
            ties -= draw == last
            yield parsed


def _draw(source: Source, parsed: Parsed) -> bytes:
    return blake2b(parsed.key, digest_size=16, key=f"sample {source.sample_seed}".encode()).digest() + parsed.tie


def _as_text(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
