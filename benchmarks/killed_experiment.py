"""An experiment of 5 arms x 3 budgets x 3 seeds on the quickstart's pool with two workers: what it costs beyond training and evaluation, and what kills cost.

    python benchmarks/killed_experiment.py [--kills 5] [--seed 0] [--workers 2] [--out DIR]

First whole, in one command. Overhead is the wall time from the first model to the last times the workers, over the seconds that training and
evaluation took by themselves; what comes before (reading, scoring, selecting) and after (comparing, describing, the report) is printed beside it.
Then again into another store, where the whole process group is killed with SIGKILL at random moments and started again with the same command until
it is done. At the end both stores must hold the same artifacts with the same bytes, and what stood at a kill must not have been made again: exit 1
otherwise. `--seed` replays the moments.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

FIELDS = [
    "arms={less-rr: {vectors: gradient, selector: round_robin}, less-mean: {vectors: gradient, selector: top_k}, "
    "rds-rr: {vectors: hidden, selector: round_robin}, facility: {vectors: hidden, selector: facility_location}, "
    "coverage: {scores: error, selector: coverage}}",
    "budgets=[40, 80, 120]",
    "seeds=[0, 1, 2]",
    "train.epochs=4",
]


def started(place: Path, workers: int, *more: str) -> subprocess.Popen[bytes]:
    """`curate run` in a process group of its own."""
    command = [sys.executable, "-m", "curate", "run", "quickstart", *FIELDS, "--workers", str(workers), "--quiet", "--device", "cpu"]
    where = ["--store", str(place / "store"), "--runs", str(place / "runs")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*command, *where, *more], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True, env=environment)


def finished(place: Path, workers: int, *more: str) -> float:
    """Seconds that the command took; its own words and exit 1 where it failed."""
    began = time.monotonic()
    process = started(place, workers, *more)
    _, said = process.communicate()
    if process.returncode:
        sys.exit(said.decode()[-2000:])
    return time.monotonic() - began


def artifacts(place: Path) -> dict[str, dict[str, Any]]:
    """The files of every finished artifact, with sizes and hashes."""
    return {path.parent.name: json.loads(path.read_bytes())["files"] for path in (place / "store").glob("*/manifest.json")}


def stamps(place: Path) -> dict[str, int]:
    """When every finished artifact was written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in (place / "store").glob("*/manifest.json")}


def stages(place: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((place / "runs" / "quickstart" / "results.json").read_bytes())["stages"]
    return found


def span(place: Path) -> tuple[float, float]:
    """When the first model was begun and the last one was done, by the run's log."""
    events = [json.loads(line) for line in (place / "runs" / "quickstart" / "log.jsonl").read_text().splitlines()]
    first = next(event["time"] for event in events if event.get("stage") == "train")
    return first, max(event["time"] for event in events if event.get("label") == "train and evaluate")


def killed(place: Path, workers: int, moments: list[float]) -> tuple[int, int]:
    """Run until done, killed after each of these seconds; how many artifacts stood at the kills, and how many of those were made again."""
    stood: dict[str, int] = {}
    again = 0
    for seconds in moments:
        process = started(place, workers)
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        now = stamps(place)
        again += sum(now.get(key) != stamp for key, stamp in stood.items())
        print(f"killed after {seconds:.1f} s: {len(now)} artifacts stand, {len(now) - len(stood)} of them new", flush=True)
        stood = now
    finished(place, workers)
    again += sum(stamps(place).get(key) != stamp for key, stamp in stood.items())
    return len(stood), again


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = given.out or Path(folder)
        began = time.time()
        whole_run = finished(place / "whole", given.workers)
        first, last = span(place / "whole")
        again = finished(place / "whole", given.workers)
        spent = sum(stage["seconds"] for stage in stages(place / "whole") if stage["stage"] in ("train", "evaluate"))
        cells = sum(stage["stage"] == "train" for stage in stages(place / "whole"))
        after = began + whole_run - last
        print(f"{cells} models with {given.workers} workers: {first - began:.1f} s before the first, {last - first:.1f} s, {after:.1f} s after the last")
        print(f"training and evaluation {spent:.1f} s: overhead {given.workers * (last - first) / spent - 1:.1%}; the same command again {again:.1f} s")
        moments = np.random.default_rng(given.seed).uniform(0.15, 0.6, given.kills) * whole_run
        stood, repeated = killed(place / "torn", given.workers, moments.tolist())
        whole, torn = artifacts(place / "whole"), artifacts(place / "torn")
        same = whole == torn
        print(f"{len(torn)} artifacts, the same bytes as without kills: {same}; {repeated} of {stood} that stood at the last kill or before were made again")
        sys.exit(0 if same and not repeated else 1)


if __name__ == "__main__":
    main()
