"""Whether bytes are those that were written: hashes of files, and of all files of an artifact against its manifest."""

import json
import os
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import Any

from curate.core import Artifact
from curate.errors import IntegrityError, SafetyError
from curate.folders import disk_error, is_temporary, listed, make_folder, move, refusals

ABOUT = frozenset({"manifest.json", "built.json"})  # what an artifact says of itself is none of its contents
_THREADS = 8  # hashing lets go of the interpreter's lock; more than this wait for the disk
_MANY = 64
_PIECE = 1 << 17
_MOST_WHOLE = 4096  # a process that outlives its runs would remember every folder; one that is forgotten is only hashed once more
_whole: dict[Path, None] = {}  # artifacts whose bytes this process has compared, the most recently used last


class SetAside(IntegrityError):
    """A finished artifact was found damaged where it was to be read; it was moved away, so that the same command computes it again."""


def digest(data: bytes) -> str:
    """The 128-bit blake2b of these bytes, in hexadecimal."""
    return blake2b(data, digest_size=16).hexdigest()


def file_digest(path: Path) -> str:
    """`digest` of a file, read in pieces. OSError."""
    state, piece = blake2b(digest_size=16), bytearray(_PIECE)
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(piece):
            state.update(memoryview(piece)[:count])
    return state.hexdigest()


def file_digests(paths: Sequence[Path]) -> list[str]:
    """`file_digest` of many files, several at a time. DiskError where one cannot be read."""

    def one(path: Path) -> str:
        try:
            return file_digest(path)
        except OSError as error:
            raise disk_error(path, error, "read") from error

    if len(paths) < _MANY:
        return [one(path) for path in paths]
    with ThreadPoolExecutor(min(_THREADS, len(os.sched_getaffinity(0)))) as threads:
        return list(threads.map(one, paths))


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def read_json(path: Path) -> Any:
    """The JSON document in a file of ours, or an IntegrityError that names the file."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{path} is not readable JSON ({error}); remove it and run the same command again") from error


def recorded(folder: Path) -> dict[str, dict[str, Any]]:
    """Every file of an artifact with its size and hash; a manifest is here already where a process died just before the rename."""
    sizes = {}
    with refusals(folder, "read"):
        for name, entry in sorted(listed(folder), key=lambda one: one[0].split("/")):
            if not entry.is_file(follow_symlinks=False):
                raise SafetyError(f"{entry.path} is no regular file, and an artifact holds nothing else; remove it and run the same command again")
            if name not in ABOUT:
                sizes[name] = entry.stat(follow_symlinks=False).st_size
    hashes = file_digests([folder / name for name in sizes])
    return {name: {"bytes": size, "blake2b": found} for (name, size), found in zip(sizes.items(), hashes, strict=True)}


def sealed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest as it will be read, with the hash of all that it says."""
    said = _without_seal(json.loads(canonical(manifest)))
    return {**said, "blake2b": digest(canonical(said))}


def is_sealed(manifest: Any) -> bool:
    """Whether it says what it said when it was sealed."""
    if not isinstance(manifest, dict):
        return False
    try:
        return bool(manifest.get("blake2b") == digest(canonical(_without_seal(manifest))))
    except ValueError:  # NaN, or half a character
        return False


def _without_seal(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in manifest.items() if name != "blake2b"}


def verify(path: Path) -> list[str]:
    """What is wrong with the artifact in this directory: a line per missing, added or changed file; empty if intact. DiskError."""
    return differences(path, read_json(path / "manifest.json"))


def differences(path: Path, manifest: Mapping[str, Any], *, read: bool = True) -> list[str]:
    """`verify` for a manifest that was read already; without `read` by names and sizes only.

    A temporary file does not count: one that was frozen while it was written may still lie there, and nobody reads it.
    """
    if not is_sealed(manifest):
        return [f"{path / 'manifest.json'} does not carry its own hash: it was changed, or is of another version"]
    known: dict[str, dict[str, Any]] = manifest["files"]
    wrong, same = _other_sizes(path, known)
    hashes = file_digests([path / name for name in same]) if read else []
    return wrong + [f"{path / name} differs from its recorded hash" for name, found in zip(same, hashes, strict=read) if found != known[name]["blake2b"]]


def require_whole(artifact: Artifact) -> None:
    """Compare all bytes of an artifact with its manifest before they are used, once per process; SetAside where they differ."""
    if artifact.path in _whole:
        _whole[artifact.path] = _whole.pop(artifact.path, None)
        return
    damage = differences(artifact.path, artifact.manifest)
    if damage:
        raise SetAside(f"{damage[0]}; the artifact was moved to {set_aside(artifact.path)}, and the same command computes it again")
    _whole[artifact.path] = None
    while len(_whole) > _MOST_WHOLE:
        _whole.pop(next(iter(_whole)), None)


def set_aside(path: Path) -> Path:
    """Move a damaged artifact out of the way, under STORE/.part, and return where it is now. DiskError."""
    aside = path.parent / ".part" / f"damaged-{path.name}-{uuid.uuid4().hex[:8]}"
    with refusals(aside):
        make_folder(aside.parent)
        move(path, aside)
    return aside


def _other_sizes(path: Path, known: dict[str, dict[str, Any]]) -> tuple[list[str], list[str]]:
    """What is wrong as far as names and sizes tell, and the names of the files of which only the bytes can tell more."""
    there = {name: entry for name, entry in listed(path) if name not in ABOUT and not is_temporary(name)}
    wrong, same = [], []
    for name, recorded in known.items():
        entry = there.pop(name, None)
        if entry is None or not entry.is_file(follow_symlinks=False):
            wrong.append(f"{path / name} is missing")
        elif entry.stat(follow_symlinks=False).st_size != recorded["bytes"]:
            wrong.append(f"{path / name} differs from its recorded hash")
        else:
            same.append(name)
    return wrong + [f"{path / name} is not in the manifest" for name in sorted(there)], same
