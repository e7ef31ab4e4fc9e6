"""Run experiments again and again, undisturbed and with chaos, and watch what must not grow.

    python -m campaign.soak --minutes 60 [--seed S] [--rows 300] [--folder DIR] [--out r.json]

This process lives long: in most rounds it runs the small experiment itself, through the launcher, in a new folder or once more in an old one. In the
others `curate run` is a process of its own that is killed, interrupted or terminated at random moments and run again, all in an empty folder. After
every round: own memory, open files and threads of this process, temporary files, bytes on the disk and the files of the old store.

It fails where a round ends with other bytes, or where something grows. Memory: a straight line is fitted to it over time by least squares, without
the first quarter of the rounds (at least `WARM`); it grows where the line's slope, less twice its standard error, is more than 1 % of the mean an hour.
The rest: it grows where each of the last quarter's counts is above every one of the second quarter's.
"""

import argparse
import gc
import json
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from campaign.crash_random import subject
from campaign.crash_trial import Ground, run_trial
from campaign.load import own_mib
from campaign.small_experiment import NAME, recipe, run_stage
from campaign.trial import contents, differences
from curate.freed import give_back

WARM = 5  # rounds at the least that libraries and caches may fill in
MOST_PER_HOUR = 0.01
_CHAOS = ("driver", "group", "triple", "interrupt", "twice", "terminate")
_COUNTS = ("files_open", "threads", "temporaries", "store_files", "disk_bytes")

Round = Callable[[random.Random], list[str]]  # what is wrong afterwards


@dataclass(frozen=True)
class Sample:
    """What this process and its folders held after a round."""

    round: int
    name: str
    seconds: float
    memory_mib: float
    files_open: int
    threads: int
    temporaries: int
    store_files: int
    disk_bytes: int


@dataclass(frozen=True)
class Place:
    """The folders of a soak: the old run that is run once more, the ones that come and go, and temporary files."""

    scratch: Path

    @property
    def old(self) -> Path:
        return self.scratch / "old"

    @property
    def temporary(self) -> Path:
        return self.scratch / "tmp"

    def sample(self, number: int, name: str, began: float) -> Sample:
        """Count everything; of memory what is held, not what the C library keeps for later."""
        gc.collect()
        give_back(at_once=True)
        files = [path for path in self.scratch.rglob("*") if path.is_file()]
        store = [path for path in files if path.is_relative_to(self.old)]
        temporary = [path for path in files if path.is_relative_to(self.temporary) or path.suffix in (".tmp", ".part")]
        return Sample(
            number,
            name,
            round(time.monotonic() - began, 3),
            round(own_mib(os.getpid()), 2),
            len(os.listdir("/proc/self/fd")),
            threading.active_count(),
            len(temporary),
            len(store),
            sum(path.stat().st_size for path in files if path.suffix not in (".jsonl", ".txt", ".said")),  # logs tell of every run
        )


def soaked(place: Place, rounds: Mapping[str, Round], seconds: float, seed: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Rounds drawn by the seed until the time is up; the samples, what was wrong, and what grows."""
    drawn, began, samples, failures, played = random.Random(f"{seed} soak"), time.monotonic(), list[Sample](), list[str](), Counter[str]()
    while time.monotonic() - began < seconds or len(samples) < 2 * WARM:
        name = drawn.choice(list(rounds))
        wrong = rounds[name](drawn)
        played[name] += 1
        failures += [f"round {len(samples)}, {name}: {line}" for line in wrong]
        samples.append(place.sample(len(samples), name, began))
        if wrong:
            say(f"  FAILED {failures[-1]}")
    grown = growing(samples)
    for line in grown:
        say(f"  FAILED {line}")
    slope, error = slope_per_hour(_settled(samples))
    return {
        "rounds": len(samples),
        "played": dict(played),
        "failures": failures + grown,
        "memory_share_per_hour": slope,
        "standard_error": error,
        "first": asdict(samples[WARM]),
        "last": asdict(samples[-1]),
        "samples": [asdict(one) for one in samples],
        "seconds": round(time.monotonic() - began, 1),
    }


def _settled(samples: Sequence[Sample]) -> Sequence[Sample]:
    return samples[max(WARM, len(samples) // 4) :]


def slope_per_hour(samples: Sequence[Sample]) -> tuple[float, float]:
    """(slope, its standard error) of memory over time by least squares, as shares of the mean an hour; 0 for fewer than three moments."""
    import numpy as np

    if len({one.seconds for one in samples}) < 3:
        return 0.0, 0.0
    hours, held = np.asarray([one.seconds for one in samples]) / 3600, np.asarray([one.memory_mib for one in samples])
    away = hours - hours.mean()
    slope = float(away @ held / (away @ away))
    left = held - held.mean() - slope * away
    error = float(np.sqrt(left @ left / (len(held) - 2) / (away @ away)))
    return slope / float(held.mean()), error / float(held.mean())


def growing(samples: Sequence[Sample]) -> list[str]:
    """A line for everything that grows; of memory, less than a MiB in all is none, however short the time."""
    settled = _settled(samples)
    slope, error = slope_per_hour(settled)
    risen = settled[-1].memory_mib - settled[0].memory_mib
    wrong = []
    if slope - 2 * error > MOST_PER_HOUR and risen > 1:
        wrong.append(f"memory grows by {slope:.1%} an hour (standard error {error:.1%}), more than {MOST_PER_HOUR:.0%}")
    quarter = max(1, len(samples) // 4)
    for name in _COUNTS:
        before, after = ([getattr(one, name) for one in part] for part in (samples[quarter : 2 * quarter], samples[-quarter:]))
        if min(after) > max(before):
            wrong.append(f"{name.replace('_', ' ')} grow: at most {max(before)} in the second quarter, at least {min(after)} in the last")
    return wrong


def ran(place: Path, seed: int, rows: int) -> None:
    """The whole experiment by this process, through the launcher."""
    run_stage("evaluate", place, recipe(seed, rows))


def rounds_of(place: Place, ground: Ground, seed: int, rows: int) -> dict[str, Round]:
    """What may come: more often this process itself, for its leaks are what a short-lived one would hide."""
    ran(place.old, seed, rows)
    run_trial(ground, "group", 2, 0)  # Dask leaves two lock files in the folder of temporary files, whatever comes after
    expected = contents(place.old)

    def fresh(drawn: random.Random) -> list[str]:
        where = place.scratch / "fresh"
        try:
            ran(where, seed, rows)
            return differences(where, expected)
        finally:
            shutil.rmtree(where, ignore_errors=True)

    def again(drawn: random.Random) -> list[str]:
        ran(place.old, seed, rows)
        return differences(place.old, expected)

    def chaos(drawn: random.Random) -> list[str]:
        return run_trial(ground, drawn.choice(_CHAOS), drawn.choice((1, 1, 2)), drawn.randrange(10**9)).wrong

    return {"fresh": fresh, "once more": fresh, "again": again, "chaos": chaos}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--rows", type=int, default=300, help="of the pool; scores come in shards of 256")
    parser.add_argument("--seed", type=int, default=0, help="of the rows, and of what comes when")
    parser.add_argument("--folder", type=Path, help="work in a folder below this one; default: that of temporary files")
    parser.add_argument("--out", type=Path, help="write the samples and the failures here, as JSON")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        place = Place(Path(folder))
        place.temporary.mkdir()
        os.environ["TMPDIR"] = tempfile.tempdir = str(place.temporary)  # of this process and of all that it starts
        ground = Ground.laid(subject(given.seed, given.rows), place.scratch, given.seed)
        rounds = rounds_of(place, ground, given.seed, given.rows)
        found = soaked(place, rounds, 60 * given.minutes, given.seed, partial(print, flush=True))
        tempfile.tempdir = None
    failed = len(found["failures"])
    first, last = found["first"], found["last"]
    held = ", ".join(f"{name.replace('_', ' ')} {first[name]} -> {last[name]}" for name in ("memory_mib", *_COUNTS))
    print(f"soak of the run {NAME}, seed {given.seed}: {found['rounds']} rounds {found['played']} in {found['seconds']} s; {held}")
    slope = f"{found['memory_share_per_hour']:+.2%} (standard error {found['standard_error']:.2%})"
    print(f"memory {slope} an hour; {found['rounds']} planned, {found['rounds']} landed, {'passed' if not failed else f'{failed} failed'}")
    if given.out:
        given.out.write_text(json.dumps({"seed": given.seed, **found}, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
