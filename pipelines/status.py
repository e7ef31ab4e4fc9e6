"""Status: how far a run has come, read from outside while it goes on or after it; nothing is changed and no tensor library is loaded.

    .lock held       going on: the kernel lets go of a lock when its process dies, however it dies
    .lock not held   killed: who ends in an orderly way removes it
    no .lock         finished where the record and the report are younger than recipe.yaml, which every start writes anew; else stopped:
                     interrupted or failed where the log says so

Of a run that goes on, the log tells what is done, with a line for a round of tasks every five seconds.
"""

import contextlib
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from curate.errors import CurateError, DataError, DiskError
from curate.locks import is_held
from curate.report.planned import PLAN, Plan
from curate.report.results import Results
from curate.report.standing import CellsSoFar, StageSoFar, Standing, State, Underway, Unfinished

_SKEW = 1.0  # seconds by which a file server's clock may be ahead of ours; starting anew takes longer
_TOGETHER = 0.01  # seconds within which artifacts that are made in one go are announced
_SHOWN = 5
_CELLS = "train and evaluate"  # the label of the tasks that train


class Event(BaseModel):
    """A line of log.jsonl."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    time: float
    event: Literal["stage", "progress", "message", "end"]
    stage: str = ""
    label: str = ""
    done: int = 0
    total: int = 0
    text: str = ""
    how: Literal["", "finished", "interrupted", "error"] = ""


def status(directory: Path, store: Path) -> Standing:
    """The run in this folder, as of now. DataError where there is none; DiskError where it may not be read.

    Files are compared by their times, so a copy that does not keep them may read as stopped.
    """
    if not any((directory / name).exists() for name in ("log.jsonl", "recipe.yaml", ".lock")):
        raise DataError(f"there is no run in {directory}; {_known(directory.parent)}")
    held, stale = is_held(directory / ".lock"), (directory / ".lock").exists()
    now, everything = time.time(), read_events(directory / "log.jsonl")
    results = None if held else _results(directory)
    began = _changed(directory / "recipe.yaml") or (everything[0].time if everything else _changed(directory / ".lock") or now)
    events = [event for event in everything if event.time >= began - _SKEW]
    if results:  # later lines are of another command on the same recipe
        events = [event for event in events if event.time <= _changed(directory / "run.json") + _SKEW]
    end = next((event for event in reversed(events) if event.event == "end"), None)
    state: State = "going on" if held else "finished" if results else "killed" if stale else _stopped(end)
    heard = max([began, *(event.time for event in events)])
    seen = _Seen(events, now if held else max(heard, _changed(directory / "run.json")) if results else heard)
    current = None if results else seen.current()
    left, least = (None, False) if results else _left(_plan(directory), seen, current)
    return Standing(
        run=directory.name,
        state=state,
        error=end.text if end and state == "failed" else "",
        started=_iso(began),
        seconds=round(results.seconds if results else max(0.0, seen.end - began), 3),
        silent=round(max(0.0, now - (seen.end if results else heard)), 3),
        stages=seen.stages(whole=results is not None),
        current=current,
        cells=_cells(results, seen),
        left=left,
        left_at_least=least,
        unfinished=[] if results else _unfinished(store, began),
        messages=[event.text for event in events if event.event == "message"][-_SHOWN:],
        warnings=results.warnings[-_SHOWN:] if results else [],
    )


def _stopped(end: Event | None) -> State:
    """How a run without a report ended, by the last line of its log about that; another command on it may have added that line."""
    if end is None or end.how not in ("interrupted", "error"):
        return "stopped"
    return "interrupted" if end.how == "interrupted" else "failed"


def read_events(file: Path) -> list[Event]:
    """What a log says; lines that a kill tore are passed over, also where a later start wrote on behind them."""
    try:
        lines = file.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DiskError(f"cannot read {file}: {error.strerror}; ask for it as the user who started the run") from error
    return [event for line in lines if (event := _event(line))]


def _event(line: bytes) -> Event | None:
    with contextlib.suppress(ValueError):
        return Event.model_validate_json(line[max(0, line.rfind(b'{"time"')) :])  # quotes inside of a text are escaped, so this is never one
    return None


@dataclass(frozen=True)
class _Seen:
    """The events of one start, and when it ended or was looked at."""

    events: Sequence[Event]
    end: float

    @property
    def batch(self) -> list[Event]:
        """The artifacts that were announced last, those that are made in one go together."""
        stages = [event for event in self.events if event.event == "stage"]
        first = len(stages) - 1
        while first > 0 and stages[first - 1].stage == stages[-1].stage and stages[first].time - stages[first - 1].time < _TOGETHER:
            first -= 1
        return stages[max(first, 0) :]

    @property
    def tasks(self) -> list[Event]:
        """How many tasks of the last batch were done, and when; of its last round of tasks only, which begins with none."""
        told = [event for event in self.events if event.event == "progress" and self.batch and event.time >= self.batch[0].time]
        begun = max((number for number, event in enumerate(told) if event.done == 0), default=0)
        return [event for event in told[begun:] if event.label == told[-1].label]

    def stages(self, *, whole: bool) -> list[StageSoFar]:
        """Every stage in its order; without `whole`, the last batch does not count as done."""
        labels: dict[str, set[str]] = {}
        seconds: dict[str, float] = {}
        stage, ends = "", [*(event.time for event in self.events), self.end][1:]
        for event, after in zip(self.events, ends, strict=True):
            stage = event.stage or stage
            if event.stage:
                labels.setdefault(stage, set()).add(event.label)
            if stage:
                seconds[stage] = seconds.get(stage, 0.0) + max(0.0, after - event.time)
        if not whole:
            for event in self.batch:
                labels[event.stage].discard(event.label)
        return [StageSoFar(stage=name, done=_count(found), seconds=round(seconds[name], 3)) for name, found in labels.items() if found]

    def current(self) -> Underway | None:
        """What was announced last, and how far it has come."""
        batch, tasks = self.batch, self.tasks
        if not batch:
            return None
        done = {"done": tasks[-1].done, "total": tasks[-1].total} if tasks else {}
        since, passed = batch[0].time, round(max(0.0, self.end - batch[0].time), 3)
        return Underway(stage=batch[-1].stage, labels=[event.label for event in batch], since=_iso(since), seconds=passed, **done)

    def models(self) -> int:
        """How many were announced."""
        return next((_models(event.label) for event in reversed(self.events) if event.stage == "train"), 0)

    def pace(self) -> float | None:
        """Seconds left of the tasks that are going on, at their speed so far; None where none is done."""
        tasks = self.tasks
        if not tasks or not tasks[-1].done:
            return None
        return (tasks[-1].time - tasks[0].time) / tasks[-1].done * (tasks[-1].total - tasks[-1].done)


def _models(label: str) -> int:
    match = re.match(r"(\d+) models", label)
    return int(match[1]) if match else 0


def _count(labels: set[str]) -> int:
    return sum(_models(label) or 1 for label in labels)


def _cells(results: Results | None, seen: _Seen) -> CellsSoFar | None:
    """As the report has them, or as the log does, which leaves out those that were found in the store."""
    if results:
        failed = sum(bool(cell.failed) for cell in results.cells)
        return CellsSoFar(total=len(results.cells), done=len(results.cells) - failed, failed=failed) if results.cells else None
    total = seen.models()
    if not total:
        return None
    tasks = [event for event in seen.tasks if event.label == _CELLS]
    return CellsSoFar(total=total, done=total - tasks[-1].total + tasks[-1].done if tasks else None)


def _left(plan: Plan | None, seen: _Seen, current: Underway | None) -> tuple[float | None, bool]:
    """Seconds left, and whether that is the least: what goes on at its own pace, where it has one, and what comes after it as planned."""
    pace, cells = seen.pace(), seen.models() > 0
    if plan is None:
        return (round(pace, 3) if cells and pace is not None else None), False
    announced = {(event.stage, event.label) for event in seen.events if event.event == "stage"}
    now = {(current.stage, label) for label in current.labels} if current else set()
    tasks_left = 1 - current.done / current.total if current and current.total and current.done is not None else 1.0
    later, going, unknown = 0.0, 0.0, False
    for line in plan.planned:
        if not line.missing:
            continue
        if cells:  # training is the last stage, so all else is there
            ahead, doing = 0.0, _still(plan, seen) if line.stage in ("train", "evaluate") else 0.0
        else:
            mine = [(line.stage, label) for label in line.labels]
            ahead = sum(one not in announced for one in mine) / len(mine)
            doing = sum(one in now for one in mine) / len(mine) * tasks_left
        unknown |= bool(line.unknown) and ahead + doing > 0
        later, going = later + line.elapsed * ahead, going + line.elapsed * doing
    return round(later + (going if pace is None else pace), 3), unknown


def _still(plan: Plan, seen: _Seen) -> float:
    """The share of the planned training that is left, for a start that may have found a part of it."""
    tasks = [event for event in seen.tasks if event.label == _CELLS]
    planned = sum(line.missing for line in plan.planned if line.stage == "train")
    return min(1.0, (tasks[-1].total - tasks[-1].done) / (planned or tasks[-1].total or 1)) if tasks else 1.0


def _plan(directory: Path) -> Plan | None:
    """The plan of exactly this recipe; None where there is none."""
    if not ((directory / PLAN).is_file() and (directory / "recipe.yaml").is_file()):
        return None
    from curate.pipelines.plan_file import read_plan
    from curate.recipe import read_recipe

    with contextlib.suppress(CurateError):  # a recipe of another version of curate
        return read_plan(directory, read_recipe(directory / "recipe.yaml", ()))
    return None


def _results(directory: Path) -> Results | None:
    """The report of the last start; None where it did not come to it."""
    times = [_changed(directory / name) for name in ("recipe.yaml", "run.json", "results.json")]
    if not all(times) or times != sorted(times):
        return None
    with contextlib.suppress(ValueError, OSError):
        return Results.model_validate_json((directory / "results.json").read_bytes())
    return None


def _unfinished(store: Path, began: float) -> list[Unfinished]:
    """What lies under STORE/.part and was touched since the run began."""
    found = []
    for folder in sorted((store / ".part").glob("*-*")):
        if folder.name.startswith("damaged-") or not folder.is_dir() or _changed(folder) < began - _SKEW:
            continue
        with contextlib.suppress(OSError):  # finished, and moved away, while it was looked at
            names = set(os.listdir(folder))
            key = folder.name.removesuffix(".closed")  # it is being finished
            building = is_held(folder.with_name(f"{key}.lock"))
            found.append(Unfinished(key=key, shards=sum(f"{name}.json" in names for name in names), building=building))
    return found


def _changed(file: Path) -> float:
    """When the file was last written, in seconds since 1970; 0 where there is none."""
    with contextlib.suppress(OSError):
        return file.stat().st_mtime
    return 0.0


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")


def _known(runs: Path) -> str:
    names = sorted(file.parent.name for file in runs.glob("*/log.jsonl"))
    if not names:
        return f"{runs} holds no run at all: name the folder of runs with --runs, or start one with `curate run RECIPE`"
    return f"runs in {runs}: {', '.join(names[:_SHOWN])}{' ...' if len(names) > _SHOWN else ''}; --runs names another folder"
