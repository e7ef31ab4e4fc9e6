"""Measuring: the pipeline runs on miniatures of growing size, in a scratch store, and every stage says what it took.

Nothing is modelled: what is timed is what a run does, on fewer rows. The first pass is cold, as the first task of a process is.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from curate.cluster import InProcess
from curate.core import Artifact, Budget
from curate.errors import NumericError
from curate.features import map_tensors, shard_bytes
from curate.model import ModelHandle, cached
from curate.pipelines.experiment import run
from curate.pipelines.plan_found import ONE_ROW, without_sources
from curate.pipelines.session import Session
from curate.recipe import Recipe
from curate.storage import stored_rows
from curate.store import MakeTogether, Request, Store, Workspace, seconds_to_build

_EVERY = 0.005  # seconds between looks at the memory
_BLUR = 0.1


@dataclass
class Peak:
    """The most memory that was held, in bytes: of this process, and on its GPU."""

    memory: int = 0
    device: int | None = None


@contextmanager
def watched(device: str) -> Iterator[Peak]:
    """Look at this process's memory again and again while the block runs."""
    import torch

    peak, done = Peak(resident()), threading.Event()

    def look() -> None:
        while not done.wait(_EVERY):
            peak.memory = max(peak.memory, resident())

    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)
    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()
        peak.memory = max(peak.memory, resident())
        if device != "cpu":
            peak.device = int(torch.cuda.max_memory_allocated(device))


def resident() -> int:
    """Bytes of memory that this process holds; where the system does not say, the most that it ever held."""
    import resource

    statm = Path("/proc/self/statm")
    if statm.is_file():
        return int(statm.read_bytes().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@dataclass(frozen=True)
class Piece:
    """One artifact that was made in miniature."""

    stage: str
    label: str
    seconds: float
    bytes: int
    memory: int
    device_memory: int | None
    artifact: Artifact


def bytes_of(artifact: Artifact) -> int:
    """What its files take of the disk."""
    return sum(int(file["bytes"]) for file in artifact.manifest["files"].values())


@dataclass
class Rehearsal(Session):
    """A session whose examples are given, and which keeps what each stage took.

    With `scored`, the artifacts of an earlier rehearsal, nothing is scored: features of more rows are theirs, drawn again and blurred by a tenth.
    """

    given: Mapping[str, Artifact] = field(default_factory=dict)
    scored: Mapping[tuple[str, str], Sequence[Artifact]] = field(default_factory=dict)
    pieces: list[Piece] = field(default_factory=list)
    _recalled: Counter[tuple[str, str]] = field(default_factory=Counter)

    def build_together(self, labels: Sequence[str], requests: Sequence[Request], make: MakeTogether) -> list[Artifact]:
        """The artifacts, given, recalled or made."""
        stage = requests[0].stage if requests else ""
        if stage == "examples":
            return [self.given[label] for label in labels]
        if (stage, labels[0] if labels else "") in self.scored:
            return [self._recall(stage, label) for label in labels]
        with watched(self.device) as peak:
            artifacts = super().build_together(labels, requests, make)
        for label, artifact in zip(labels, artifacts, strict=True):
            self.pieces.append(Piece(stage, label, seconds_to_build(artifact), bytes_of(artifact), peak.memory, peak.device, artifact))
        return artifacts

    def _recall(self, stage: str, label: str) -> Artifact:
        """What the earlier rehearsal made under this label; of several, for several targets, one after the other."""
        known = self.scored[stage, label]
        artifact = known[self._recalled[stage, label] % len(known)]
        self._recalled[stage, label] += 1
        rows = int(self.given["pool"].manifest["summary"]["used"])
        return imagined(self.store, artifact, rows) if stage == "features" and label.endswith("(pool)") else artifact


def imagined(store: Store, artifact: Artifact, rows: int) -> Artifact:
    """Features of `rows` rows like those of this artifact: its rows drawn with replacement, each number times 1 + 0.1 z, z normal."""
    summary = artifact.manifest["summary"]

    def make(workspace: Workspace) -> Mapping[str, Any]:
        tensors = [map_tensors(artifact.path / name) for name in summary["shards"]]
        known = np.concatenate([np.asarray(stored_rows(part)[:], np.float32) for part in tensors])
        generator = np.random.Generator(np.random.Philox(key=rows))
        drawn = known[generator.integers(0, len(known), rows)]
        values = (drawn * (1 + _BLUR * generator.standard_normal(drawn.shape))).astype(np.float32)
        data = shard_bytes(np.arange(rows), values, summary["stored"])
        workspace.commit("shard-000000.safetensors", data, {"rows": rows, "quarantined": []})
        return {**summary, "shards": ["shard-000000.safetensors"], "rows": rows, "bytes": len(data)}

    return store.build("imagined features", make, fields={"of": artifact.key, "rows": rows})


@dataclass(frozen=True)
class Scene:
    """What all rehearsals share, as a worker gets it."""

    recipe: Recipe
    folder: Path
    scratch: Path
    device: str
    seconds: float  # that a rehearsal may take
    processes: int = 1

    def session(self, given: Mapping[str, Artifact], scored: Mapping[tuple[str, str], Sequence[Artifact]] | None = None) -> Rehearsal:
        """A session of one process in the scratch store."""
        session = Rehearsal(Store(self.scratch), InProcess(), self.folder, self.device, _silent, run_folder=self.scratch, processes=self.processes)
        session.given, session.scored = given, scored or {}
        return session


def _silent(stage: str, label: str) -> None:
    """Hears nothing."""


@dataclass(frozen=True)
class Pass:
    """One rehearsal with examples of one size."""

    rows: int
    given: Mapping[str, Artifact]
    warmup_rows: int = 0


@dataclass(frozen=True)
class Scoring:
    """Rehearse everything up to the features, on growing pools."""

    scene: Scene
    passes: Sequence[Pass]


def rehearse_scoring(task: Scoring) -> list[tuple[Pass, list[Piece]]]:
    """What each stage took in every pass, until scoring the next pool would take too long; there are two passes at least.

    A warm-up, states or pilots that would take more than half of the time are not made again: later passes use the last ones, with
    the target rows that these were made for.
    """
    found: list[tuple[Pass, list[Piece]]] = []
    kept: dict[tuple[str, str], list[Artifact]] = {}
    for number, one in enumerate(task.passes):
        if found and any(stage == "state" for stage, _ in kept):
            one = replace(one, given={**found[-1][0].given, "pool": one.given["pool"]})
        pieces = _pass(task.scene, one, kept)
        found.append((one, pieces))
        ratio = task.passes[number + 1].rows / one.rows if number + 1 < len(task.passes) else 1.0
        took = {stage: sum(piece.seconds for piece in pieces if piece.stage == stage) for stage in ("warmup", "state", "pilot", "features")}
        if number and took["features"] * ratio > task.scene.seconds:
            break
        slow = {stage for stage in took if number and stage != "features" and took[stage] * ratio > task.scene.seconds / 2}
        for piece in pieces:
            if piece.stage in slow:
                kept.setdefault((piece.stage, piece.label), []).append(piece.artifact)
    return found


def _pass(scene: Scene, one: Pass, kept: Mapping[tuple[str, str], Sequence[Artifact]]) -> list[Piece]:
    recipe, warmup = scene.recipe, scene.recipe.warmup
    if warmup.trainer is None:
        warmup = warmup.model_copy(update={"fraction": min(1.0, (one.warmup_rows + 0.5) / one.given["pool"].manifest["summary"]["used"])})
    session = scene.session(one.given, kept)
    run(without_sources(recipe, arms=recipe.arms, evaluate=[], budgets=ONE_ROW, seeds=[0], warmup=warmup), session, "score")
    return session.pieces


@dataclass(frozen=True)
class Trials:
    """Rehearse training, on growing numbers of rows, and evaluation, on growing numbers of items."""

    scene: Scene
    rows: Sequence[int]
    asked: Sequence[Pass]


def rehearse_cells(task: Trials) -> list[Piece]:
    """What training took, and then each examination of one model, smallest first; the label of an evaluation is that of its examination."""
    scene, found = task.scene, list[Piece]()
    for number, rows in enumerate(task.rows):
        session = scene.session(task.asked[0].given)
        with watched(session.device) as peak:
            outcome = run(_cell(scene.recipe, rows, task.asked[0].rows), session, "train").outcomes[0]
        if outcome.checkpoint is None:
            raise NumericError(outcome.failed)
        found.append(_piece("train", "", outcome.checkpoint, peak))
        if number > 1 and number + 1 < len(task.rows) and found[-1].seconds * task.rows[number + 1] / rows > scene.seconds:
            break  # not before the third: the first is cold, and two are needed to tell loading the model from training it
    for number, one in enumerate(task.asked):
        session = scene.session(one.given)
        with watched(session.device) as peak:
            outcome = run(_cell(scene.recipe, task.rows[0], one.rows), session).outcomes[0]
        found += [_piece("evaluate", label, artifact, peak) for label, artifact in outcome.evaluations.items()]
        took = sum(piece.seconds for piece in found[-len(outcome.evaluations) :])
        if number and number + 1 < len(task.asked) and took * task.asked[number + 1].rows / one.rows > scene.seconds:
            break
    return found


def _cell(recipe: Recipe, rows: int, items: int) -> Recipe:
    """One model on so many random rows, asked so many items of each evaluation."""
    limits = [entry.model_copy(update={"limit": min(items, entry.limit or items)}) for entry in recipe.evaluate]
    once = recipe.train.model_copy(update={"epochs": 1})
    budgets = [Budget(amount=rows)]
    return without_sources(recipe.model_copy(update={"evaluate": limits}), baselines=["random"], budgets=budgets, seeds=[0], train=once)


def _piece(stage: str, label: str, artifact: Artifact, peak: Peak) -> Piece:
    return Piece(stage, label, seconds_to_build(artifact), bytes_of(artifact), peak.memory, peak.device, artifact)


def rehearse(task: Scoring | Trials) -> list[Any]:
    """Either, in this process."""
    return rehearse_scoring(task) if isinstance(task, Scoring) else rehearse_cells(task)


@dataclass(frozen=True)
class Awakening:
    """A worker's first task: to load the model."""

    handle: ModelHandle
    device: str


def awake(task: Awakening) -> float:
    """Seconds to load the model."""
    started = time.perf_counter()
    cached(task.handle, task.device)
    return time.perf_counter() - started
