"""How far a run has come, as a document and as a table in the terminal."""

from typing import Literal

from pydantic import Field
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from curate.core import Config
from curate.report.wording import duration, visible

State = Literal["going on", "finished", "interrupted", "failed", "stopped", "killed"]


class StageSoFar(Config):
    """One kind of work of the run."""

    stage: str = Field(description="As in the stages of a run.")
    done: int = Field(description="Artifacts that were made or found.")
    seconds: float = Field(description="That passed while the run was at it.")


class Underway(Config):
    """What the run is at, or was at when it ended early."""

    stage: str
    labels: list[str] = Field(description="Artifacts that are made in one go.")
    since: str = Field(description="ISO 8601.")
    seconds: float
    done: int | None = Field(None, description="Tasks, as of the last line of the log, which has one every five seconds.")
    total: int | None = None


class CellsSoFar(Config):
    """The models that are trained and evaluated, baselines included."""

    total: int
    done: int | None = Field(None, description="None while the run looks which of them are there.")
    failed: int | None = Field(None, description="Known when the run has finished.")


class Unfinished(Config):
    """An artifact under construction since the run began; the store is shared, so it may be another run's."""

    key: str
    shards: int = Field(description="Committed; not computed again.")
    building: bool = Field(description="Whether a living process holds its lock.")


class Standing(Config):
    """A run as seen from outside."""

    run: str
    state: State = Field(description="stopped: interrupted or failed, the log does not say which; killed: its process died without a word.")
    error: str = Field("", description="With which it failed.")
    started: str = Field(description="When the run was last started, ISO 8601.")
    seconds: float = Field(description="From then until now, or until it ended.")
    silent: float = Field(description="Seconds since its last word, or since its start where it has said nothing.")
    stages: list[StageSoFar] = Field(default_factory=list)
    current: Underway | None = None
    cells: CellsSoFar | None = None
    left: float | None = Field(None, description="Seconds that are left, by the plan and by the pace of what is going on.")
    left_at_least: bool = Field(False, description="The plan has no forecast for a part of what is left.")
    unfinished: list[Unfinished] = Field(default_factory=list)
    messages: list[str] = Field(default_factory=list, description="The last that it said.")
    warnings: list[str] = Field(default_factory=list, description="The last of its report.")


def print_standing(standing: Standing, console: Console) -> None:
    """What it is doing, a line per stage, what is left, and what it said last."""
    _say(console, f"{standing.run}: {_state(standing)}", "bold")
    if standing.stages or standing.current:
        console.print(_table(standing))
    if standing.cells:
        _say(console, _cells(standing.cells))
    if standing.left is not None:
        _say(console, f"left: {'at least' if standing.left_at_least else 'about'} {duration(standing.left)}")
    for part in standing.unfinished:
        _say(console, f"{'being built' if part.building else 'begun'}: {part.key}, {part.shards} shards committed", "dim")
    for line in standing.messages:
        _say(console, f"said: {line}", "dim")
    for line in standing.warnings:
        _say(console, f"warning: {line}", "yellow")
    if standing.error:
        _say(console, f"error: {standing.error}", "red")
    if standing.state not in ("going on", "finished"):
        _say(console, "everything finished so far is kept; run the same command again to go on")


def _state(standing: Standing) -> str:
    ago = f"last heard of {duration(standing.silent)} ago"
    if standing.state == "going on":
        return f"going on for {duration(standing.seconds)}, {ago}"
    if standing.state == "finished":
        return f"finished in {duration(standing.seconds)}, {ago}"
    return f"{standing.state} after {duration(standing.seconds)}, {ago}"


def _table(standing: Standing) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), safe_box=True)
    table.add_column("stage", overflow="fold")
    for name in ("done", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    for stage in standing.stages:
        table.add_row(*map(Text, (visible(stage.stage), f"{stage.done:,}", duration(stage.seconds))))
    if now := standing.current:
        name = f"{'now' if standing.state == 'going on' else 'ended in'}: {now.stage}, {', '.join(now.labels)}"
        tasks = "" if now.total is None else f"{now.done} of {now.total} tasks"
        table.add_section()
        table.add_row(*map(Text, (visible(name), tasks, duration(now.seconds))), style="bold")
    return table


def _cells(cells: CellsSoFar) -> str:
    done = "looking which are there" if cells.done is None else f"{cells.done} done"
    return f"models: {done}, of {cells.total}" + (f"; {cells.failed} could not be trained" if cells.failed else "")


def _say(console: Console, line: str, style: str = "") -> None:
    plain = visible(line)
    console.print(Text(plain.encode(console.encoding, "backslashreplace").decode(console.encoding), style=style))
