"""Features on disk: one safetensors file per shard, read through memory maps as if it were one array.

A shard holds `rows`, the numbers of its rows in the order of the examples, and `values` (n, D) or (n,) in one of the
formats of curate/storage.py, which read back as float32. Rows that gave no usable number are not in it; the shard's
sidecar names them with a reason.
"""

import json
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from curate.core import Artifact, Content, Examples, Features, Integers
from curate.errors import DataError, IntegrityError
from curate.intact import require_whole
from curate.storage import Stored, encode, stored_rows
from curate.store import read_json

_DTYPES = {"F32": np.float32, "F64": np.float64, "I64": np.int64, "F16": np.float16, "I8": np.int8, "U8": np.uint8}


def shard_bytes(rows: Integers, values: NDArray[np.float32], stored: Stored = "float32", names: Any = None) -> bytes:
    """One shard as safetensors; a NumericError names the row that the format cannot hold, by `names` or else its number in `rows`."""
    from safetensors.numpy import save

    numbers = np.ascontiguousarray(rows, np.int64)
    return save({"rows": numbers, **encode(values, stored, numbers if names is None else names)})


def map_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a safetensors file, as they are stored, through one read-only memory map."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > 1 << 20:
            raise IntegrityError(f"{path} is no safetensors file of ours: its header claims {size} bytes")
        header = json.loads(file.read(size))
        mapped_file = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # one for all tensors, which keep it alive
    data = np.frombuffer(mapped_file, np.uint8)[8 + size :]
    mapped: dict[str, NDArray[Any]] = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            mapped[name] = data[begin:end].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return mapped


@dataclass(frozen=True)
class Shard:
    """The rows of one file, mapped while they are read: thousands of files cannot all be open at once."""

    path: Path
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def dtype(self) -> Any:
        return np.dtype(np.float32)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        return np.asarray(_mapped(self.path)[key])


@lru_cache(maxsize=64)
def _mapped(path: Path) -> Any:
    return stored_rows(map_tensors(path))


@dataclass(frozen=True)
class ShardedRows:
    """Rows of several arrays as one read-only array; `where` maps a row to its place in their concatenation.

    A part is an array, `StoredRows` or a `Shard`; only the rows that are asked for are read and decoded.
    """

    parts: Sequence[Any]  # each (n, D) or (n,), of one dtype
    starts: Integers  # (S + 1,) first row of each part
    where: Integers  # (N,)

    @classmethod
    def of(cls, parts: Sequence[Any]) -> "ShardedRows":
        starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
        return cls(parts, starts, np.arange(starts[-1]))

    def __len__(self) -> int:
        return len(self.where)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.where), *self.parts[0].shape[1:]) if self.parts else (0,)

    @property
    def dtype(self) -> Any:
        return self.parts[0].dtype if self.parts else np.dtype(np.float32)

    def take(self, rows: Integers) -> "ShardedRows":
        """The same rows, fewer or in another order, without reading them."""
        return ShardedRows(self.parts, self.starts, self.where[rows])

    def __getitem__(self, key: Any) -> NDArray[Any]:
        places = np.atleast_1d(self.where[key])
        out = np.empty((len(places), *self.shape[1:]), self.dtype)
        part = np.searchsorted(self.starts, places, side="right") - 1
        for number in np.unique(part):
            chosen = part == number
            out[chosen] = self.parts[number][places[chosen] - self.starts[number]]
        return out[0] if np.ndim(self.where[key]) == 0 else out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype)


def quarantined(artifact: Artifact) -> list[tuple[str, str]]:
    """(id, reason) of the rows that the scorer had to set aside."""
    require_whole(artifact)
    sidecars = [read_json(artifact.path / f"{name}.json") for name in artifact.manifest["summary"]["shards"]]
    return [(str(row), str(reason)) for sidecar in sidecars for row, reason in sidecar["quarantined"]]


def open_features(
    examples: Examples, vectors: Artifact | None = None, scores: Artifact | None = None, similarity: Artifact | None = None
) -> tuple[Features, Integers]:
    """The rows that every given feature has numbers for, and their positions among the examples.

    `similarity` holds (n, M) similarities to the target's rows, its columns in the order of their ids.
    """
    given = {"vectors": vectors, "scores": scores, "similarity": similarity}
    opened = {name: _open(artifact) for name, artifact in given.items() if artifact}
    kept = np.arange(len(examples))
    for rows, _ in opened.values():
        kept = np.intersect1d(kept, rows, assume_unique=True)
    if not len(kept):
        raise DataError("no row has usable features; see the quarantine in the report")
    arrays: dict[str, Any] = {name: values.take(np.searchsorted(rows, kept)) for name, (rows, values) in opened.items()}
    if "scores" in arrays:
        arrays["scores"] = np.asarray(arrays["scores"][:], np.float64)
    return features_of(examples, kept, **arrays), kept


def features_of(examples: Examples, rows: Integers, **arrays: Any) -> Features:
    """Features of these rows, with what they say; rows are read when they are asked for."""
    named = {name: getattr(examples, name)[rows] for name in ("ids", "lengths", "groups", "supervised")}
    return Features(**named, content=Contents(examples, rows), **arrays)


@dataclass(frozen=True)
class Contents(Sequence[Content]):
    """What rows of the examples say."""

    examples: Examples
    where: Integers  # (N,)

    def __len__(self) -> int:
        return len(self.where)

    @overload
    def __getitem__(self, row: int) -> Content: ...
    @overload
    def __getitem__(self, row: slice) -> "Contents": ...
    def __getitem__(self, row: int | slice) -> "Content | Contents":
        return Contents(self.examples, self.where[row]) if isinstance(row, slice) else self.examples.rows[int(self.where[row])].content

    def take(self, rows: Integers) -> "Contents":
        """The same rows, fewer or in another order, without reading them."""
        return Contents(self.examples, self.where[rows])


def _open(artifact: Artifact) -> tuple[Integers, ShardedRows]:
    require_whole(artifact)
    return open_shards([artifact.path / name for name in artifact.manifest["summary"]["shards"]])


def open_shards(paths: Sequence[Path]) -> tuple[Integers, ShardedRows]:
    """The numbers of the rows in these files, ascending, and the rows themselves, which are read when they are asked for; IntegrityError."""
    rows: list[Integers] = []
    shards: list[Shard] = []
    for path in paths:
        tensors = map_tensors(path)
        if len(tensors["rows"]):
            rows.append(np.array(tensors["rows"], np.int64))
            shards.append(Shard(path, tuple(stored_rows(tensors).shape)))
    numbers = np.concatenate(rows) if rows else np.zeros(0, np.int64)
    if (odd := np.flatnonzero(np.diff(numbers) <= 0)).size:
        raise IntegrityError(f"{paths[0].parent}: rows do not reconcile: row {numbers[odd[0] + 1]} comes after row {numbers[odd[0]]}; please report this")
    return numbers, ShardedRows.of(shards)
