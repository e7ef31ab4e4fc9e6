"""What a run was foretold to take, and what it took."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from curate.core import Config

if TYPE_CHECKING:
    from curate.report.results import Stage

PLAN = "plan.json"  # in the run's folder


class Planned(Config):
    """One line of a plan: artifacts of one stage, how many are there already, and what the missing ones will take."""

    stage: str = Field(description="As in the stages of a run.")
    what: str
    labels: list[str] = Field(description="Labels, in the stages of a run, of all its artifacts.")
    count: int = Field(description="Artifacts.")
    found: list[str] = Field(default_factory=list, description="Keys of those that were computed before the plan was made.")
    seconds: float = Field(0.0, description="To make the missing ones, added up as a run records them.")
    low: float = 0.0
    high: float = 0.0
    at_once: int = Field(1, description="How many are made side by side, so that less time passes than they take together.")
    memory: int = Field(0, description="Bytes at the peak, of all processes that work on it.")
    device_memory: int | None = Field(None, description="Bytes at the peak on one GPU.")
    disk: int = Field(0, description="Bytes that the missing ones will take.")
    rough: bool = Field(False, description="Extrapolated by a power of the size.")
    unknown: str = Field("", description="Why there is no forecast.")

    @property
    def missing(self) -> int:
        """Artifacts that the run has to make."""
        return self.count - len(self.found)

    @property
    def elapsed(self) -> float:
        """Seconds that pass."""
        return self.seconds / self.at_once


class Plan(Config):
    """A run before it is started."""

    recipe: str
    version: str
    digest: str = Field(description="Of the recipe: a plan of another one says nothing of this run.")
    device: str
    workers: int
    profile: str = Field("", description="The kind of profile that they come from; empty for this machine as it is.")
    price: float | None = Field(None, description="Of this machine, per hour.")
    planned: list[Planned]
    sentences: list[str] = Field(default_factory=list, description="When each selection has paid for itself.")
    warnings: list[str] = Field(default_factory=list)
    measured_seconds: float = Field(0.0, description="What making the plan took.")

    @property
    def elapsed(self) -> float:
        """Seconds that will pass."""
        return sum(planned.elapsed for planned in self.planned)

    def money(self, seconds: float) -> float | None:
        """What the machine costs for so long, in the unit of the price."""
        return None if self.price is None else self.price * seconds / 3600


class Foretold(Config):
    """One line of a plan beside what the run recorded, both in seconds."""

    stage: str
    what: str
    predicted: float
    low: float
    high: float
    actual: float

    @property
    def ratio(self) -> float | None:
        """Actual over predicted."""
        return self.actual / self.predicted if self.predicted > 0 else None

    @property
    def within(self) -> bool:
        """Whether it came out between the ends of the forecast."""
        return self.low <= self.actual <= self.high


def predicted_against_actual(planned: Sequence[Planned], stages: "Iterable[Stage]") -> list[Foretold]:
    """For every forecast, the seconds that the artifacts took which were missing when it was made; lines that the run did not reach are left out."""
    recorded = {(stage.stage, stage.label, stage.key): stage for stage in stages}
    found = []
    for line in planned:
        known, labels = set(line.found), set(line.labels)
        mine = {stage.key: stage.seconds for stage in recorded.values() if stage.stage == line.stage and stage.label in labels and stage.key not in known}
        if mine and line.missing and not line.unknown:
            found.append(Foretold(stage=line.stage, what=line.what, predicted=line.seconds, low=line.low, high=line.high, actual=sum(mine.values())))
    return found
