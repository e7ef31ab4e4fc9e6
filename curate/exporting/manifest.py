"""The manifest of an export: what there is, its hashes, and one hash over all of it by which a repeat is known."""

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from curate.card import Card
from curate.errors import DataError, IntegrityError
from curate.exporting.columns import ADDED, Part
from curate.store import canonical

MANIFEST = "manifest.json"
FORMAT = "curate-export-2"
Manifest = Mapping[str, Any]


def ids_digest(ids: Sequence[str]) -> str:
    """The hash of ids in their order."""
    return sha256(json.dumps(list(ids)).encode()).hexdigest()


def described(part: Part, columns: Mapping[str, str], files: Sequence[str]) -> dict[str, Any]:
    """What the manifest says of one configuration."""
    added = dict(zip(ADDED, part.names, strict=True))
    return {"rows": len(part.rows), "ids_sha256": ids_digest(part.ids), "columns": dict(columns), "added_columns": added, "files": list(files)}


def known_by(data: bytes) -> dict[str, Any]:
    """What a file is known by: its size and its hash."""
    return {"bytes": len(data), "sha256": sha256(data).hexdigest()}


def manifest_bytes(layout: str, configs: Mapping[str, Any], files: Mapping[str, Any], card: Card) -> bytes:
    """The manifest of these files: all but itself. `content_sha256` is over everything else in it, so it stands for the whole export."""
    about = {"format": FORMAT, "layout": layout, "configs": configs, "files": files, "card": card.model_dump(mode="json")}
    return (json.dumps({**about, "content_sha256": content_digest(about)}, indent=2, sort_keys=True) + "\n").encode()


def content_digest(about: Manifest) -> str:
    """The hash of everything that a manifest says, but for this hash."""
    return sha256(canonical({name: value for name, value in about.items() if name != "content_sha256"})).hexdigest()


def parse_manifest(data: bytes, where: str) -> Manifest:
    """A manifest of ours; DataError for anything else, IntegrityError where it does not carry its own hash."""
    try:
        about = json.loads(data)
        ours = about["format"] == FORMAT
        kept = about.get("content_sha256")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        ours = False
    if not ours:
        raise DataError(f"{where}: its manifest is none of an export of this version of curate; export again, or name another place")
    if kept != content_digest(about):
        raise IntegrityError(f"{where}: {MANIFEST} was changed: it does not carry its own hash; export again")
    if not _shaped(about):
        raise IntegrityError(f"{where}: {MANIFEST} has names or fields that curate does not write; it is not safe to follow: export again")
    return dict(about)


def _shaped(about: Manifest) -> bool:
    """Whether files and configurations are what this module writes; names lead nowhere else."""
    try:
        names = [*about["files"], *(name for config in about["configs"].values() for name in config["files"])]
        plain = all(isinstance(name, str) and name and ".." not in name and not name.startswith(("/", "\\")) and "\0" not in name for name in names)
        Card.model_validate_json(json.dumps(about["card"]))
        return plain and all({"rows", "ids_sha256", "columns", "added_columns", "files"} <= config.keys() for config in about["configs"].values())
    except (KeyError, TypeError, AttributeError, ValueError):
        return False


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an exported folder."""
    try:
        data = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise DataError(f"{folder} holds no export of curate: {MANIFEST} cannot be read ({error.strerror}); `curate export` makes one") from error
    return parse_manifest(data, str(folder))


def is_export(folder: Path) -> bool:
    """Whether a folder is an export of this or of an earlier version."""
    try:
        return str(json.loads((folder / MANIFEST).read_bytes())["format"]).startswith("curate-export-")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def changed_files(folder: Path, about: Manifest) -> list[str]:
    """A line for every file of the manifest that is missing or has other bytes, and for every data file that is not in it."""
    wrong = []
    for name, known in about["files"].items():
        path = folder / name
        if not path.is_file():
            wrong.append(f"{name} is missing")
        elif (found := known_by(path.read_bytes())) != known:
            wrong.append(f"{name} has other bytes than were exported ({found['bytes']}, {known['bytes']} were)")
    present = {path.relative_to(folder).as_posix() for path in (folder / "data").rglob("*") if path.is_file()}
    return wrong + [f"{name} is not in the manifest" for name in sorted(present - about["files"].keys())]
