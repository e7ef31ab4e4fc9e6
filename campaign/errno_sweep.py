"""Refuse an experiment every operation on the file system in turn, look at what the user is told, mend it, and run the same command again.

    python -m campaign.errno_sweep [--stage S|all] [--errno ENOSPC|EDQUOT|EFBIG|EIO|EACCES|EROFS|all|turns] [--lasting no|yes|both] [--only N] [--limit N] ...

For each stage, errno and operation n that it can hit, a forked child types the stage's command, and operation n fails with that errno: once, or it and
all later ones, as on a disk that stays full. A write that takes space leaves half of its bytes. A trial passes if the command ends with exit code 7
and has printed one line, which names a path and says what to do, or if it ended well although operation n is one of `MAY_FAIL`; if no file stands under
a final name unless it is whole; and if the same command, typed again without the fault, ends with the bytes of a run that nothing disturbed and leaves
nothing temporary. `--limit` is per stage, errno and persistence. `turns` is every operation once: each has the errno that came least
often so far of those that can hit it, once or lasting, which takes a twelfth of the time of all. An errno is raised in the place of the call: what a
real disk does is in campaign/disk_full.py.
"""

import argparse
import itertools
import re
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

from campaign.crash_sweep import Sweep, counted
from campaign.small_experiment import recipe, type_stage, write_recipe
from campaign.spread import spread
from campaign.stages import each, finish, ground, options
from campaign.tally import counts
from campaign.trial import Ended, Verdict, Work, differences, half_made, in_child, is_own_name, whole_files
from curate import fault

DISK = 7  # the exit code
# What may fail without an end of the run: a lock's file means nothing once it is let go of, what is removed goes with the next run, and the log is for people.
MAY_FAIL = {"unlock", "unlink", "rmdir", "rmtree", "log"}
_ADVICE = re.compile(r"error: [^;]+; .{10,}")


def judged(work: Work, place: Path, notes: Path, reference: dict[str, str], at: int, mode: fault.Refusal, lasting: bool) -> Verdict:
    """Refuse `work` operation `at`, look, run it again without the fault, look again."""
    before = whole_files(place)
    refused = in_child(work, place, notes / "refused", at, mode, lasting=lasting)
    hit = next((one for one in refused.operations if one["number"] == at), None)
    name = f"{mode}{' lasting' if lasting else ''}, {hit['name']} {hit['path'].removeprefix(str(place))}" if hit else mode
    if hit is None or not fault.hits(mode, hit["name"]):
        return Verdict(at, name, False, [] if refused.code == 0 else [f"without an errno it exits with {refused.code}: {refused.said[-300:]}"])
    survived = refused.code == 0
    wrong = half_made(place, before, refused.operations) + (_survived(hit, place, reference) if survived else told(refused, place))
    again = in_child(work, place, notes / "again")
    if again.code:
        return Verdict(at, name, True, [*wrong, f"the same command again exits with {again.code}: {again.said[-300:]}"], survived)
    return Verdict(at, name, True, wrong + differences(place, reference), survived)


def told(ended: Ended, place: Path) -> list[str]:
    """What is wrong with the end of a command that failed: one line, exit code 7, a path and advice."""
    lines = ended.said.splitlines()
    wrong = [] if ended.code == DISK else [f"it exits with {ended.code}"]
    if len(lines) != 1:
        wrong.append(f"it says {len(lines)} lines: {ended.said[-400:]!r}")
    elif not (_ADVICE.fullmatch(lines[0]) and str(place) in lines[0]):
        wrong.append(f"no path or no advice: {lines[0]!r}")
    return wrong


def _survived(hit: dict[str, Any], place: Path, reference: dict[str, str]) -> list[str]:
    """What is wrong with a command that ended well all the same: what was refused was needed, or something lacks."""
    kind = "log" if hit["path"].endswith("log.jsonl") and hit["name"] == "write" else hit["name"]
    wrong = [] if kind in MAY_FAIL else [f"{hit['name']} was refused, and the command ended as if it was not"]
    return wrong + [line for line in differences(place, reference) if not is_own_name(line.removesuffix(" is stray"))]


def trials(sweep: Sweep, given: argparse.Namespace) -> Iterator[Verdict]:
    """The verdicts for every errno that is asked for, once and lasting."""
    modes = [given.errno] if given.errno in get_args(fault.Refusal) else get_args(fault.Refusal)
    ways = list(itertools.product(modes, {"no": [False], "yes": [True], "both": [False, True]}[given.lasting]))
    if given.errno == "turns":
        plan = spread(in_turn(sweep.operations, ways), given.limit)
    else:
        plan = [(at, *way) for way in ways for at in sweep.planned(way[0], given.limit, given.only)]
    for at, mode, lasting in plan:
        yield sweep.tried(partial(_judged, sweep, at, mode, lasting))


def in_turn(operations: Sequence[dict[str, Any]], ways: Sequence[tuple[fault.Refusal, bool]]) -> list[tuple[int, fault.Refusal, bool]]:
    """Every operation that can be refused, each in the way that came least often so far of those that can hit it."""
    found, came = [], dict.fromkeys(ways, 0)
    for one in operations:
        able = [way for way in ways if fault.hits(way[0], one["name"])]
        if able:
            way = min(able, key=came.__getitem__)
            came[way] += 1
            found.append((one["number"], *way))
    return found


def _judged(sweep: Sweep, at: int, mode: fault.Refusal, lasting: bool, place: Path) -> Verdict:
    return judged(sweep.work, place, sweep.scratch / "trial-notes", sweep.expected, at, mode, lasting)


def main(arguments: Sequence[str] | None = None) -> int:
    limits = "at most N trials per stage, errno and persistence, evenly spread"
    parser = options(__doc__, only="replay the trial at operation N of one stage and errno", limit=limits, seed="of the rows and of the training")
    parser.add_argument("--errno", choices=(*get_args(fault.Refusal), "all", "turns"), default="all")
    parser.add_argument("--lasting", choices=("no", "yes", "both"), default="both", help="whether the errno comes once, or stays until the run ends")
    given = parser.parse_args(arguments)
    if given.only and (given.stage == "all" or given.errno in ("all", "turns")):
        parser.error("--only needs --stage and --errno")
    settings, found = recipe(given.seed, given.rows), {}
    with ground(settings) as (scratch, start):
        write_recipe(start, settings)
        for stage, sweep in each(given.stage, scratch, start, lambda stage, start, folder: Sweep(partial(type_stage, stage), start, folder)):
            found[stage] = counted(trials(sweep, given), lambda line: print(line, flush=True))
            print(f"{stage}: {counts(found[stage])}, {found[stage]['survived']} survived", flush=True)
    return finish(found, given, f"errno {given.errno}, lasting {given.lasting}")


if __name__ == "__main__":
    sys.exit(main())
