"""Kill an experiment at every operation on the file system, run the same command again, and compare with a run that nothing disturbed.

    python -m campaign.crash_sweep [--stage score|select|train|evaluate|export|...|all] [--mode before|torn] [--only N] [--limit N] [--seed S] [--out r.json]

A stage is swept from n = 1 on: a forked child runs it from what the stages before it left and dies by SIGKILL just before operation n, or, in mode
`torn`, with half of the bytes of write n on the disk. Right then no file may stand under its final name unless it is whole. Then the same command
runs again without a fault. It passes if it ends well, every artifact and exported file has the bytes of the reference run, all rows are accounted
for by their ids, and no temporary file and no folder under construction is left. `--only N` replays one trial of one stage. Exit 1 on any failure,
and where a kill did not land. SIGKILL spares the page cache, so this says nothing about a power cut.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, get_args

for _name, _value in {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}.items():
    os.environ.setdefault(_name, _value)

from campaign.small_experiment import STAGES, recipe, run_stage  # noqa: E402
from campaign.trial import Verdict, Work, contents, in_child, judged  # noqa: E402
from curate import fault  # noqa: E402


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
        count = min(limit, len(numbers)) if limit else len(numbers)
        return [numbers[place * len(numbers) // count] for place in range(count)]

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
    began = time.monotonic()
    verdicts = [sweep.trial(number, mode) for number in sweep.planned(mode, limit, only)]
    return {"mode": mode, "operations": len(sweep.operations), **counted(verdicts, time.monotonic() - began, say)}


def counted(verdicts: Sequence[Verdict], seconds: float, say: Callable[[str], None]) -> dict[str, Any]:
    """How many of these trials landed, passed and failed; a line for each that failed."""
    bad = [verdict for verdict in verdicts if verdict.wrong]
    for verdict in bad:
        say(f"  FAILED at {verdict.number} ({verdict.operation}): " + "; ".join(verdict.wrong[:3]) + (" ..." if len(verdict.wrong) > 3 else ""))
    landed = sum(verdict.landed for verdict in verdicts)
    return {
        "planned": len(verdicts),
        "landed": landed,
        "not_landed": len(verdicts) - landed,
        "passed": sum(verdict.landed and not verdict.wrong for verdict in verdicts),
        "failed": len(bad),
        "survived": sum(verdict.survived for verdict in verdicts),
        "seconds": round(seconds, 1),
        "failures": [asdict(verdict) for verdict in bad],
    }


def sweeps(wanted: str, scratch: Path, start: Path, work_of: Callable[[str], Work]) -> Iterator[tuple[str, Sweep]]:
    """A sweep of the wanted stage, or of `all` in their order; those before it are run without a fault."""
    for stage in STAGES:
        sweep = Sweep(work_of(stage), start, scratch / stage)
        start = sweep.reference
        if wanted in (stage, "all"):
            yield stage, sweep
        if wanted == stage:
            return


def warmed(settings: dict[str, object], place: Path) -> None:
    """Run every stage once in this process, so that its children find all libraries imported and set up."""
    for stage in STAGES:
        run_stage(stage, place, settings)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=(*STAGES, "all"), default="all")
    parser.add_argument("--mode", choices=get_args(fault.Kill), default="before")
    parser.add_argument("--only", type=int, default=0, metavar="N", help="replay the trial at operation N of one stage")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="at most N trials per stage, evenly spread over its operations")
    parser.add_argument("--seed", type=int, default=0, help="of the rows and of the training")
    parser.add_argument("--rows", type=int, default=300, help="of the pool; scores come in shards of 256")
    parser.add_argument("--out", type=Path, help="write the counts and the failures here, as JSON")
    given = parser.parse_args(arguments)
    if given.only and given.stage == "all":
        parser.error("--only needs --stage")
    settings, found = recipe(given.seed, given.rows), {}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        warmed(settings, scratch / "warm")
        start = scratch / "start"
        start.mkdir()
        for stage, sweep in sweeps(given.stage, scratch, start, lambda stage: partial(stage_work, stage, settings)):
            found[stage] = swept(sweep, given.mode, given.limit, given.only, lambda line: print(line, flush=True))
            print(f"{stage}: {counts(found[stage])}", flush=True)
    return finish(found, given, f"mode {given.mode}")


def stage_work(stage: str, settings: dict[str, object], place: Path) -> None:
    run_stage(stage, place, settings)


def counts(one: dict[str, Any]) -> str:
    return ", ".join(f"{one[name]} {name.replace('_', ' ')}" for name in ("planned", "landed", "not_landed", "passed", "failed")) + f", {one['seconds']} s"


def finish(found: dict[str, dict[str, Any]], given: argparse.Namespace, what: str) -> int:
    """Print the sums, write them where they are wanted, and say with the exit code whether all is well."""
    names = ("planned", "landed", "not_landed", "passed", "failed")
    total: dict[str, Any] = {name: sum(one[name] for one in found.values()) for name in names}
    total["seconds"] = round(sum(one["seconds"] for one in found.values()), 1)
    print(f"all, {what}, seed {given.seed}: {counts(total)}")
    if given.out:
        given.out.write_text(json.dumps({"what": what, "seed": given.seed, "rows": given.rows, "total": total, "stages": found}, indent=1) + "\n")
    return 0 if total["planned"] and total["passed"] == total["planned"] else 1


if __name__ == "__main__":
    sys.exit(main())
