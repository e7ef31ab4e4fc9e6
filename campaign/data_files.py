"""Data files that were made to take memory or to say what is not so, each of a few kilobytes."""

import gzip
import io
from collections.abc import Sequence
from typing import Any


def parquet_of(rows: Sequence[dict[str, Any]], **options: Any) -> bytes:
    """These rows as a parquet file."""
    import pyarrow
    from pyarrow import parquet

    file = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(list(rows)), file, **options)
    return file.getvalue()


def huge_row(megabytes: int) -> bytes:
    """Thirty rows, one of them with a text of so many megabytes."""
    rows = [{"prompt": f"What is {number}?", "completion": "x"} for number in range(29)]
    return parquet_of([*rows, {"prompt": "a" * (megabytes * 2**20), "completion": "x"}], compression="zstd")


def parquet_bomb(megabytes: int, rows: int) -> bytes:
    """Rows that share one text of so many megabytes, which the file holds once, in its dictionary."""
    import pyarrow
    from pyarrow import parquet

    shared = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * rows, pyarrow.int32()), pyarrow.array(["a" * (megabytes * 2**20)]))
    table = pyarrow.table({"prompt": shared, "completion": pyarrow.array(["x"] * rows)})
    plain = table.set_column(0, pyarrow.field("prompt", pyarrow.dictionary(pyarrow.int32(), pyarrow.string())), shared)
    file = io.BytesIO()
    parquet.write_table(plain, file, compression="zstd", store_schema=False, dictionary_pagesize_limit=2**31 - 1)
    return file.getvalue()


def forged_page() -> bytes:
    """A page that says that it unpacks to 2 GiB."""
    size = 2**27 + 100
    raw = parquet_of([{"prompt": "a" * size, "completion": "x"}], compression="zstd", use_dictionary=False, data_page_size=2**30, write_statistics=False)
    at = next(place for extra in range(64) if (place := raw.find(_varint(size + extra))) > 0)
    return raw[:at] + _varint(2**31 - 1) + raw[at + 5 :]


def footless(raw: bytes) -> bytes:
    """A parquet file without its end."""
    return raw[:-20]


def gzip_bomb(megabytes: int) -> bytes:
    """Zeros in members of 64 MiB each, unpacked; a few hundred kilobytes."""
    return gzip.compress(b"\0" * (64 * 2**20)) * (megabytes // 64)


def _varint(number: int) -> bytes:
    """A number as the header of a page has it: zigzag, seven bits a byte."""
    left, found = number << 1, bytearray()
    while left > 127:
        found.append(left & 127 | 128)
        left >>= 7
    return bytes([*found, left])
