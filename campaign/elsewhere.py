"""The small experiment on workers that a cluster profile brings, against the same experiment in one process: every artifact must have the same bytes."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from campaign.small_experiment import NAME, recipe
from campaign.trial import contents

ROOT = Path(__file__).resolve().parents[1]
QUIET = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


@dataclass
class Ended:
    """A `curate run` that is over."""

    code: int
    seconds: float
    said: str
    printed: str = ""  # on standard output


@dataclass
class Report:
    """What a driver planned and saw; a check that did not land is counted as such, never as passed."""

    name: str
    planned: int
    seconds: float = 0.0
    passed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    def check(self, what: str, right: bool, said: str = "") -> None:
        (self.passed if right else self.failed).append(what)
        print(f"  {'ok' if right else 'FAILED'}: {what}{'' if right else ' - ' + said[-600:]}", flush=True)

    def finish(self, out: Path | None) -> int:
        """Print the sums, write them where they are wanted; the exit code."""
        landed = len(self.passed) + len(self.failed)
        sums = {"planned": self.planned, "landed": landed, "not_landed": self.planned - landed, "passed": len(self.passed), "failed": len(self.failed)}
        print(f"{self.name}: " + ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in sums.items()) + f", {self.seconds:.1f} s")
        print(f"figures: {json.dumps(self.figures)}")
        if out:
            whole = {"driver": self.name, **sums, "seconds": self.seconds, "failures": self.failed, "figures": self.figures}
            out.write_text(json.dumps(whole, indent=1) + "\n")
        return 0 if len(self.passed) == self.planned else 1


def skipped(reason: str) -> int:
    """Nothing was tested, and that is said; the exit code is that of no failure."""
    print(f"skipped: {reason}")
    return 0


def write_recipe(place: Path, seed: int, rows: int) -> Path:
    """The recipe of the small experiment in this folder."""
    place.mkdir(parents=True, exist_ok=True)
    path = place / "small.yaml"
    path.write_text(yaml.safe_dump(recipe(seed, rows)))
    return path


def curate(place: Path, *arguments: str, environment: Mapping[str, str] | None = None, prefix: Sequence[str] = (), python: str = sys.executable) -> Ended:
    """`curate run` of the recipe in this folder, into its own store and runs."""
    command = [*prefix, python, "-m", "curate", "run", "small.yaml", "--store", "store", "--runs", "runs", "--device", "cpu", *arguments]
    given = {**os.environ, **QUIET, "PYTHONPATH": str(ROOT), **(environment or {})}
    began = time.monotonic()
    done = subprocess.run(command, cwd=place, env=given, capture_output=True, text=True, timeout=900)
    return Ended(done.returncode, round(time.monotonic() - began, 1), done.stdout[-2000:] + done.stderr[-6000:], done.stdout)


def write_profile(place: Path, name: str, **fields: Any) -> str:
    """A profile as a file in this folder; its name for --profile."""
    (place / f"{name}.yaml").write_text(json.dumps(fields))
    return f"./{name}.yaml"


def artifacts(place: Path) -> dict[str, str]:
    """Every file of the store with its hash."""
    return contents(place / "store")


def differing(ours: dict[str, str], theirs: dict[str, str]) -> list[str]:
    """The files that only one of them has, or that differ; a store without files differs too."""
    return sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)) if ours else ["nothing to compare with"]


def workers_of(place: Path) -> set[str]:
    """The addresses of workers that ended a task, by the run's own log."""
    log = place / "runs" / NAME / "logs" / "tasks.jsonl"
    lines = log.read_text().splitlines() if log.is_file() else []
    return {entry["worker"] for line in lines if (entry := json.loads(line)).get("ended") == "done"}


def left_over(place: Path) -> list[str]:
    """Certificates and sentinels that a finished run should have taken with it."""
    return [str(path.relative_to(place)) for path in place.rglob("*") if path.name.startswith((".tls-", ".greeting-"))]


def found(*programs: str) -> list[str]:
    """Those of these programs that are not installed."""
    return [program for program in programs if shutil.which(program) is None]
