"""Immutable artifacts found by content, and the one way that bytes reach the disk.

    STORE/<stage>-<key>/               manifest.json names every file with its size and hash
    STORE/.part/<stage>-<key>/         the same while it is being built; its committed shards survive a crash
    STORE/.part/<stage>-<key>.closed/  the same while its manifest is written, out of reach of a worker that was frozen and goes on too late

key = blake2b(stage, component version, canonical fields, input keys, numeric environment). A directory
under its final name is complete: it is filled under .part, the manifest is written last, then one rename.
Nothing is ever overwritten, and nothing is unpickled.
"""

import contextlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curate import fault
from curate.core import Artifact
from curate.errors import IntegrityError, SafetyError
from curate.folders import is_plain_file, make_folder, move, refusals, remove, remove_temporaries, remove_tree, sync_folder
from curate.intact import canonical as canonical
from curate.intact import differences, recorded, sealed, set_aside
from curate.intact import digest as digest
from curate.intact import file_digest as file_digest
from curate.intact import read_json as read_json
from curate.intact import verify as verify
from curate.locks import Notify as Notify
from curate.locks import locked as locked

SCHEMA = 2
READ_LATER = frozenset({"features"})  # may hold thousands of files: curate/features.py compares all bytes before it uses any
_CLOSED = ".closed"
_ATTEMPTS = 3  # at an artifact whose committed shards change while it is built; then the disk is not to be trusted


class DamagedShards(IntegrityError):
    """Committed shards of an artifact under construction hold other bytes than were committed; they were removed, to be made again."""


def atomic_write(path: Path, data: bytes, *, below: Path | None = None) -> str:
    """Write `data` so that `path` is either absent, old or whole, also after a power cut; returns its hash.

    A temporary file of its own in the same folder, flushed to the disk, renamed, and the folder flushed; so is every folder that had to be made.
    None is made but below `below`, where given. DiskError where the file system refuses; no temporary file stays if it can be removed.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    with refusals(path):
        try:
            make_folder(path.parent, below=below)
            fault.point("open", temporary)
            with open(temporary, "xb") as file:
                fault.point("write", temporary, data)
                file.write(data)
                file.flush()
                fault.point("fsync", temporary)
                os.fsync(file.fileno())
            fault.point("rename", path, source=temporary)
            os.replace(temporary, path)
            sync_folder(path.parent)
        except OSError:
            with contextlib.suppress(OSError):
                remove(temporary)
            raise
    return digest(data)


@dataclass(frozen=True)
class Workspace:
    """An artifact under construction, in a folder that is there. A shard is committed when its sidecar `<name>.json` exists and its bytes match.

    Once the folder is gone, for the artifact is finished or another process builds it, every write is a DiskError: the folder is not made again.
    """

    path: Path

    def write(self, name: str, data: bytes) -> None:
        atomic_write(self.path / name, data, below=self.path)

    def commit(self, name: str, data: bytes, info: Mapping[str, Any]) -> dict[str, Any]:
        """Write a shard and then the sidecar that makes it count, in this artifact only."""
        sidecar = {**info, "artifact": self.path.name, "blake2b": atomic_write(self.path / name, data, below=self.path), "bytes": len(data)}
        atomic_write(self.path / f"{name}.json", canonical(sidecar), below=self.path)
        return sidecar

    def committed(self, name: str) -> dict[str, Any] | None:
        """The sidecar of a shard whose bytes are intact; a torn, changed or foreign shard is as good as absent."""
        info, shard = self._sidecar(name), self.path / name
        if info is None or not is_plain_file(shard):
            return None
        with contextlib.suppress(OSError):  # what cannot be read is made again
            return info if info.get("bytes") == shard.stat().st_size and info.get("blake2b") == file_digest(shard) else None
        return None

    def present(self, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        """The sidecars of those of these shards, directly in this folder, that were committed and have the size they should have.

        No shard is read, so ten thousand take a second. Their bytes are compared when the artifact is finished: see `Store.build_together`.
        """
        with refusals(self.path, "read"), os.scandir(self.path) as entries:
            sizes = {entry.name: entry.stat(follow_symlinks=False).st_size for entry in entries if entry.is_file(follow_symlinks=False)}
        found = {}
        for name in names:
            if name in sizes and f"{name}.json" in sizes and (info := self._sidecar(name)) is not None and info.get("bytes") == sizes[name]:
                found[name] = info
        return found

    def remove(self, name: str) -> None:
        """Remove a file of this folder, or nothing where there is none. DiskError."""
        remove(self.path / name)

    def _sidecar(self, name: str) -> dict[str, Any] | None:
        """What was recorded of a shard of this artifact; one that was copied from elsewhere was not."""
        sidecar = self.path / f"{name}.json"
        try:
            info = json.loads(sidecar.read_bytes()) if is_plain_file(sidecar) else None
        except (OSError, ValueError):
            return None
        return info if isinstance(info, dict) and info.get("artifact") == self.path.name else None


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
        """The complete artifact under this key, every file checked against its hash once per process; by names and sizes where it is READ_LATER."""
        path = self.root / key
        if key in self._verified and path.is_dir():  # else it was set aside by who read it
            return self._verified[key]
        if not (path / "manifest.json").is_file():
            return None
        manifest = read_json(path / "manifest.json")
        damage = differences(path, manifest, read=key.rpartition("-")[0] not in READ_LATER)
        if damage:
            self.notify(f"{damage[0]}; the artifact was moved to {set_aside(path)} and is computed again")
            return None
        self._verified[key] = Artifact(key, path, manifest)
        return self._verified[key]

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

        Locks are taken in the order of the keys, so that two processes never wait for each other. Shards that turn out to have changed since they were
        committed are removed, and `make` is called again, for the artifacts that miss them; DamagedShards where that goes on.
        """
        keys = [self.key(request.stage, request.version, request.fields, request.inputs) for request in requests]
        with contextlib.ExitStack() as locks:
            for key in sorted(set(keys)):
                if self.find(key) is None:
                    locks.enter_context(locked(self.root / ".part" / f"{key}.lock", wait=True, notify=self.notify))
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    self._make(requests, keys, make)
                    break
                except DamagedShards as error:
                    if attempt == _ATTEMPTS:
                        raise
                    self.notify(f"{error}; they are computed again")
        return [artifact for key in keys if (artifact := self.find(key)) is not None]

    def _make(self, requests: Sequence[Request], keys: Sequence[str], make: MakeTogether) -> None:
        """Make and finish what is missing; those that are whole are finished before DamagedShards says that one is not."""
        missing = [key for key in dict.fromkeys(keys) if self.find(key) is None]  # another process may have finished some while this one waited
        if not missing:
            return
        places = [self._open(key) if key in missing and keys.index(key) == number else None for number, key in enumerate(keys)]
        started = time.monotonic()
        summaries = make(places)
        seconds = {"seconds": round((time.monotonic() - started) / len(missing), 3)}
        damaged: DamagedShards | None = None
        for request, key, place, summary in zip(requests, keys, places, summaries, strict=True):
            if place is not None and summary is not None:
                place.write("built.json", canonical(seconds))
                try:
                    self._finish(key, request, summary, place.path)
                except DamagedShards as error:
                    damaged = error
        if damaged:
            raise damaged

    def _open(self, key: str) -> Workspace:
        """The folder of an artifact under construction, with what an earlier process committed there."""
        part = self.root / ".part" / key
        closed = part.with_name(key + _CLOSED)
        for path in (part.parent, part, closed):
            if path.is_symlink():
                raise SafetyError(f"{path} is a link, and a store writes in its own folder only; remove it and run the same command again")
        with refusals(part):
            if closed.is_dir():  # a process died or was refused something while it finished the artifact
                remove_tree(part)
                move(closed, part)
            make_folder(part)
        remove_temporaries(part)
        return Workspace(part)

    def _finish(self, key: str, request: Request, summary: Mapping[str, Any], part: Path) -> None:
        """Describe what lies in the folder and give it its final name. DamagedShards for shards that changed; DiskError."""
        closed, final = part.with_name(key + _CLOSED), self.root / key
        with refusals(part, "close"):
            move(part, closed)
        remove_temporaries(closed)
        files = recorded(closed)
        _check_shards(files, closed, part)
        about = {"schema": SCHEMA, "key": key, "stage": request.stage, "version": request.version}
        manifest = sealed({**about, "fields": request.fields, "inputs": list(request.inputs), "summary": summary, "files": files})
        atomic_write(closed / "manifest.json", canonical(manifest), below=closed)
        if final.exists():  # a directory without a manifest is no artifact; a complete one would have been found
            remove_tree(final)
        with refusals(final):
            move(closed, final)
        self.built.add(key)
        self._verified[key] = Artifact(key, final, manifest)


def _check_shards(files: Mapping[str, Mapping[str, Any]], closed: Path, part: Path) -> None:
    """Give the folder back, without the shards that differ from their sidecars, where there are any."""
    shards = [name for name in files if f"{name}.json" in files]
    damaged = [name for name in shards if _differs(closed / f"{name}.json", files[name]["blake2b"])]
    if not damaged:
        return
    for name in damaged:
        remove(closed / f"{name}.json")
        remove(closed / name)
    with refusals(part):
        move(closed, part)
    raise DamagedShards(f"{len(damaged)} committed shards of {part.name} changed on the disk, the first {damaged[0]}")


def _differs(sidecar: Path, found: str) -> bool:
    """Whether a shard has other bytes than its sidecar records; a file of ours that is no sidecar records none."""
    info = read_json(sidecar)
    return isinstance(info, dict) and "blake2b" in info and info["blake2b"] != found


def seconds_to_build(artifact: Artifact) -> float:
    """How long the artifact took when it was built."""
    return float(read_json(artifact.path / "built.json")["seconds"]) if (artifact.path / "built.json").is_file() else 0.0
