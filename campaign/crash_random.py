"""Kill, interrupt or freeze the real command from outside at random moments, run it again, and compare with a run that nothing disturbed.

    python -m campaign.crash_random [--trials 3] [--mode driver|group|triple|five|interrupt|twice|terminate|second|frozen|all] [--workers 1,2]
                                    [--experiment small|quickstart] [--only MODE:WORKERS:N] [--seed S] [--out r.json]

`curate run` is a process of its own: of a small experiment, or of the quickstart itself. `driver` kills that process alone with SIGKILL, so that its
workers are left behind; `group` kills it with all that it started; `triple` and `five` do either three or five times, so that kills hit the recovery
too. `interrupt` is Ctrl-C at a terminal, `twice` a second one soon after, `terminate` SIGTERM: they must end with exit code 130. `second` starts
another driver on the same run, which must refuse with exit code 6 and change nothing; `frozen` does so while the first one is stopped by SIGSTOP and
goes on afterwards. Then the same command runs again. A trial passes if that ends well, every file has the bytes of the reference run, `curate verify`
accounts for every row by its id, nothing temporary is left, and no process of the killed command runs 30 seconds later. A signal that came after the
end has not landed, and is drawn anew.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from campaign.command import curate
from campaign.crash_trial import MODES, Ground, Subject, run_trial
from campaign.small_experiment import NAME, recipe, write_recipe
from campaign.tally import counts, ended, total

_TRIES = 4  # times that a signal which did not land is drawn anew, per planned trial


def subject(seed: int, rows: int) -> Subject:
    """The small experiment, whole, by the command line."""

    def prepare(place: Path) -> None:
        place.mkdir(parents=True)
        write_recipe(place, recipe(seed, rows))

    return _subject(f"{NAME}.yaml", NAME, prepare)


def quickstart() -> Subject:
    """The command of the README, in an empty folder."""
    return _subject("quickstart", "quickstart", lambda place: place.mkdir(parents=True))


def _subject(typed: str, name: str, prepare: Callable[[Path], None]) -> Subject:
    """`curate run` of what is `typed`, which makes the run `name`."""

    def command(workers: int) -> list[str]:
        return curate("run", typed, "--workers", workers, "--quiet", "--device", "cpu")

    def verify(place: Path) -> list[str]:
        """What `curate verify` says, in this process."""
        from curate.errors import CurateError
        from curate.pipelines.certify import certify_run
        from curate.pipelines.check import check

        try:
            check(place / "runs" / name, place / "store")
            certify_run(place / "runs" / name, place / "store")
        except CurateError as error:
            return [f"curate verify: {str(error).splitlines()[0]}"]
        return []

    return Subject(prepare, command, verify, Path("runs") / name / "log.jsonl")


def swept(ground: Ground, mode: str, workers: int, numbers: Sequence[int], say: Callable[[str], None]) -> dict[str, Any]:
    """The counts of one mode and its failures, and a line for each trial; one whose signal did not land is repeated with other moments."""
    began, passed, not_landed, bad = time.monotonic(), 0, 0, []
    for number in numbers:
        started = time.monotonic()
        for attempt in range(_TRIES):
            one = run_trial(ground, mode, workers, number, attempt)
            if one.wrong or one.landed:
                break
            not_landed += 1
        if one.wrong:
            bad.append(one)
        word = "passed" if one.landed and not one.wrong else "NOT LANDED" if not one.wrong else f"FAILED, {len(one.wrong)} wrong: {one.wrong[0]}"
        say(f"  {mode}:{workers}:{number} {word} ({one.story}; {time.monotonic() - started:.1f} s)")
        passed += one.landed and not one.wrong
    return {
        "mode": mode,
        "workers": workers,
        "planned": len(numbers),
        "landed": passed + sum(one.landed for one in bad),
        "not_landed": not_landed,
        "passed": passed,
        "failed": len(bad),
        "seconds": round(time.monotonic() - began, 1),
        "failures": [asdict(one) for one in bad],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=(*MODES, "all"), default="all")
    parser.add_argument("--experiment", choices=("small", "quickstart"), default="small", help="that is killed")
    parser.add_argument("--trials", type=int, default=1, help="of each mode and number of workers")
    parser.add_argument("--workers", default="1,2", help="numbers of workers, by commas")
    parser.add_argument("--only", default="", metavar="MODE:WORKERS:N", help="replay one trial")
    parser.add_argument("--seed", type=int, default=0, help="of the rows and of the moments")
    parser.add_argument("--rows", type=int, default=300, help="of the small experiment's pool; scores come in shards of 256")
    parser.add_argument("--out", type=Path, help="write the counts and the failures here, as JSON")
    given = parser.parse_args(arguments)
    plan = [(mode, int(workers), list(range(given.trials))) for mode in MODES if given.mode in (mode, "all") for workers in given.workers.split(",")]
    if given.only:
        mode, workers, number = given.only.split(":")
        plan = [(mode, int(workers), [int(number)])]
    found = []
    with tempfile.TemporaryDirectory() as folder:
        killed = quickstart() if given.experiment == "quickstart" else subject(given.seed, given.rows)
        ground = Ground.laid(killed, Path(folder), given.seed)
        print(f"the reference run took {ground.seconds:.1f} s, {ground.working:.1f} of them at work", flush=True)
        for mode, workers, numbers in plan:
            found.append(swept(ground, mode, workers, numbers, lambda line: print(line, flush=True)))
            print(f"{mode}, {workers} workers: {counts(found[-1])}", flush=True)
    sums = total(found)
    print(f"all, seed {given.seed}: {counts(sums)}")
    return ended(sums, given.out, {"experiment": given.experiment, "seed": given.seed, "rows": given.rows, "total": sums, "modes": found})


if __name__ == "__main__":
    sys.exit(main())
