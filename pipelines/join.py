"""Join: the features of a pool that grew, copied row by row from those of the pool before and of the rows that came; nothing is scored again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.core import Artifact, Integers, Strings
from curate.data.examples import opened
from curate.errors import IntegrityError
from curate.features import map_tensors
from curate.features import quarantined as unscored
from curate.order import places
from curate.pipelines.score import SHARD_ROWS
from curate.pipelines.session import Session
from curate.store import Workspace

VERSION = 1
_WHOLE = ("width",)  # tensors of a shard that are not by row


@dataclass(frozen=True)
class Part:
    """Stored features by the ids of their rows."""

    artifact: Artifact
    ids: Strings  # (n,) of the rows that have numbers, sorted
    shard: Integers  # (n,) the shard that holds each row
    place: Integers  # (n,) and where in it
    aside: Mapping[str, str]  # the reason of each row that has none

    @classmethod
    def of(cls, artifact: Artifact, examples: Path) -> "Part":
        names = artifact.manifest["summary"]["shards"]
        rows = [np.array(map_tensors(artifact.path / name)["rows"], np.int64) for name in names]
        numbers = np.concatenate(rows) if rows else np.zeros(0, np.int64)
        shard = np.repeat(np.arange(len(rows)), [len(some) for some in rows])
        place = np.concatenate([np.arange(len(some)) for some in rows]) if rows else numbers
        return cls(artifact, opened(examples).ids[numbers], shard, place, dict(unscored(artifact)))

    def tensors(self, number: int) -> Mapping[str, NDArray[Any]]:
        """The tensors of a shard, mapped."""
        return _mapped(self.artifact.path / self.artifact.manifest["summary"]["shards"][number])


@lru_cache(maxsize=64)
def _mapped(path: Path) -> Mapping[str, NDArray[Any]]:
    return map_tensors(path)


def join(session: Session, label: str, old: Artifact, new: Artifact | None, pool: Artifact) -> Artifact:
    """The features of `pool` from those of the pool before and those of the rows added, bit by bit as they are stored."""
    sources = [old, *([new] if new else [])]

    def make(workspace: Workspace) -> Mapping[str, Any]:
        parts = [Part.of(source, session.store.root / source.manifest["inputs"][0]) for source in sources]
        return _write(workspace, parts, opened(pool.path).ids)

    fields = {**old.manifest["fields"], "joined": VERSION}
    inputs = [pool.key, *(source.key for source in sources)]
    return session.build("features", label, make, fields=fields, inputs=inputs, version=int(old.manifest["version"]))


def _write(workspace: Workspace, parts: Sequence[Part], ids: Strings) -> dict[str, Any]:
    names, done = [], []
    for start in range(0, len(ids), SHARD_ROWS):
        names.append(f"shard-{start // SHARD_ROWS:06d}.safetensors")
        done.append(_shard(workspace, names[-1], parts, ids[start : start + SHARD_ROWS], start))
    summary = parts[0].artifact.manifest["summary"]
    return {
        "shards": names,
        "rows": sum(info["rows"] for info in done),
        "width": summary["width"],
        "bytes": sum(info["bytes"] for info in done),
        "stored": summary["stored"],
        "storage_error": _worst([part.artifact.manifest["summary"]["storage_error"] for part in parts]),
    }


def _worst(errors: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The larger of the errors that were measured of the parts."""
    return {name: max(error[name] for error in errors if name in error) for name in sorted({name for error in errors for name in error})}


def _shard(workspace: Workspace, name: str, parts: Sequence[Part], ids: Strings, start: int) -> dict[str, Any]:
    """One shard of the pool's rows, those of the first part that has each."""
    from safetensors.numpy import save

    found = np.full(len(ids), -1)
    where = np.full(len(ids), -1)
    for number, part in enumerate(parts):
        here = places(ids, part.ids)
        fresh = (found < 0) & (here >= 0)
        found[fresh], where[fresh] = number, here[fresh]
    aside = [[str(row), _reason(parts, str(row))] for row in ids[found < 0]]
    kept = np.flatnonzero(found >= 0)
    tensors = _gathered(parts, found[kept], where[kept])
    data = save({"rows": np.ascontiguousarray(kept + start, np.int64), **tensors})
    return workspace.commit(name, data, {"rows": len(kept), "width": parts[0].artifact.manifest["summary"]["width"], "quarantined": aside, "storage_error": {}})


def _reason(parts: Sequence[Part], row: str) -> str:
    for part in parts:
        if row in part.aside:
            return part.aside[row]
    raise IntegrityError(f"row {row} of the pool was neither scored nor set aside; run the recipe again")


def _gathered(parts: Sequence[Part], found: Integers, where: Integers) -> dict[str, NDArray[Any]]:
    """The stored numbers of these rows, in their order, without decoding them."""
    out: dict[str, NDArray[Any]] = {}
    for number, part in enumerate(parts):
        shards = _shards(part, found, where, number)
        for shard in np.unique(shards[shards >= 0]):
            mine = shards == shard
            tensors = part.tensors(int(shard))
            for name, tensor in tensors.items():
                if name in _WHOLE:
                    out[name] = np.array(tensor)
                elif name != "rows":
                    out.setdefault(name, np.zeros((len(found), *tensor.shape[1:]), tensor.dtype))[mine] = tensor[part.place[where[mine]]]
    return out or {"values": np.zeros(0, np.float32)}


def _shards(part: Part, found: Integers, where: Integers, number: int) -> Integers:
    """(n,) the shard of each row that this part has, -1 for the others."""
    shards = np.full(len(found), -1)
    mine = found == number
    shards[mine] = part.shard[where[mine]]
    return shards
