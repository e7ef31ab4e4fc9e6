"""Selections as a folder that `datasets.load_dataset` opens: rows, card, manifest; all of it verified, or nothing.

    DIR/data/train-00000-of-00001.parquet   the rows in the order of the selection, best first; with several selections
    DIR/data/CONFIG/train-...               a folder for each; layouts of trainers in JSON lines have data/CONFIG.jsonl
    DIR/README.md                           the card: what was selected for what, how, how it compares, how to rebuild it
    DIR/manifest.json                       hashes of ids and files, inputs, recipe, seed, versions
    DIR/train_*, dataset_info.json          the trainer's snippet, in a trainer's layout

Every row keeps its fields, or has those of the trainer's layout, and gains five: `id`, `rank` (0 is best), `weight` of its loss, `score` (null
where the method has none) and `reason`. Where a field of the pool bears one of these names, in any case, all five are prefixed `curate_`.
Rows with differing fields get their union, absent ones null. Equal selections give equal bytes.
"""

import contextlib
import glob
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curate.card import Card, Chosen, Source, cleaned
from curate.errors import DiskError, ExportError
from curate.exporting.columns import Part, check_stored, jsonl_file, parquet_files
from curate.exporting.layouts import JSON_LINES, Layout, language
from curate.exporting.manifest import MANIFEST, described, is_export, known_by, manifest_bytes
from curate.exporting.names import check_config
from curate.exporting.readme import Shape, readme
from curate.folders import move, refusals, sync_folder
from curate.store import atomic_write, locked

__all__ = ["Card", "Chosen", "Export", "Part", "Source", "export_folder"]


@dataclass(frozen=True)
class Export:
    """What is to be written: selections, a card, the layout, and the trainer's files beside the data (the snippet first)."""

    parts: Sequence[Part]
    card: Card
    layout: Layout = "datasets"
    companions: Mapping[str, str] = field(default_factory=dict)


def export_folder(directory: Path, export: Export, *, overwrite: bool = False) -> Path:
    """Write the export under `directory`, and return it.

    Built beside its place, read back and compared, then renamed. A folder that holds anything is refused unless
    `overwrite`, and replaced only if it is an export of ours. Errors: ExportError; DiskError where the disk fails.
    """
    directory = Path(os.path.abspath(directory))
    with _held(directory, overwrite):
        for part in export.parts:
            part.check()
            check_config(part.name)
        if len({part.name.casefold() for part in export.parts}) != len(export.parts) or not export.parts:
            raise ExportError("export: give at least one selection, and each a configuration of its own")
        building = directory.with_name(f".{directory.name}.{uuid.uuid4().hex[:8]}.part")
        try:
            _build(building, export)
            _swap(building, directory)
        except DiskError:
            raise
        except OSError as error:
            raise DiskError(f"cannot export to {directory}: {error.strerror or error}; free the disk and export again") from error
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return directory


def _build(building: Path, export: Export) -> None:
    card = cleaned(export.card)
    files: dict[str, dict[str, Any]] = {}
    configs, shapes = {}, []

    def write(name: str, data: bytes) -> str:
        atomic_write(building / name, data)
        files[name] = known_by(data)
        return name

    for part in export.parts:
        columns, pieces, pattern = _data(part, export)
        names = [write(name, data) for name, data in pieces]
        check_stored(part, building, names)
        configs[part.name] = described(part, columns, names)
        shapes.append(Shape(part.name, len(part.rows), columns, part.names, pattern))
    snippet = next(((name, language(name), text) for name, text in export.companions.items()), None)
    for name, text in {**export.companions, "README.md": readme(card, shapes, snippet)}.items():
        write(name, text.encode())
    atomic_write(building / MANIFEST, manifest_bytes(export.layout, configs, files, card))


def _data(part: Part, export: Export) -> tuple[dict[str, str], Iterable[tuple[str, bytes]], str]:
    """A part's columns, its data files one by one, and the glob that finds them."""
    if export.layout in JSON_LINES:
        name = f"data/{part.name}.jsonl"
        data, columns = jsonl_file(part)
        return columns, [(name, data)], name
    folder = "data" if len(export.parts) == 1 and part.name == "default" else f"data/{part.name}"
    return *parquet_files(part, folder), f"{folder}/train-*.parquet"


@contextlib.contextmanager
def _held(directory: Path, overwrite: bool) -> Iterator[None]:
    """The place for this export alone, what a killed export left there undone; refused where something else stands."""
    with locked(directory.with_name(f".{directory.name}.lock"), wait=False):
        _settle(directory)
        _check_place(directory, overwrite)
        yield


def _settle(directory: Path) -> None:
    """Undo an export that was killed: the folder that stood there comes back, and what was being built or removed goes."""
    name = glob.escape(f".{directory.name}.") + "[0-9a-f]" * 8
    for old in sorted(directory.parent.glob(f"{name}.old")):
        if not directory.exists():
            with refusals(directory):
                move(old, directory)
    for leftover in (*directory.parent.glob(f"{name}.part"), *directory.parent.glob(f"{name}.old")):
        shutil.rmtree(leftover, ignore_errors=True)


def _check_place(directory: Path, overwrite: bool) -> None:
    if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
        raise ExportError(f"cannot export to {directory}: it is not a folder; name one that does not exist yet")
    if not directory.exists() or not any(directory.iterdir()):
        return
    if not overwrite:
        raise ExportError(f"cannot export to {directory}: it is not empty; name another folder or pass --overwrite")
    if not is_export(directory):
        raise ExportError(f"cannot overwrite {directory}: it holds no export of curate; remove it yourself or name another folder")


def _swap(building: Path, directory: Path) -> None:
    """Put the finished folder in its place, for good; where one stands there, it comes back if that fails. OSError."""
    old = directory.with_name(f".{directory.name}.{uuid.uuid4().hex[:8]}.old")
    if directory.exists():
        move(directory, old)
    try:
        move(building, directory)
    except OSError:
        if old.exists() and not directory.exists():
            move(old, directory)
        raise
    if old.exists():
        shutil.rmtree(old, ignore_errors=True)
        sync_folder(directory.parent)
