"""Miniatures: the first rows of every source, tokenised as a run would, in sizes from a few rows to a thousand."""

import time
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np

from curate.core import Artifact, Checkpoint
from curate.data.load import Parsed, load
from curate.data.locate import pinned
from curate.data.source import Source
from curate.data.template import Encoder
from curate.data.writer import write_examples
from curate.errors import DataError
from curate.estimate import MARGIN, Line, Point, Span
from curate.evaluations import TaskFileName, label_of
from curate.gradient_scorer import GradientScorer
from curate.model import ModelHandle
from curate.pipelines.features import EXACT_BYTES
from curate.pipelines.measure import resident
from curate.pipelines.memory import bytes_of_directions
from curate.pipelines.plan_rows import bytes_hashed, scanned_and_kept
from curate.pipelines.prepare import checked_tokenizer
from curate.pipelines.state import Inputs
from curate.pipelines.warm import warm_handle
from curate.recipe import Recipe
from curate.store import Store, Workspace, digest, seconds_to_build

MOST = {"pool": 1000}  # rows that are tokenised
MOST_OTHERS = 512
COLD = 8  # rows of the first miniature of a role, before which the tokenizer may not have been used
HASHED = 2**24  # bytes that are hashed to see how fast that goes
_Key = bytes  # the hash of what a row says; a class here has a method named bytes


@dataclass
class Sample:
    """The first rows of some sources, and what the sources hold in all."""

    rows: list[Parsed]
    seconds: float  # to read and understand them
    scanned: int  # rows that a run reads
    kept: int  # rows that it tokenises
    synthetic: bool  # whether all are generated to have the first
    bytes: int  # whose hash is the sources' name
    keys: frozenset[_Key]  # of all rows that were read


def roles(recipe: Recipe) -> dict[str, list[Source]]:
    """The sources of all examples by the label under which a run prepares them; those of task files are read by the task."""
    targets = {f"target {name}".strip(): _grouped(of) for name, of in recipe.aims().items()}
    entries = {f"evaluation {label_of(entry)}": entry.data for entry in recipe.evaluate if entry.data and not isinstance(entry.task, TaskFileName)}
    return {"pool": recipe.pool, **targets, **entries}


def _grouped(targets: dict[str, list[Source]]) -> list[Source]:
    return [source if source.group else source.model_copy(update={"group": f"label:{name}"}) for name, sources in targets.items() for source in sources]


def settled(recipe: Recipe, handle: ModelHandle, folder: Path, device: str, target_rows: float) -> Recipe:
    """The recipe for miniatures: it leaves no row out, and features take exact similarities where the run would, although there are fewer target rows."""
    recipe = recipe.model_copy(update={"hygiene": recipe.hygiene.leaving_nothing_out})
    if recipe.warmup.trainer is not None:
        return recipe
    warm = warm_handle(handle, recipe.warmup, folder)
    target = Artifact("", Path(), {"summary": {"used": target_rows}})
    inputs = Inputs(warm, target, target, (Checkpoint(Path(), 0, 0.0),) * recipe.warmup.epochs, (), folder, device)
    features = {}
    for name, scorer in recipe.features.items():
        features[name] = scorer
        if isinstance(scorer, GradientScorer) and scorer.similarity == "auto" and bytes_of_directions(scorer, inputs) > EXACT_BYTES:
            features[name] = scorer.model_copy(update={"similarity": "sketch"})
    return recipe.model_copy(update={"features": features})


@dataclass
class Miniatures:
    """Small examples of each role, made when they are asked for."""

    recipe: Recipe
    folder: Path
    handle: ModelHandle
    store: Store  # a scratch store
    samples: dict[str, Sample] = field(default_factory=dict)
    points: dict[str, list[tuple[int, float, int]]] = field(default_factory=dict)  # rows, seconds, bytes, by role
    memory: int = 0  # bytes that the process held at most

    @cached_property
    def encoder(self) -> Encoder:
        """What a run tokenises with."""
        return Encoder(checked_tokenizer(self.handle), self.handle.max_length)

    def sample(self, role: str) -> Sample:
        """The first rows of the role's sources, as many of each as its share of all rows; of an evaluation, those that no target has."""
        if role not in self.samples:
            targets = [self.sample(target) for target in self._targets] if role.startswith("evaluation ") else []
            apart = {row.key for sample in targets for row in sample.rows}
            self.samples[role] = self._read(roles(self.recipe)[role], MOST.get(role, MOST_OTHERS), apart, thin=role in self._targets)
        return self.samples[role]

    @property
    def _targets(self) -> list[str]:
        return [role for role in roles(self.recipe) if role.split(" ")[0] == "target"]

    def in_targets(self, role: str) -> float:
        """About how many rows of an evaluation targets have too, which a run does not ask: of each target as large a part as of its first rows."""
        here = self.sample(role).keys
        targets = [self.sample(target) for target in self._targets]
        return sum(sample.kept * len(sample.keys & here) / max(1, len(sample.keys)) for sample in targets)

    def most(self, role: str) -> int:
        """The size of the largest miniature."""
        return len(self.sample(role).rows)

    def of(self, role: str, size: int) -> Artifact:
        """`size` rows, or all that were read, evenly drawn from them; DataError where not one of them can be used."""
        rows = self.sample(role).rows
        if role not in self.points and size > COLD:
            self.of(role, COLD)
        chosen = _evenly(rows, size)

        def make(workspace: Workspace) -> dict[str, object]:
            return write_examples(chosen, self.encoder, workspace.write)

        artifact = self.store.build("examples", make, fields={"role": role, "rows": len(chosen)})
        self.memory = max(self.memory, resident())
        summary = artifact.manifest["summary"]
        if not summary["used"]:
            reasons = ", ".join(f"{reason} {count}" for reason, count in summary["quarantined"].items())
            raise DataError(f"{role}: none of the first {len(chosen)} rows can be used ({reasons}); mend the data, or see `curate inspect`")
        point = (len(chosen), seconds_to_build(artifact), sum(file["bytes"] for file in artifact.manifest["files"].values()))
        self.points.setdefault(role, []).append(point)
        return artifact

    def seconds(self, role: str) -> Span:
        """To prepare the whole role: reading, tokenising and writing it, and hashing its sources once more at the end."""
        sample = self.sample(role)
        reading = sample.seconds if sample.synthetic else sample.seconds * sample.scanned / max(1, len(sample.rows))
        again = sample.seconds if sample.synthetic else sample.bytes / self._hashing
        return self._line(role, 1, cold=True).at(sample.kept) + Span(1.0, 1 / MARGIN, MARGIN).times(reading + again)

    def bytes(self, role: str) -> int:
        """On disk, of the whole role."""
        return round(self._line(role, 2, cold=False).at(self.sample(role).kept).middle)

    def _line(self, role: str, column: int, *, cold: bool) -> Line:
        return Line.through([Point(point[0], float(point[column])) for point in sorted(set(self.points[role]))], cold=cold)

    @cached_property
    def _hashing(self) -> float:
        """Bytes a second."""
        data, started = bytes(HASHED), time.perf_counter()
        digest(data)
        return HASHED / (time.perf_counter() - started)

    def _read(self, sources: list[Source], most: int, apart: Collection[_Key], *, thin: bool) -> Sample:
        """Up to `most` rows that are not `apart`; of a source that is sampled, if `thin`, not so many that an evaluation on the same rows has none left."""
        found, seconds, read = [], 0.0, 0
        keys: frozenset[_Key] = frozenset()
        further = most + len(apart)
        for source in sources:
            small = pinned(source).model_copy(update={"limit": min(further, source.limit or further), "sample": None})
            if not self.samples:
                next(load([small], self.folder, on_bad_row="quarantine"), None)  # for what is loaded once
            started = time.perf_counter()
            rows = list(islice(load([small], self.folder, on_bad_row="quarantine"), further))
            seconds, read = seconds + time.perf_counter() - started, read + len(rows)
            scanned, kept = scanned_and_kept(source, self.folder, rows)
            keys |= {row.key for row in rows}
            rows = ([row for row in rows if row.key not in apart] or rows)[:most]
            if thin and source.sample is not None:
                rows = _evenly(rows, max(len(rows) // 2, round(len(rows) * kept / max(1, scanned // 2))))  # a sample is read twice
            found.append((rows, scanned, kept))
        kept = sum(one[2] for one in found)
        shares = [min(len(rows), max(1, own), max(1, round(most * own / max(1, kept)))) for rows, _, own in found]
        mixed = [row for (rows, _, _), share in zip(found, shares, strict=True) for row in rows[:share]]
        whole = sum(bytes_hashed(source, self.folder) for source in sources)
        synthetic = all(source.synthetic is not None for source in sources)
        seconds *= 1.0 if synthetic else len(mixed) / max(1, read)
        return Sample(mixed, seconds, sum(one[1] for one in found), kept, synthetic, whole, keys)


def _evenly(rows: list[Parsed], size: int) -> list[Parsed]:
    """`size` of the rows, or all of them, at even distances."""
    return [rows[int(i)] for i in np.linspace(0, len(rows) - 1, min(size, len(rows))).round().astype(int)]
