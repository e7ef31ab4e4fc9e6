"""What the faults of a cluster land on: some shards of rows with a scorer that takes its time, run by the real command, and how a run is judged."""

import contextlib
import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil

from campaign.command import Running, finish, start
from campaign.poison import MARKS, POISON, SLOW, registered
from campaign.poison import NAME as SCORER
from campaign.small_experiment import NAME, ROOT, recipe
from campaign.trial import contents

SHARD = 256
TTL = "CURATE_CAMPAIGN_TTL"
PATIENCE = 600.0  # seconds that a command may take
_REASONS = ("killed_worker", "hung_worker", "not_finite")
_LOGS = re.compile(r"runs/[^/]+/logs(/tasks\.jsonl|/stacks-[0-9a-f]+\.txt)?")  # what people read, and the stacks of what hung
_MOST_SHOWN = 4


@dataclass(frozen=True)
class Size:
    """Of an experiment: rows of the pool, and the seconds that one of its batches takes, which one shard is."""

    rows: int
    slow: float

    @property
    def shards(self) -> int:
        return -(-self.rows // SHARD)


@dataclass
class Ground:
    """A folder for trials, and what undisturbed runs in this process alone leave behind, by the rows that they set aside."""

    scratch: Path
    seed: int
    references: dict[tuple[Size, tuple[str, ...]], dict[str, str]] = field(default_factory=dict)

    @cached_property
    def path(self) -> str:
        return f"{ROOT}:{registered(self.scratch / 'registered')}"

    def lay(self, name: str, size: Size) -> Path:
        """A folder with the pool and the recipe."""
        place = self.scratch / name
        place.mkdir()
        # The rows of a shard are those of neighbouring ids, which start with the row's number.
        rows = [{"id": f"{row:06d}", "prompt": f"campaign row {row}", "completion": f"answer {row * 7919 % 9973}"} for row in range(size.rows)]
        (place / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        settings = recipe(self.seed, 0) | {
            "pool": {"path": "pool.jsonl", "id": "id"},
            "features": {"odd": {"name": SCORER}},
            "arms": {"odd": {"scores": "odd", "selector": "top_k"}},
            "budgets": [16],
        }
        (place / f"{NAME}.yaml").write_text(json.dumps(settings, indent=1))
        return place

    def command(self, workers: int, profile: Path | None = None) -> list[str]:
        """The command line; its time to live for workers is set by a variable."""
        whence = ["--profile", str(profile)] if profile else ["--workers", str(workers)]
        return [sys.executable, "-m", "campaign.cluster_faults_command", "run", f"{NAME}.yaml", "--until", "select", "--quiet", "--device", "cpu", *whence]

    def variables(self, size: Size, marks: Path, poison: Mapping[str, str] | None = None, ttl: str = "") -> dict[str, str]:
        """The environment of a command."""
        marks.mkdir(exist_ok=True)
        given = {"PYTHONPATH": self.path, POISON: json.dumps(dict(poison or {})), SLOW: str(size.slow), MARKS: str(marks)}
        return given | ({TTL: ttl} if ttl else {})

    def reference(self, size: Size, aside: Sequence[str] = ()) -> dict[str, str]:
        """Every file of a run without faults, in one process, whose scorer gives no number for the rows `aside`."""
        key = (size, tuple(sorted(aside)))
        if key not in self.references:
            place = self.lay(f"reference-{len(self.references)}", size)
            quick = Size(size.rows, 0.0)
            marks = self.scratch / "no-marks"
            variables, said = self.variables(quick, marks, dict.fromkeys(aside, "nan")), self.scratch / "reference.said"
            code, _ = finish(self.command(1), place, said, variables, seconds=PATIENCE)
            if code:
                raise SystemExit(f"the reference run exits with {code}: {said.read_text()[-400:]}")
            self.references[key] = kept(place)
        return self.references[key]

    def wrong_with(self, place: Path, size: Size, aside: Mapping[str, str] | None = None) -> list[str]:
        """What differs from the reference, and what `curate verify` says; rows `aside` must be so for the reasons given."""
        aside = aside or {}
        expected, here = self.reference(size, list(aside)), kept(place)
        wrong = [f"{name} is missing" for name in sorted(expected.keys() - here.keys())]
        wrong += [f"{name} is stray" for name in sorted(here.keys() - expected.keys())]
        wrong += [f"{name} has other contents" for name in sorted(here.keys() & expected.keys()) if here[name] != expected[name]]
        found = set_aside(place)
        if found != {f"{int(row):06d}": reason for row, reason in aside.items()}:
            wrong.append(f"set aside are {found}, not {dict(aside)}")
        return wrong[:_MOST_SHOWN] + verified(place)


def kept(place: Path) -> dict[str, str]:
    """What a run leaves, by name, with a hash; in features the reasons for which rows are set aside do not count, nor what follows from them."""
    found = {name: value for name, value in contents(place).items() if not _LOGS.fullmatch(name)}
    for name in found:
        if re.fullmatch(r"store/features-[^/]*/[^/]*\.json", name) and found[name]:
            found[name] = _without_reasons(json.loads((place / name).read_bytes()))
    return found


def _without_reasons(read: Any) -> str:
    if isinstance(read, dict) and "files" in read:
        read["files"] = {name: one for name, one in read["files"].items() if not name.endswith(".json")}
        read.pop("blake2b", None)  # of what the manifest says, hashes of those files among it
    text = json.dumps(read, sort_keys=True)
    for reason in _REASONS:
        text = text.replace(f'"{reason}"', '"aside"')
    return text


def set_aside(place: Path) -> dict[str, str]:
    """The rows that features set aside, with their reasons."""
    found: dict[str, str] = {}
    for sidecar in place.glob("store/features-*/shard-*.json"):
        found.update({str(row): str(reason) for row, reason in json.loads(sidecar.read_bytes())["quarantined"]})
    return found


def verified(place: Path) -> list[str]:
    """What `curate verify` says, in this process."""
    from curate.errors import CurateError
    from curate.pipelines.check import check

    try:
        check(place / "runs" / NAME, place / "store")
    except (CurateError, OSError) as error:
        return [f"curate verify: {str(error).splitlines()[0]}"]
    return []


@dataclass
class Trial:
    """One trial under way: its folder, its draws, what has landed and what is wrong."""

    ground: Ground
    kind: str
    number: int
    size: Size
    place: Path
    drawn: random.Random
    planned: int = 1
    landed: int = 0
    story: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    commands: list[Running] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        return self.place / "runs" / NAME / "logs" / "tasks.jsonl"

    @property
    def marks(self) -> Path:
        return self.ground.scratch / f"marks-{self.place.name}"

    def started(self, workers: int, poison: Mapping[str, str] | None = None, *, profile: Path | None = None, ttl: str = "") -> Running:
        """The command under way."""
        variables = self.ground.variables(self.size, self.marks, poison, ttl)
        said = self.ground.scratch / f"said-{self.kind}-{self.number}-{len(self.commands)}.txt"
        self.commands.append(start(self.ground.command(workers, profile), self.place, said, variables))
        return self.commands[-1]

    def profile(self, **fields: Any) -> Path:
        """A profile in a file beside the trial's folder."""
        path = self.ground.scratch / f"profile-{self.kind}-{self.number}.yaml"
        path.write_text(json.dumps(fields))
        return path

    def until(self, running: Running, holds: Callable[[], bool], seconds: float = 300.0) -> bool:
        """Wait until this holds; False where the command ends before, or it takes too long."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and running.process.poll() is None:
            with contextlib.suppress(psutil.Error):
                if holds():
                    return True
            time.sleep(0.05)
        return False

    def at_work(self, running: Running) -> bool:
        """Wait until the first shard is there."""
        return self.until(running, lambda: any(self.place.glob("store/.part/features-*/shard-*.json")))

    def land(self, what: str) -> None:
        """Note that a fault has landed."""
        self.landed += 1
        self.story.append(what)

    def must_end(self, running: Running, code: int = 0, seconds: float = PATIENCE) -> bool:
        """Whether it ends with this exit code in time; what is wrong is noted otherwise."""
        found = running.ended(seconds)
        if found != code:
            self.wrong.append(f"it {'still runs' if found is None else f'exits with {found}'}, not {code}: {running.words()}")
        return found == code

    def same(self, aside: Mapping[str, str] | None = None) -> None:
        """Everything must be as after the run without faults, and every shard done once per run at most."""
        self.wrong += self.ground.wrong_with(self.place, self.size, aside)

    def count(self, most_deaths: int | None = None) -> None:
        """Executions of tasks by the log; more deaths than faults means that something else dies too."""
        events = events_of(self.log)
        ended = Counter(event["ended"] for event in events)
        deaths = sum(ended.values()) - ended["done"]
        self.figures |= {"executions": len(events), "deaths": deaths}
        done = Counter((event["label"], event["task"]) for event in events if event["ended"] == "done" and not event["label"].endswith("(apart)"))
        runs = len(self.commands)
        self.wrong += [f"{task} of {label} was done {times} times by {runs} commands" for (label, task), times in done.items() if times > runs]
        if most_deaths is not None and deaths > most_deaths:
            self.wrong.append(f"{deaths} deaths of tasks were noted, more than {most_deaths} faults")

    def over(self) -> None:
        """Nothing of it may run half a minute later."""
        for running in self.commands:
            if running.process.poll() is not None:
                self.wrong += running.orphans(30.0)

    def remove(self) -> None:
        """End what still runs."""
        for running in self.commands:
            running.remove()


def events_of(log: Path) -> list[dict[str, Any]]:
    """What the log says of tasks; a line that a kill cut short does not count."""
    found = []
    for line in log.read_text().splitlines() if log.is_file() else ():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found
