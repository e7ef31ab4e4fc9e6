"""What the stages of one run share: where artifacts go, where tasks run, and who hears of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curate.cluster import InProcess, LocalDask
from curate.core import Artifact
from curate.store import Store, Workspace, seconds_to_build


@dataclass
class Session:
    """One run in progress. `stages` records every artifact that it used, computed or found."""

    store: Store
    cluster: InProcess | LocalDask
    folder: Path  # that relative paths of the recipe start from
    device: str
    announce: Callable[[str, str], None]  # stage, label
    outputs: tuple[Path, ...] = ()  # folders that curate writes to
    stages: list[dict[str, Any]] = field(default_factory=list)

    def build(
        self, stage: str, label: str, make: Callable[[Workspace], Mapping[str, Any]], *, fields: Mapping[str, Any], inputs: Sequence[str] = (), version: int = 1
    ) -> Artifact:
        """An artifact from the store, built if it is not there."""
        self.announce(stage, label)
        cached = self.store.find(self.store.key(stage, version, fields, inputs)) is not None
        artifact = self.store.build(stage, make, fields=fields, inputs=inputs, version=version)
        self.note(stage, label, artifact, cached)
        return artifact

    def note(self, stage: str, label: str, artifact: Artifact, cached: bool) -> None:
        """Record that the run used this artifact."""
        self.stages.append({"stage": stage, "label": label, "key": artifact.key, "cached": cached, "seconds": seconds_to_build(artifact)})


def numeric_environment(device: str) -> dict[str, Any]:
    """What outside the recipe decides the bits of a floating-point result."""
    from importlib.metadata import version

    return {"torch": version("torch"), "transformers": version("transformers"), "device": device.split(":")[0], "threads": 1}
