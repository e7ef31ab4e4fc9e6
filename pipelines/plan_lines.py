"""The lines of a plan: measurements of miniatures, carried over to the sizes of the run, for what the store does not hold."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from curate.core import Artifact
from curate.estimate import MARGIN, Line, Point, Span, growth
from curate.interfaces import Scorer
from curate.pipelines.features import kind_of
from curate.pipelines.measure import Pass, Piece
from curate.pipelines.pilot import POOL_ROWS
from curate.pipelines.plan_choosing import Choosing
from curate.pipelines.plan_found import found_keys
from curate.pipelines.score import SHARD_ROWS
from curate.recipe import Recipe
from curate.report.planned import Planned

_HYGIENE = ("vectors", "near_leaks", "leaks", "duplicates", "semantic", "clean")
_STAGES = ("examples", *_HYGIENE, "warmup", "state", "pilot", "features", "selection", "control", "recheck", "train", "evaluate")
NOISE = 2**25  # bytes of memory that are not told from the allocator's own
Seen = Mapping[tuple[str, str], Mapping[str, bool]]


@dataclass(frozen=True)
class Amounts:
    """How much there is to do: of a miniature, or of the run."""

    pool_rows: float
    pool_tokens: float
    target_rows: float  # of all targets
    target_tokens: float
    warmup_rows: float

    def of(self, recipe: Recipe, stage: str, label: str) -> float:
        """What the time of this stage grows with: rows, or tokens where a model reads them."""
        if stage == "warmup":
            read = recipe.warmup.trainer is None
            return recipe.warmup.epochs * self.warmup_rows * self.pool_tokens / self.pool_rows if read else 1.0
        if stage == "state":
            sampled = scorer_of(recipe, label).sample_rows
            return self.target_rows + min(self.pool_rows, math.inf if sampled is None else sampled)
        if stage == "pilot":
            return min(self.pool_rows, POOL_ROWS)
        return self.pool_tokens if label.endswith("(pool)") else self.target_tokens


def amounts(given: Mapping[str, Artifact], warmup_rows: float) -> Amounts:
    """Of these examples, by label."""
    pool = given["pool"].manifest["summary"]
    targets = [artifact.manifest["summary"] for label, artifact in given.items() if label.split(" ")[0] == "target"]
    return Amounts(pool["used"], pool["tokens"], sum(one["used"] for one in targets), sum(one["tokens"] for one in targets), warmup_rows)


def scorer_of(recipe: Recipe, label: str) -> Scorer:
    """The scorer of the feature that a label begins with."""
    return recipe.features[feature_of(label)]


def feature_of(label: str) -> str:
    """`gradient (exact) (pool)` is of `gradient`."""
    return label.split(" ")[0].rstrip(",")


@dataclass(frozen=True)
class Forecast:
    """What one label of a stage will take if nothing of it is there."""

    line: Line
    size: float
    bytes: float
    memory: int
    device_memory: int | None
    artifacts: int  # one, or one for every target

    def seconds(self, processes: int = 1) -> Span:
        """Of all its artifacts, its growing part spread over processes."""
        return self.line.at(self.size, processes)


def forecasts(recipe: Recipe, passes: Sequence[tuple[Pass, Sequence[Piece]]], real: Amounts) -> dict[tuple[str, str], Forecast]:
    """By stage and label, in the order of the run; without leaks, which have passes of their own."""
    found: dict[tuple[str, str], Forecast] = {}
    for stage, label in dict.fromkeys((piece.stage, piece.label) for _, pieces in passes for piece in pieces if piece.stage != "leaks"):
        made = [(one, [piece for piece in pieces if (piece.stage, piece.label) == (stage, label)]) for one, pieces in passes]
        mine = [_sum(one, pieces, recipe, (stage, label)) for one, pieces in made if pieces]
        last = [pieces for _, pieces in made if pieces][-1]
        size = real.of(recipe, stage, label)
        found[stage, label] = Forecast(
            Line.through([Point(units, seconds) for units, seconds, _ in mine]),
            size,
            Line.through([Point(units, stored) for units, _, stored in mine], cold=False).at(size).middle,
            max(piece.memory for piece in last),
            last[0].device_memory,
            len({piece.artifact.key for piece in last}),
        )
    return found


def _sum(one: Pass, pieces: Sequence[Piece], recipe: Recipe, wanted: tuple[str, str]) -> tuple[float, float, float]:
    """(size, seconds, bytes) of one label in one pass; artifacts that several targets share are counted once."""
    mine = {piece.artifact.key: piece for piece in pieces}.values()
    return amounts(one.given, one.warmup_rows).of(recipe, *wanted), sum(piece.seconds for piece in mine), float(sum(piece.bytes for piece in mine))


@dataclass
class Workers:
    """The processes of the run. They start when the first work for several comes, and each loads its own model."""

    count: int
    start: float = 0.0  # seconds, of all together
    load: float = 0.0  # seconds, of a model
    started: bool = field(default=False)

    def starting(self, processes: int) -> float:
        """Seconds before work for so many processes begins that needs no model."""
        if self.count == 1 or processes == 1:
            return 0.0
        waited, self.started = 0.0 if self.started else self.start, True
        return waited

    def waiting(self, processes: int) -> float:
        """The same for work that needs one."""
        return 0.0 if self.count == 1 or processes == 1 else self.load + self.starting(processes)


def scoring_lines(recipe: Recipe, found: Mapping[tuple[str, str], Forecast], seen: Seen, real: Amounts, workers: Workers) -> list[Planned]:
    """Warm-up, states, pilots and features."""
    lines = []
    groups = {one: _group(recipe, *one) for one in found}
    waiting: dict[tuple[str, ...], float] = {}
    for (stage, label), forecast in found.items():
        group = groups[stage, label]
        alike = sum(1 for other in groups.values() if other == group)
        processes = min(workers.count, _parallel(stage, label, real, alike))
        keys = found_keys(seen, stage, [label])
        missing = max(0, forecast.artifacts - len(keys)) / forecast.artifacts
        if missing and group not in waiting:
            waiting[group] = workers.waiting(processes)
        seconds = (forecast.seconds(processes) + _steady(waiting.get(group, 0.0) / alike)).times(missing)
        lines.append(
            planned(
                seconds,
                stage=stage,
                what=label,
                labels=[label],
                count=max(forecast.artifacts, len(keys)),
                found=keys,
                memory=processes * forecast.memory,
                device_memory=forecast.device_memory,
                disk=round(forecast.bytes * missing),
            )
        )
    return lines


def _group(recipe: Recipe, stage: str, label: str) -> tuple[str, ...]:
    """Labels that are made together: features that read the same model, of the same rows."""
    if stage == "features":
        return stage, kind_of(scorer_of(recipe, label)), label.rsplit(" ", 1)[-1]
    return (stage, kind_of(scorer_of(recipe, label)), "within" if ", within" in label else "") if stage == "state" else (stage, label)


def _parallel(stage: str, label: str, real: Amounts, alike: int) -> int:
    """Tasks that can run side by side."""
    if stage == "features":
        return math.ceil((real.pool_rows if label.endswith("(pool)") else real.target_rows) / SHARD_ROWS)
    return alike if stage == "state" else 1


def _steady(seconds: float) -> Span:
    return Span(seconds, seconds / MARGIN, seconds * MARGIN)


def planned(span: Span, **fields: Any) -> Planned:
    """A line of the plan with this forecast."""
    return Planned(seconds=round(span.middle, 3), low=round(span.low, 3), high=round(span.high, 3), **fields)


def selection_line(stage: str, name: str, labels: Mapping[str, Sequence[str]], tried: Choosing, seen: Seen, rows: float, seeded: bool) -> Planned:
    """One arm, at all budgets and seeds; `labels` are those of its artifacts by budget. Without `seeded`, all seeds share a selection."""
    found: list[str] = []
    count, total, disk = 0, Span(), 0.0
    for budget, mine in labels.items():
        keys = found_keys(seen, stage, mine)
        wanted = distinct(stage, mine, seen, seeded)
        found, count = found + keys, count + max(wanted, len(keys))
        if not tried.unknown:
            total += selection_seconds(tried, budget, rows).times(max(0, wanted - len(keys)))
    everything = [label for mine in labels.values() for label in mine]
    memory = 0.0
    if not tried.unknown:
        memory = tried.held + _more_memory(tried, rows)
        disk = (count - len(found)) * max(stored for _, stored in tried.bytes)
    return planned(
        total,
        stage=stage,
        what=name,
        labels=everything,
        count=count,
        found=found,
        memory=round(memory),
        disk=round(disk),
        rough=True,
        unknown=tried.unknown,
    )


def _more_memory(tried: Choosing, rows: float) -> float:
    """Bytes beyond what the process held before; what the allocator keeps and gives back is not carried over to more rows."""
    most = tried.memory[-1][1]
    return growth([Point(*point) for point in tried.memory], rows).middle if most > NOISE else most


def selection_seconds(tried: Choosing, budget: str, rows: float) -> Span:
    """Of one selection."""
    return growth([Point(*point) for point in tried.seconds[budget]], rows)


def distinct(stage: str, labels: Sequence[str], seen: Seen, seeded: bool) -> int:
    """How many artifacts these labels stand for."""
    known = [seen[stage, label] for label in labels if (stage, label) in seen]
    if len(known) == len(labels):
        return len({key for keys in known for key in keys})
    return len(labels) if seeded else len({label.rsplit(" seed ", 1)[0] for label in labels})


@dataclass(frozen=True)
class Model:
    """What one model takes: training by its tokens, each examination by its items."""

    training: Line
    asking: Mapping[str, Line]
    pieces: Sequence[Piece]  # the largest of each

    @classmethod
    def of(cls, pieces: Sequence[Piece]) -> "Model":
        """From what was made, smallest first."""
        points: dict[str, list[Point]] = {}
        for piece in pieces:
            points.setdefault(piece.label, []).append(Point(piece.artifact.manifest["summary"]["tokens" if piece.stage == "train" else "n"], piece.seconds))
        lines = {label: Line.through(mine) for label, mine in points.items()}
        return cls(lines.pop(""), lines, list({piece.label: piece for piece in pieces}.values()))

    def train(self, tokens: float) -> Span:
        """Once the process has warmed up."""
        return replace(self.training, first=0.0).at(tokens)

    def ask(self, label: str, items: float) -> Span:
        """The same for an examination."""
        return replace(self.asking[label], first=0.0).at(items)

    def memory(self, stage: str) -> int:
        """Of one process at its peak."""
        return max((piece.memory for piece in self.pieces if piece.stage == stage), default=0)

    def device_memory(self, stage: str) -> int | None:
        """The same on a GPU."""
        return next((piece.device_memory for piece in self.pieces if piece.stage == stage), None)

    @property
    def bytes(self) -> float:
        """Of its weights on disk."""
        return float(next(piece.bytes for piece in self.pieces if piece.stage == "train"))

    def bytes_asked(self, label: str, items: float) -> float:
        """Of what it says to so many items."""
        piece = next(piece for piece in self.pieces if piece.label == label)
        return float(piece.bytes * items / piece.artifact.manifest["summary"]["n"])


def found_lines(seen: Seen) -> list[Planned]:
    """Where everything is there: a line for each stage and label, one for all cells, in the order of a run."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for stage, label in sorted(seen, key=lambda one: _STAGES.index(one[0]) if one[0] in _STAGES else len(_STAGES)):
        what = label.split(" ")[0] if stage in ("selection", "control") else "all models" if stage in ("train", "evaluate") else label
        grouped.setdefault((stage, what), []).append(label)
    found = {one: found_keys(seen, one[0], labels) for one, labels in grouped.items()}
    return [Planned(stage=one[0], what=one[1], labels=labels, count=len(found[one]), found=found[one]) for one, labels in grouped.items()]
