"""Run an experiment on disks that are too small, make room, type the same command again, and compare with a run that had room.

    python -m campaign.disk_full [--sizes 48] [--inodes 16] [--limits 32] [--only KIND:VALUE] [--limit N] [--seed S] [--out r.json]

Real ones: a tmpfs of each size from 64 KiB to one page less than the run takes, a tmpfs of each number of inodes, and the process's own limit on the size of
a file (RLIMIT_FSIZE). The command runs in a process of its own, `curate run` as it is typed. It has to end with exit code 7 and one line that names a path
and says what to do; no artifact may stand under its final name unless it is whole. Then the disk is grown where it is (remounted), and the same command has
to end with the bytes of the run that had room, and nothing temporary. It needs root, and mounts in a mount namespace of its own (`unshare -m`), so that
nothing is left; where it may not, it says "skipped" and exits with 2, for that is not a pass.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from campaign.crash_sweep import counted
from campaign.errno_sweep import told
from campaign.small_experiment import ROOT, arguments_of, recipe, write_recipe
from campaign.spread import spread
from campaign.tally import counts, ended
from campaign.trial import Ended, Verdict, contents, differences, not_whole

KINDS = ("size", "inodes", "file")
SKIPPED = 2  # the exit code
_INSIDE = "CURATE_CAMPAIGN_MOUNTS"  # set in the process that has a mount namespace of its own
_PAGE, _LEAST, _PLENTY = 4096, 1 << 16, "1g"
_MOST_SECONDS = 600


@dataclass(frozen=True)
class Taken:
    """What the run takes where there is room: bytes and inodes of the disk, the largest file, and what it leaves."""

    size: int
    inodes: int
    file: int
    files: dict[str, str]


@dataclass(frozen=True)
class Place:
    """A tmpfs that the experiment runs on."""

    path: Path

    def mount(self, size: object = _PLENTY, inodes: object = 0) -> None:
        _run("mount", "-t", "tmpfs", "-o", f"size={size},nr_inodes={inodes}", "tmpfs", str(self.path))

    def grow(self) -> None:
        _run("mount", "-o", f"remount,size={_PLENTY},nr_inodes=0", str(self.path))

    def unmount(self) -> None:
        _run("umount", str(self.path))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def typed(place: Path, limit: int = 0) -> Ended:
    """The whole experiment as it is typed, in a process of its own; `limit` is that on the size of a file."""
    command = [sys.executable, "-m", "curate", *arguments_of("evaluate", place)]
    bounded = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit)) if limit else None
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    ended = subprocess.run(
        command, cwd=place.parent, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=_MOST_SECONDS, preexec_fn=bounded
    )
    return Ended(ended.returncode, [], ended.stderr)


def taken(place: Place, settings: dict[str, object]) -> Taken:
    """Run it where there is room."""
    place.mount()
    try:
        write_recipe(place.path, settings)
        ended = typed(place.path)
        if ended.code:
            raise SystemExit(f"the reference run exits with {ended.code}:\n{ended.said}")
        found = os.statvfs(place.path)
        largest = max(path.stat().st_size for path in place.path.rglob("*") if path.is_file() and path.name != "log.jsonl")
        return Taken((found.f_blocks - found.f_bfree) * found.f_frsize, _inodes(place.path), largest, contents(place.path))
    finally:
        place.unmount()


def _inodes(place: Path) -> int:
    return 1 + sum(1 for _ in place.rglob("*"))


def planned(room: Taken, given: argparse.Namespace) -> list[tuple[str, int]]:
    """Sizes, inodes and limits, evenly spread, all of them too small."""
    if given.only:
        kind, _, value = given.only.partition(":")
        return [(kind, int(value))]
    pages = [("size", _LEAST + (room.size - _PAGE - _LEAST) * n // max(1, given.sizes - 1) // _PAGE * _PAGE) for n in range(given.sizes)]
    inodes = [("inodes", 4 + (room.inodes - 1 - 4) * n // max(1, given.inodes - 1)) for n in range(given.inodes)]
    limits = [("file", 64 + (room.file - 1 - 64) * n // max(1, given.limits - 1)) for n in range(given.limits)]
    every = list(dict.fromkeys(pages + inodes + limits))
    return spread(every, given.limit)


def trial(place: Place, settings: dict[str, object], room: Taken, kind: str, value: int) -> Verdict:
    """Too little room, then room."""
    about = f"{kind} {value}"
    place.mount(**{kind: value} if kind != "file" else {})
    try:
        write_recipe(place.path, settings)
        ended = typed(place.path, value if kind == "file" else 0)
        if ended.code == 0:
            return Verdict(value, about, False, [f"{line} after a run that ended well" for line in differences(place.path, room.files)])
        wrong = told(ended, place.path) + not_whole(place.path)
        place.grow()
        again = typed(place.path)
        if again.code:
            return Verdict(value, about, True, [*wrong, f"the same command again exits with {again.code}: {again.said[-300:]}"])
        return Verdict(value, about, True, wrong + differences(place.path, room.files))
    finally:
        place.unmount()


def swept(scratch: Path, given: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """The counts of all trials, and how many there were of each kind."""
    settings, place = recipe(given.seed, given.rows), Place(scratch / "disk")
    place.path.mkdir()
    room = taken(place, settings)
    say(f"with room it takes {room.size} bytes, {room.inodes} inodes, and {room.file} bytes for its largest file")
    plan = planned(room, given)
    kinds = {kind: sum(one == kind for one, _ in plan) for kind in KINDS}
    return {"kinds": kinds, **counted((trial(place, settings, room, kind, value) for kind, value in plan), say)}


def own_mounts(arguments: Sequence[str]) -> int | None:
    """None in a mount namespace of its own; otherwise starts this program in one and returns its exit code."""
    if os.environ.get(_INSIDE):
        return None
    command = ["unshare", "--mount", "--propagation", "private"]
    if os.geteuid() or subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        print("skipped: it mounts small disks, for which it has to be root and allowed to mount; nothing was tried")
        return SKIPPED
    inside = [*command, sys.executable, "-m", "campaign.disk_full", *arguments]
    return subprocess.run(inside, cwd=ROOT, env={**os.environ, _INSIDE: "1"}, check=False).returncode


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, count, what in (("sizes", 48, "sizes of the disk"), ("inodes", 16, "numbers of inodes"), ("limits", 32, "limits on the size of a file")):
        parser.add_argument(f"--{name}", type=int, default=count, metavar="N", help=what)
    parser.add_argument("--only", default="", metavar="KIND:VALUE", help=f"replay one trial; kinds: {', '.join(KINDS)}")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="at most N trials, evenly spread")
    parser.add_argument("--seed", type=int, default=0, help="of the rows and of the training")
    parser.add_argument("--rows", type=int, default=300, help="of the pool; scores come in shards of 256")
    parser.add_argument("--out", type=Path, help="write the counts and the failures here, as JSON")
    given = parser.parse_args(arguments)
    outside = own_mounts(sys.argv[1:] if arguments is None else arguments)
    if outside is not None:
        return outside
    with tempfile.TemporaryDirectory() as folder:
        found = swept(Path(folder), given, lambda line: print(line, flush=True))
    print(f"all, seed {given.seed}: {counts(found)}")
    return ended(found, given.out, {"seed": given.seed, "rows": given.rows, **found})


if __name__ == "__main__":
    sys.exit(main())
