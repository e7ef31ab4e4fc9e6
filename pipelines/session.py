"""What the stages of one run share: where artifacts go, where tasks run, and who hears of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curate.cluster import InProcess, Workers
from curate.core import Artifact
from curate.store import MakeTogether, Request, Store, Workspace, seconds_to_build
from curate.training.reporters import ReporterName


@dataclass
class Session:
    """One run in progress. `stages` records every artifact that it used, computed or found."""

    store: Store
    cluster: InProcess | Workers
    folder: Path  # that relative paths of the recipe start from
    device: str
    announce: Callable[[str, str], None]  # stage, label
    outputs: tuple[Path, ...] = ()  # folders that curate writes to
    run_folder: Path = Path()  # RUNS/<name>
    report_to: tuple[ReporterName, ...] = ()  # who hears of every training step
    processes: int = 1  # that train one model together
    stages: list[dict[str, Any]] = field(default_factory=list)

    def build(
        self, stage: str, label: str, make: Callable[[Workspace], Mapping[str, Any]], *, fields: Mapping[str, Any], inputs: Sequence[str] = (), version: int = 1
    ) -> Artifact:
        """An artifact from the store, built if it is not there."""
        return self.build_together([label], [Request(stage, fields, inputs, version)], lambda places: [make(place) if place else None for place in places])[0]

    def build_together(self, labels: Sequence[str], requests: Sequence[Request], make: MakeTogether) -> list[Artifact]:
        """Several artifacts from the store, those that are not there built in one go."""
        for label, request in zip(labels, requests, strict=True):
            self.announce(request.stage, label)
        cached = [self.store.find(self.store.key(request.stage, request.version, request.fields, request.inputs)) is not None for request in requests]
        artifacts = self.store.build_together(requests, make)
        for label, request, artifact, found in zip(labels, requests, artifacts, cached, strict=True):
            self.note(request.stage, label, artifact, found)
        return artifacts

    def note(self, stage: str, label: str, artifact: Artifact, cached: bool) -> None:
        """Record that the run used this artifact."""
        self.stages.append({"stage": stage, "label": label, "key": artifact.key, "cached": cached, "seconds": seconds_to_build(artifact)})


def numeric_environment(device: str) -> dict[str, Any]:
    """What outside the recipe decides the bits of a floating-point result."""
    from importlib.metadata import version

    return {"torch": version("torch"), "transformers": version("transformers"), "device": device.split(":")[0], "threads": 1}
