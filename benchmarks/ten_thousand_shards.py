"""How long a feature of many shards takes to say what is left of it: at a fresh start, with all but one shard committed, and finished.

    python benchmarks/ten_thousand_shards.py [--shards 10000] [--rows 256] [--width 64] [--folder DIR] [--cold]

Every shard holds `rows` x `width` float32, as scoring writes them, committed through the store. Each figure is taken in a process of its own, which
has nothing in memory; its imports do not count. `--cold` drops the files from the page cache before each figure, as far as the kernel obeys.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from curate.features import shard_bytes
from curate.intact import differences, read_json, verify
from curate.store import Store, Workspace

STAGE, FIELDS = "features", {"benchmark": "ten thousand shards"}


def names(shards: int) -> list[str]:
    return [f"shard-{number:06d}.safetensors" for number in range(shards)]


def commit(workspace: Workspace, wanted: Sequence[str], rows: int, width: int) -> None:
    """Numbers of their own for every shard, without a scorer."""
    values = np.zeros((rows, width), np.float32)
    for name in wanted:
        number = int(name[6:12])
        values[:] = np.arange(width, dtype=np.float32) + number
        workspace.commit(name, shard_bytes(np.arange(rows) + number * rows, values), {"rows": rows, "width": width, "quarantined": [], "storage_error": {}})


def left(store: Store, shards: int) -> int:
    """What a start asks for: the finished artifact, and otherwise the shards that lack."""
    if store.find(store.key(STAGE, 1, FIELDS)) is not None:
        return 0
    part = store.root / ".part" / store.key(STAGE, 1, FIELDS)
    return shards - len(Workspace(part).present(names(shards))) if part.is_dir() else shards


def measured(folder: Path, shards: int, what: str, rows: int, width: int) -> dict[str, Any]:
    """One figure, in this process."""
    store = Store(folder)
    path = store.root / store.key(STAGE, 1, FIELDS)
    began, worked = time.perf_counter(), time.process_time()
    if what == "finish":
        store.build(STAGE, lambda workspace: _complete(workspace, shards, rows, width), fields=FIELDS)
        found = 0
    elif what == "verify":
        found = len(verify(path))
    elif what == "sizes":
        found = len(differences(path, read_json(path / "manifest.json"), read=False))
    else:
        found = left(store, shards)
    return {"seconds": time.perf_counter() - began, "cpu": time.process_time() - worked, "found": found}


def _complete(workspace: Workspace, shards: int, rows: int, width: int) -> Mapping[str, Any]:
    known = workspace.present(names(shards))
    commit(workspace, [name for name in names(shards) if name not in known], rows, width)
    return {"shards": shards}


def drop(folder: Path) -> None:
    """Ask the kernel to forget the contents of these files."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--folder", type=Path, help="where the store is made; default: a temporary folder, removed at the end")
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measured(given.folder, given.shards, given.measure, given.rows, given.width)))
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as scratch:
        _report(Path(scratch), given)


def _report(folder: Path, given: argparse.Namespace) -> None:
    def figure(what: str, said: str) -> None:
        if given.cold:
            drop(folder)
        shape = ["--shards", str(given.shards), "--rows", str(given.rows), "--width", str(given.width)]
        command = [sys.executable, __file__, "--measure", what, "--folder", str(folder), *shape]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"{said}: {found['seconds']:.2f} s, of them {found['cpu']:.2f} s of the CPU ({found['found']} left)", flush=True)

    print(f"{given.shards} shards of {given.rows} x {given.width} float32, {'cold' if given.cold else 'warm'}")
    figure("start", "fresh start, nothing there")
    store = Store(folder)
    part = Workspace(folder / ".part" / store.key(STAGE, 1, FIELDS))
    part.path.mkdir(parents=True)
    began = time.perf_counter()
    commit(part, names(given.shards)[:-1], given.rows, given.width)
    print(f"committing all shards but one, flushed: {time.perf_counter() - began:.1f} s", flush=True)
    figure("start", "restart, all shards but one committed")
    figure("finish", "the last shard, every hash, and the manifest")
    figure("start", "restart, finished")
    figure("verify", "of which every hash")
    figure("sizes", "names and sizes alone")


if __name__ == "__main__":
    main()
