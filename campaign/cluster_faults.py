"""Kill, freeze and poison the processes of a cluster while the real command runs on it, and compare with a run that nothing disturbed.

    python -m campaign.cluster_faults [--kind worker|task|driver|scheduler|nanny|freeze|frozen|poison|alone|late|all] [--n N] [--seed S] [--only KIND:N]
                                      [--keep FOLDER] [--out r.json]

worker     SIGKILL of worker processes at random moments, three or more in a run, also while they start
task       three tasks that kill their process once: SIGKILL, segmentation fault, exit
driver     SIGKILL of the driver; its workers must be gone 30 s later; then the same command again, on workers or in one process
scheduler  SIGKILL, or SIGSTOP for a while, of a scheduler that runs on its own, which comes back
nanny      SIGKILL of the nanny of one of two workers; that worker must be gone 30 s later; a third one joins late
freeze     SIGSTOP of a worker beyond its time to live, then SIGCONT, with a nanny and without
frozen     SIGSTOP of the whole run, which holds its lock: a second driver exits with 6; then SIGCONT
poison     one to three rows that kill, crash, exit, hang or eat memory, on two or three workers, one time in three with a kill of the driver on the way
alone      the same in a single process, which is started until it ends well
late       no worker for a while, then some; or none at all, which must end with exit code 6 in time

A trial whose faults came too late is drawn anew. It passes if they landed, the command ends as it should, every file is as in the reference run,
exactly the rows that do harm are set aside, each with its reason, `curate verify` accounts for all rows by id, and no process is left. Faults that
did not land are counted, and are not passes.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from campaign.cluster_faults_acts import ACTS
from campaign.cluster_faults_ground import Ground, Trial

KINDS = tuple(ACTS)
_TRIES = 3  # of a trial whose faults came too late


@dataclass(frozen=True)
class Outcome:
    """One trial: how many faults were planned and landed, and what is wrong."""

    kind: str
    number: int
    planned: int
    landed: int
    story: str
    wrong: list[str]
    seconds: float
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return not self.wrong and self.landed >= self.planned


def tried(ground: Ground, kind: str, number: int, attempt: int = 0) -> Outcome:
    """One trial in a folder of its own; another attempt draws other faults and moments."""
    began, (size, act) = time.monotonic(), ACTS[kind]
    again = f"-{attempt}" if attempt else ""
    trial = Trial(ground, kind, number, size, ground.lay(f"{kind}-{number}{again}", size), random.Random(f"{ground.seed} {kind} {number}{again}"))
    try:
        act(trial)
        trial.over()
    except (OSError, RuntimeError, ValueError, IndexError, psutil.Error) as error:
        trial.wrong.append(f"the campaign itself fails: {type(error).__name__}: {error}")
    finally:
        trial.remove()
        if not trial.wrong:
            shutil.rmtree(trial.place)
    return Outcome(kind, number, trial.planned, trial.landed, ", ".join(trial.story), trial.wrong, round(time.monotonic() - began, 1), trial.figures)


def counts(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Trials planned, those whose faults all landed, passed and failed; executions and deaths of tasks where they were counted."""
    landed = sum(one.landed >= one.planned for one in outcomes)
    figures = {name: round(sum(one.figures.get(name, 0) for one in outcomes), 1) for name in sorted({name for one in outcomes for name in one.figures})}
    return {
        "planned": len(outcomes),
        "landed": landed,
        "not_landed": len(outcomes) - landed,
        "passed": sum(one.passed for one in outcomes),
        "failed": sum(bool(one.wrong) for one in outcomes),
        "seconds": round(sum(one.seconds for one in outcomes), 1),
        "faults": sum(one.landed for one in outcomes),
        **figures,
    }


def swept(ground: Ground, kind: str, numbers: Sequence[int], say: Callable[[str], None]) -> list[Outcome]:
    """Trials of one kind."""
    outcomes = []
    for number in numbers:
        for attempt in range(_TRIES):
            one = tried(ground, kind, number, attempt)
            if one.wrong or one.landed >= one.planned:
                break
            say(f"  {kind}:{number} {one.landed} of {one.planned} faults landed, the command had ended ({one.story}; {one.seconds} s)")
        outcomes.append(one)
        word = "passed" if one.passed else f"FAILED: {one.wrong[0]}" if one.wrong else f"NOT LANDED ({one.landed} of {one.planned})"
        say(f"  {kind}:{number} {word} ({one.story}; {one.seconds} s)")
    return outcomes


def line(found: dict[str, Any]) -> str:
    """Counts in words."""
    return ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in found.items())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=(*KINDS, "all"), default="all")
    parser.add_argument("--n", type=int, default=1, help="trials of each kind")
    parser.add_argument("--seed", type=int, default=0, help="of the faults and their moments")
    parser.add_argument("--only", default="", metavar="KIND:N", help="replay one trial")
    parser.add_argument("--keep", type=Path, help="keep the folders of trials that fail here")
    parser.add_argument("--out", type=Path, help="write the counts and all trials here, as JSON")
    given = parser.parse_args(arguments)
    plan = [(kind, list(range(given.n))) for kind in KINDS if given.kind in (kind, "all")]
    if given.only:
        kind, number = given.only.split(":")
        plan = [(kind, [int(number)])]
    found: dict[str, list[Outcome]] = {}
    with tempfile.TemporaryDirectory() as folder:
        if given.keep:
            given.keep.mkdir(parents=True, exist_ok=True)
        ground = Ground(Path(tempfile.mkdtemp(dir=given.keep or folder)), given.seed)
        for kind, numbers in plan:
            found[kind] = swept(ground, kind, numbers, lambda text: print(text, flush=True))
            print(f"{kind}: {line(counts(found[kind]))}", flush=True)
    everything = [one for outcomes in found.values() for one in outcomes]
    total = counts(everything)
    print(f"all, seed {given.seed}: {line(total)}")
    if given.out:
        trials = [asdict(one) for one in everything]
        by_kind = {kind: counts(outcomes) for kind, outcomes in found.items()}
        given.out.write_text(json.dumps({"seed": given.seed, "total": total, "kinds": by_kind, "trials": trials}, indent=1) + "\n")
    return 0 if everything and total["passed"] == total["planned"] else 1


if __name__ == "__main__":
    sys.exit(main())
