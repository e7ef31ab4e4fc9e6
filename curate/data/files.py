"""One file as numbered records: JSON lines, JSON, CSV, parquet or Arrow, compressed or not, in constant memory.

Text that is not UTF-8 arrives with lone surrogates in place of the bad bytes, so that the row, not the file, is refused.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from curate.data import columnar
from curate.data.columnar import Fields, Record
from curate.data.conversation import Rejection, digest
from curate.errors import DataError

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow")
CODECS = {b"\x1f\x8b": "gzip", b"\x28\xb5": "zstd"}
MAX_LINE = 64 * 2**20
MAX_JSON = 256 * 2**20
MAX_INFLATION = 200  # decoded bytes per stored byte: no real text compresses like that
ALWAYS_DECODED = 2**30


def records(path: Path) -> Iterator[Record]:
    """(number, fields, problem) of each record; lines count from 1. DataError names the file if it cannot be read."""
    import pyarrow as pa

    try:
        yield from _reader(path)(path)
    except (OSError, EOFError, ValueError, MemoryError, RecursionError, pa.ArrowException) as error:
        if isinstance(error, DataError):
            raise
        reason = ascii(str(error).partition("\n")[0][:160])
        raise DataError(f"{path}: cannot be read ({type(error).__name__}: {reason}); the file is damaged or not of the kind that its name says") from error


def is_data(path: Path) -> bool:
    """Whether the name is that of a data file."""
    return _suffix(path) in SUFFIXES


def is_table(path: Path) -> bool:
    """Whether every row of the file has the same columns."""
    return _suffix(path) not in (".jsonl", ".ndjson", ".json")


def _suffix(path: Path) -> str:
    parts = [part for part in path.suffixes if part not in (".gz", ".zst", ".zstd")]
    return parts[-1].lower() if parts else ""


def _reader(path: Path) -> Callable[[Path], Iterator[Record]]:
    with path.open("rb") as file:
        head = file.read(6)
    if head[:4] == b"PAR1" or _suffix(path) == ".parquet":
        return columnar.parquet
    if head == b"ARROW1" or _suffix(path) == ".arrow":
        return columnar.arrow
    readers = {".jsonl": _json_lines, ".ndjson": _json_lines, ".json": _json, ".csv": _csv, ".tsv": _csv}
    if (reader := readers.get(_suffix(path))) is None:
        raise DataError(f"{path}: this kind of file is not read; the kinds are {', '.join(SUFFIXES)}, each also as .gz or .zst")
    return reader


def _open(path: Path) -> io.BufferedReader:
    import pyarrow as pa

    raw = path.open("rb")
    codec = CODECS.get(raw.peek(2)[:2])
    return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(raw), codec)) if codec else raw


def _lines(path: Path, stream: io.BufferedReader) -> Iterator[bytes | None]:
    """Lines without a byte order mark; None stands for one longer than MAX_LINE, which is skipped without being held."""
    decoded, allowed = 0, max(ALWAYS_DECODED, MAX_INFLATION * path.stat().st_size)
    first, skipping = True, False
    while line := stream.readline(MAX_LINE):
        decoded += len(line)
        if decoded > allowed:
            raise DataError(f"{path}: unpacks to more than {MAX_INFLATION} times its size; it is not read, unpack it yourself if you trust it")
        whole = line.endswith(b"\n") or len(line) < MAX_LINE
        if not skipping:
            yield (line.removeprefix(b"\xef\xbb\xbf") if first else line) if whole else None
        first, skipping = False, not whole


def _json_lines(path: Path) -> Iterator[Record]:
    with _open(path) as stream:
        for number, line in enumerate(_lines(path, stream), 1):
            if line is None:
                yield number, {}, Rejection("too_large", f"the line is longer than {MAX_LINE} bytes")
            elif line.strip():
                yield number, *_object(line)


def _object(line: bytes) -> tuple[Fields, Rejection | None]:
    try:
        value = json.loads(line.decode("utf-8", "surrogateescape"), object_pairs_hook=_distinct, parse_constant=_not_json)
        if not isinstance(value, dict):
            raise ValueError(f"a JSON object was expected, not {type(value).__name__}")
    except (ValueError, RecursionError) as error:
        return {"undecoded": digest(line).hex()}, Rejection("bad_json", _complaint(error))
    return value, None


def _complaint(error: Exception) -> str:
    """What is wrong with a line, in words about the line."""
    if isinstance(error, json.JSONDecodeError):
        return f"{ascii(error.msg)[1:-1]} at character {error.pos + 1}"
    if isinstance(error, RecursionError):
        return "values are nested too deep"
    return "a number has too many digits" if "integer string conversion" in str(error) else ascii(str(error)[:200])[1:-1]


def _distinct(pairs: list[tuple[str, Any]]) -> Fields:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key appears twice in one object")
    return fields


def _not_json(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


def _json(path: Path) -> Iterator[Record]:
    with _open(path) as stream:
        is_list = stream.peek(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["
        content = stream.read(MAX_JSON + 1) if is_list else b""
    if not is_list:
        yield from _json_lines(path)
        return
    if len(content) > MAX_JSON:
        raise DataError(f"{path}: one JSON list of more than {MAX_JSON} bytes is not read at once; write it as JSON lines (.jsonl) or parquet")
    with columnar.memory_limit(len(content)):  # a list of a million empty mappings takes many times its text
        values = json.loads(content.decode("utf-8-sig", "surrogateescape"), object_pairs_hook=_distinct, parse_constant=_not_json)
    for number, value in enumerate(values, 1):
        problem = None if isinstance(value, dict) else Rejection("bad_json", f"a JSON object was expected, not {type(value).__name__}")
        yield number, value if problem is None else {"undecoded": value}, problem


def _csv(path: Path) -> Iterator[Record]:
    csv.field_size_limit(MAX_LINE)
    with _open(path) as stream:
        text = (_csv_line(line) for line in _lines(path, stream))
        table = csv.reader(text, delimiter="\t" if _suffix(path) == ".tsv" else ",", strict=True)
        try:
            header = next(table, [])
            if len(set(header)) != len(header) or not all(header):
                raise DataError(f"{path}:1: the first line must name each column once; it is {', '.join(map(ascii, header))}")
            for values in table:
                if len(values) == len(header):
                    yield table.line_num, dict(zip(header, values, strict=True)), None
                elif values:
                    yield table.line_num, {"undecoded": values}, Rejection("bad_csv", f"{len(values)} values for {len(header)} columns")
        except csv.Error as error:
            raise DataError(f"{path}:{table.line_num}: is not CSV ({error}); quote values that hold separators, quotes or line breaks") from error


def _csv_line(line: bytes | None) -> str:
    if line is None:
        raise csv.Error(f"a line is longer than {MAX_LINE} bytes")
    return line.decode("utf-8", "surrogateescape")
