"""Immutable artifacts found by content, and the one way that bytes reach the disk.

    STORE/<stage>-<key>/        manifest.json names every file with its size and hash
    STORE/.part/<stage>-<key>/  the same while it is being built; its committed shards survive a crash

key = blake2b(stage, component version, canonical fields, input keys, numeric environment). A directory
under its final name is complete: it is filled under .part, the manifest is written last, then one rename.
Nothing is ever overwritten, and nothing is unpickled.
"""

import contextlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from curate import fault
from curate.core import Artifact
from curate.errors import DiskError, IntegrityError
from curate.locks import Notify as Notify
from curate.locks import locked as locked
from curate.locks import remove_temporaries

SCHEMA = 1
_ABOUT = {"manifest.json", "built.json"}  # what an artifact says of itself is none of its contents


def atomic_write(path: Path, data: bytes) -> str:
    """Write `data` so that `path` is either absent, old or whole, also after a power cut; returns its hash.

    A temporary file of its own in the same folder, flushed to the disk, renamed, and the folder flushed.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fault.point("open", temporary)
        with open(temporary, "wb") as file:
            fault.point("write", temporary, data)
            file.write(data)
            file.flush()
            fault.point("fsync", temporary)
            os.fsync(file.fileno())
        fault.point("rename", path)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise DiskError(f"cannot write {path}: {error.strerror or error}; free or mount the disk and run the same command again") from error
    return digest(data)


def digest(data: bytes) -> str:
    """The 128-bit blake2b of these bytes, in hexadecimal."""
    return blake2b(data, digest_size=16).hexdigest()


def file_digest(path: Path) -> str:
    """`digest` of a file, read in pieces."""
    state = blake2b(digest_size=16)
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            state.update(piece)
    return state.hexdigest()


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def read_json(path: Path) -> Any:
    """The JSON document in a file of ours, or an IntegrityError that names the file."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{path} is not readable JSON ({error}); remove it and run the same command again") from error


@dataclass(frozen=True)
class Workspace:
    """An artifact under construction. A shard is committed when its sidecar `<name>.json` exists and its bytes match."""

    path: Path

    def write(self, name: str, data: bytes) -> None:
        atomic_write(self.path / name, data)

    def commit(self, name: str, data: bytes, info: Mapping[str, Any]) -> dict[str, Any]:
        """Write a shard and then the sidecar that makes it count."""
        sidecar = {**info, "blake2b": atomic_write(self.path / name, data), "bytes": len(data)}
        atomic_write(self.path / f"{name}.json", canonical(sidecar))
        return sidecar

    def committed(self, name: str) -> dict[str, Any] | None:
        """The sidecar of a shard whose bytes are intact; a torn or changed shard is as good as absent."""
        sidecar, shard = self.path / f"{name}.json", self.path / name
        if not (sidecar.is_file() and shard.is_file()):
            return None
        try:
            info: dict[str, Any] = json.loads(sidecar.read_bytes())
        except ValueError:
            return None
        whole = info.get("bytes") == shard.stat().st_size and info.get("blake2b") == file_digest(shard)
        return info if whole else None


@dataclass(frozen=True)
class Request:
    """What an artifact is to be made of."""

    stage: str
    fields: Mapping[str, Any]
    inputs: Sequence[str] = ()
    version: int = 1


MakeTogether = Callable[[Sequence[Workspace | None]], Sequence[Mapping[str, Any] | None]]


class Store:
    """Artifacts under one folder. `notify` hears of waits and of damaged artifacts that are built again."""

    def __init__(self, root: Path, notify: Notify = lambda message: None) -> None:
        self.root = root
        self.notify = notify
        self.built: set[str] = set()  # keys that this object made rather than found
        self._verified: dict[str, Artifact] = {}

    def key(self, stage: str, version: int, fields: Mapping[str, Any], inputs: Sequence[str] = ()) -> str:
        """The content key of what `fields` makes of `inputs`."""
        return f"{stage}-{digest(canonical([SCHEMA, stage, version, fields, list(inputs)]))}"

    def find(self, key: str) -> Artifact | None:
        """The complete artifact under this key, every file checked against its hash once per process."""
        if key in self._verified:
            return self._verified[key]
        path = self.root / key
        if not (path / "manifest.json").is_file():
            return None
        damage = verify(path)
        if damage:
            aside = self.root / ".part" / f"damaged-{key}-{uuid.uuid4().hex[:8]}"
            aside.parent.mkdir(parents=True, exist_ok=True)
            fault.point("rename", aside)
            os.replace(path, aside)
            self.notify(f"{damage[0]}; the artifact was moved to {aside} and is computed again")
            return None
        artifact = Artifact(key, path, read_json(path / "manifest.json"))
        self._verified[key] = artifact
        return artifact

    def found(self, request: Request) -> Artifact | None:
        """`find` for what a request asks for."""
        return self.find(self.key(request.stage, request.version, request.fields, request.inputs))

    def build(
        self,
        stage: str,
        make: Callable[[Workspace], Mapping[str, Any]],
        *,
        fields: Mapping[str, Any],
        inputs: Sequence[str] = (),
        version: int = 1,
    ) -> Artifact:
        """The artifact of this content: found, or made now by `make`, whose return value becomes its summary."""
        return self.build_request(Request(stage, fields, inputs, version), make)

    def build_request(self, request: Request, make: Callable[[Workspace], Mapping[str, Any]]) -> Artifact:
        """`build` for what a request asks for."""
        return self.build_together([request], lambda places: [make(place) if place else None for place in places])[0]

    def build_together(self, requests: Sequence[Request], make: MakeTogether) -> list[Artifact]:
        """The artifacts of several contents; `make` gets a workspace for each that has to be made, None for each that was found.

        Locks are taken in the order of the keys, so that two processes never wait for each other.
        """
        keys = [self.key(request.stage, request.version, request.fields, request.inputs) for request in requests]
        with contextlib.ExitStack() as locks:
            for key in sorted(set(keys)):
                if self.find(key) is None:
                    locks.enter_context(locked(self.root / ".part" / f"{key}.lock", wait=True, notify=self.notify))
            missing = [key for key in dict.fromkeys(keys) if self.find(key) is None]  # another process may have finished some while this one waited
            if missing:
                places = [self._open(key) if key in missing and keys.index(key) == number else None for number, key in enumerate(keys)]
                started = time.monotonic()
                summaries = make(places)
                seconds = {"seconds": round((time.monotonic() - started) / len(missing), 3)}
                for request, key, place, summary in zip(requests, keys, places, summaries, strict=True):
                    if place is not None and summary is not None:
                        atomic_write(place.path / "built.json", canonical(seconds))
                        self._finish(key, request.stage, request.version, request.fields, request.inputs, summary, place.path)
        return [artifact for key in keys if (artifact := self.find(key)) is not None]

    def _open(self, key: str) -> Workspace:
        workspace = Workspace(self.root / ".part" / key)
        workspace.path.mkdir(parents=True, exist_ok=True)
        remove_temporaries(workspace.path)
        return workspace

    def _finish(
        self, key: str, stage: str, version: int, fields: Mapping[str, Any], inputs: Sequence[str], summary: Mapping[str, Any], part: Path
    ) -> None:
        files = {
            str(file.relative_to(part)): {"bytes": file.stat().st_size, "blake2b": file_digest(file)}
            for file in sorted(part.rglob("*"))
            if file.is_file() and str(file.relative_to(part)) not in _ABOUT  # a manifest is here already where a process died just before the rename
        }
        manifest = {
            "schema": SCHEMA,
            "key": key,
            "stage": stage,
            "version": version,
            "fields": fields,
            "inputs": list(inputs),
            "summary": summary,
            "files": files,
        }
        atomic_write(part / "manifest.json", canonical(manifest))
        final = self.root / key
        if final.exists():  # a directory without a manifest is no artifact; a complete one would have been found
            fault.point("rmtree", final)
            shutil.rmtree(final)
        try:
            fault.point("rename", final)
            os.replace(part, final)
            _sync_folder(self.root)
        except OSError as error:
            raise DiskError(f"cannot move {part} to {final}: {error.strerror}; run the same command again") from error
        self.built.add(key)
        self._verified[key] = Artifact(key, final, manifest)


def seconds_to_build(artifact: Artifact) -> float:
    """How long the artifact took when it was built."""
    return float(read_json(artifact.path / "built.json")["seconds"]) if (artifact.path / "built.json").is_file() else 0.0


def verify(path: Path) -> list[str]:
    """What is wrong with the artifact in this directory: a line per missing, added or changed file; empty if intact."""
    manifest = read_json(path / "manifest.json")
    wrong = []
    for name, known in manifest["files"].items():
        file = path / name
        if not file.is_file() or file.is_symlink():
            wrong.append(f"{file} is missing")
        elif file.stat().st_size != known["bytes"] or file_digest(file) != known["blake2b"]:
            wrong.append(f"{file} differs from its recorded hash")
    present = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()} - _ABOUT
    return wrong + [f"{path / name} is not in the manifest" for name in sorted(present - set(manifest["files"]))]


def _sync_folder(path: Path) -> None:
    fault.point("fsync folder", path)
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
