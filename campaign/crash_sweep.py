"""Kill an experiment at every operation on the file system, run the same command again, and compare with a run that nothing disturbed.

    python -m campaign.crash_sweep [--stage score|select|train|evaluate|export|...|all] [--mode before|torn] [--only N] [--limit N] [--seed S] [--out r.json]

A stage is swept from n = 1 on: a forked child runs it from what the stages before it left and dies by SIGKILL just before operation n, or, in mode
`torn`, with half of the bytes of write n on the disk. Right then no file may stand under its final name unless it is whole. Then the same command
runs again without a fault. It passes if it ends well, every artifact and exported file has the bytes of the reference run, all rows are accounted
for by their ids, and no temporary file and no folder under construction is left. `--only N` replays one trial of one stage. Exit 1 on any failure,
and where a kill did not land. SIGKILL spares the page cache, so this says nothing about a power cut.
"""

import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from campaign.small_experiment import recipe
from campaign.spread import spread
from campaign.stages import each, finish, ground, options, work_of
from campaign.tally import counts
from campaign.trial import Verdict, Work, contents, in_child, judged
from curate import fault

_TELL = 60.0  # seconds


class Sweep:
    """One stage: where it starts from, what it leaves undisturbed, and the operations at which a kill can come."""

    def __init__(self, work: Work, start: Path, scratch: Path) -> None:
        self.work, self.start, self.scratch = work, start, scratch
        self.reference = scratch / "reference"
        shutil.copytree(start, self.reference)
        ended = in_child(work, self.reference, scratch / "notes")
        if ended.code:
            raise SystemExit(f"the reference run exits with {ended.code}:\n{ended.said}")
        self.operations, self.expected = ended.operations, contents(self.reference)

    def planned(self, mode: fault.Mode, limit: int, only: int) -> list[int]:
        """The operations at which such a fault can come, for `torn` the writes of several bytes; `limit` takes them evenly spread."""
        numbers = [one["number"] for one in self.operations if fault.hits(mode, one["name"]) and (mode != "torn" or one["bytes"] > 1)]
        if only:
            return [number for number in numbers if number == only]
        return spread(numbers, limit)

    def trial(self, at: int, mode: fault.Mode) -> Verdict:
        """Kill at this operation, in a copy of what the stage starts from."""
        return self.tried(lambda place: judged(self.work, place, self.scratch / "trial-notes", self.expected, at, mode))

    def tried(self, trial: Callable[[Path], Verdict]) -> Verdict:
        """The verdict of a trial in a copy of what the stage starts from, which is removed."""
        place = self.scratch / "trial"
        shutil.copytree(self.start, place, symlinks=True)
        try:
            return trial(place)
        finally:
            shutil.rmtree(place)


def swept(sweep: Sweep, mode: fault.Mode, limit: int, only: int, say: Callable[[str], None]) -> dict[str, Any]:
    """The counts of a sweep and its failures; a kill that did not land is counted as such, never as passed."""
    verdicts = (sweep.trial(number, mode) for number in sweep.planned(mode, limit, only))
    return {"mode": mode, "operations": len(sweep.operations), **counted(verdicts, say)}


def counted(verdicts: Iterable[Verdict], say: Callable[[str], None]) -> dict[str, Any]:
    """How many of these trials landed, passed and failed; a line for each that failed, when it did, and one a minute."""
    began = told = time.monotonic()
    tried: list[Verdict] = []
    for verdict in verdicts:
        tried.append(verdict)
        if verdict.wrong:
            say(f"  FAILED at {verdict.number} ({verdict.operation}): " + "; ".join(verdict.wrong[:3]) + (" ..." if len(verdict.wrong) > 3 else ""))
        if time.monotonic() - told > _TELL:
            told = time.monotonic()
            say(f"  {len(tried)} tried, {sum(bool(one.wrong) for one in tried)} failed, {told - began:.0f} s")
    bad = [one for one in tried if one.wrong]
    landed = sum(one.landed for one in tried)
    return {
        "planned": len(tried),
        "landed": landed,
        "not_landed": len(tried) - landed,
        "passed": sum(one.landed and not one.wrong for one in tried),
        "failed": len(bad),
        "survived": sum(one.survived for one in tried),
        "seconds": round(time.monotonic() - began, 1),
        "failures": [asdict(one) for one in bad],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    limits = "at most N trials per stage, evenly spread over its operations"
    parser = options(__doc__, only="replay the trial at operation N of one stage", limit=limits, seed="of the rows and of the training")
    parser.add_argument("--mode", choices=get_args(fault.Kill), default="before")
    given = parser.parse_args(arguments)
    if given.only and given.stage == "all":
        parser.error("--only needs --stage")
    settings, found = recipe(given.seed, given.rows), {}
    with ground(settings) as (scratch, start):
        for stage, sweep in each(given.stage, scratch, start, lambda stage, start, folder: Sweep(work_of(stage, settings), start, folder)):
            found[stage] = swept(sweep, given.mode, given.limit, given.only, lambda line: print(line, flush=True))
            print(f"{stage}: {counts(found[stage])}", flush=True)
    return finish(found, given, f"mode {given.mode}")


if __name__ == "__main__":
    sys.exit(main())
