"""Hygiene in a plan: the gate and the search for duplicates run on miniatures of the pool, and are carried over to all of its rows.

Leaks take time by the tokens of the pool and by those of the items that it is compared with; duplicates by the tokens of the pool, and by the pairs
that have to be compared, whose number may grow with the square of the rows, as comparing all vectors does. What is looked at again are the rows that
arms take.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from curate.core import Artifact, Examples
from curate.data.examples import in_reading_order, opened
from curate.errors import CurateError
from curate.estimate import MARGIN, STEEPEST, Line, Point, Span, exponent, growth
from curate.hygiene.near import similarity
from curate.pipelines.embedded import ROWS as VECTORS
from curate.pipelines.experiment import run
from curate.pipelines.leaks import ROWS
from curate.pipelines.measure import Pass, Piece, Scene
from curate.pipelines.plan_cells import cells_of, share_of
from curate.pipelines.plan_found import ONE_ROW, found_keys, without_sources
from curate.pipelines.plan_lines import Seen, Workers, planned
from curate.recipe import Hygiene, Recipe
from curate.report.planned import Planned

STAGES = {"vectors": VECTORS, "near_leaks": VECTORS, "leaks": ROWS, "duplicates": ROWS, "semantic": 0, "clean": 0}  # in order, rows of a task; 0 for one task
OF_ITEMS = ("near_leaks", "leaks")  # what every process first makes the items ready for
GATE, AGAIN = ("leaks", "pool (leaks)"), ("recheck", "rows taken")
_PAIRS = 32  # compared, to see how long one takes
_HELD = 40  # bytes of memory for a row whose duplicates are looked for

Label = tuple[str, str]  # stage, label
Pieces = dict[Label, dict[str, Piece]]  # by key


@dataclass(frozen=True)
class Cost:
    """What one stage took: its time by tokens of the pool, what every further token of an item adds, and by how much it outgrows that."""

    time: Line
    bytes: Line
    memory: int
    each: float = 0.0  # seconds a token of the items
    items: float = 0.0  # tokens of the items that it was measured with
    pairs: Sequence[Point] = ()  # (rows, pairs to compare)
    comparing: float = 0.0  # seconds a pair
    grown: Sequence[Point] = ()  # (rows, seconds) of what may grow with the square of the rows
    count: int = 1  # artifacts

    def seconds(self, tokens: float, items: float, rows: float, processes: int = 1) -> Span:
        """With so many tokens of the pool and of the items; every process makes the items ready once more, beside the one that gives out work."""
        if self.grown:
            return growth(self.grown, rows)
        readied = self.each * (items - self.items + (items if processes > 1 else 0.0))
        return self.time.at(tokens, processes) + Span(readied, readied / MARGIN, readied * MARGIN) + self._outgrown(rows, processes)

    def _outgrown(self, rows: float, processes: int) -> Span:
        """What pairs add beyond their share of the rows; there is none where they grow in proportion."""
        if not self.pairs or self.pairs[-1].cost == 0:
            return Span()
        last, ratio = self.pairs[-1], max(1.0, rows / self.pairs[-1].size)

        def more(power: float) -> float:
            return float(last.cost * (ratio**power - ratio) * self.comparing / processes)

        return Span(more(exponent(self.pairs)), 0.0, more(STEEPEST) * MARGIN)


def rehearse_hygiene(scene: Scene, hygiene: Hygiene, passes: Sequence[Pass]) -> dict[Label, Cost]:
    """What each stage and label costs, by passes over growing pools; {} where they cannot be made.

    The last pass has fewer items and as many rows as one before it.
    """
    lenient = hygiene.model_copy(update={"quarantine_limit": 1.0, "target_overlap": 1.0})
    recipe = without_sources(scene.recipe, budgets=ONE_ROW, hygiene=lenient)
    *growing, fewer = passes
    found: list[tuple[Pass, Pieces]] = []
    try:
        for number, one in enumerate(growing):
            found.append((one, _pieces(scene, recipe, one)))
            if number > 1 and number + 1 < len(growing) and sum(map(_seconds, found[-1][1].values())) * growing[number + 1].rows / one.rows > scene.seconds:
                break
        alike = _pieces(scene, recipe, fewer)
    except CurateError:
        return {}
    return {label: _cost(label, found, fewer, alike) for label in found[-1][1]}


def _pieces(scene: Scene, recipe: Recipe, one: Pass) -> Pieces:
    session = scene.session(one.given)
    run(recipe, session, "prepare")
    made: Pieces = {}
    for piece in session.pieces:
        if piece.stage in STAGES:
            made.setdefault((piece.stage, piece.label), {})[piece.artifact.key] = piece
    return made


def _seconds(pieces: Mapping[str, Piece]) -> float:
    return sum(piece.seconds for piece in pieces.values())


def _cost(label: Label, found: Sequence[tuple[Pass, Pieces]], fewer: Pass, alike: Pieces) -> Cost:
    mine = [(one, pieces[label]) for one, pieces in found]
    last, made = mine[-1]
    time_of = Line.through([Point(_tokens(one), _seconds(pieces)) for one, pieces in mine])
    disk = Line.through([Point(_tokens(one), float(sum(piece.bytes for piece in pieces.values()))) for one, pieces in mine], cold=False)
    cost = Cost(time_of, disk, max(piece.memory for _, pieces in mine for piece in pieces.values()), count=len(made))
    if label[0] in OF_ITEMS:
        whole = next(((one, pieces) for one, pieces in mine if one.rows == fewer.rows), (last, made))
        more = items_in(whole[0].given) - items_in(fewer.given)
        each = max(0.0, _seconds(whole[1]) - _seconds(alike[label])) / more if more > 0 else 0.0
        return replace(cost, each=each, items=items_in(last.given))
    if label[0] == "semantic":
        return replace(cost, grown=[Point(float(one.rows), _seconds(pieces)) for one, pieces in mine])
    if label[0] == "duplicates":
        pairs = [Point(float(one.rows), float(piece.artifact.manifest["summary"]["candidates"])) for one, pieces in mine for piece in pieces.values()]
        return replace(cost, pairs=pairs, comparing=_comparing(last.given["pool"]))
    return cost


def _tokens(one: Pass) -> float:
    return float(one.given["pool"].manifest["summary"]["tokens"])


def items_in(given: Mapping[str, Artifact]) -> float:
    """Tokens of the targets and evaluations among these examples."""
    return float(sum(artifact.manifest["summary"]["tokens"] for label, artifact in given.items() if label != "pool"))


def _comparing(pool: Artifact) -> float:
    """Seconds to read and compare two rows."""
    examples, order = opened(pool.path), in_reading_order(pool.path)[: _PAIRS + 1]
    started = time.perf_counter()
    for one, other in pairwise(order.tolist()):
        similarity(*(examples.rows[int(row)].content.turns for row in (one, other)))
    return (time.perf_counter() - started) / max(1, len(order) - 1)


@dataclass(frozen=True)
class Whole:
    """How much the run has to look through."""

    rows: float
    tokens: float
    items: float  # tokens


def hygiene_lines(costs: Mapping[Label, Cost], seen: Seen, whole: Whole, workers: Workers) -> Iterator[Planned]:
    """What is compared and what is left out, of stages that the run has."""
    mine = [one for one in seen if one[0] in STAGES]
    for stage, label in sorted(mine, key=lambda one: list(STAGES).index(one[0])):
        if all(seen[stage, label].values()) or (stage, label) not in costs:
            yield _unmeasured(stage, label, seen)
            continue
        task, cost = STAGES[stage], costs[stage, label]
        processes = min(workers.count, math.ceil(whole.rows / task)) if task else 1
        started = workers.starting(processes)
        seconds = cost.seconds(whole.tokens, whole.items, whole.rows, processes) + Span(started, started / MARGIN, started * MARGIN)
        memory = processes * cost.memory + (round(_HELD * whole.rows) if stage == "duplicates" else 0)
        keys = found_keys(seen, stage, [label])
        left = max(0, cost.count - len(keys)) / cost.count
        fields: dict[str, Any] = {"stage": stage, "what": label, "labels": [label], "count": max(cost.count, len(keys)), "found": keys}
        yield planned(seconds.times(left), **fields, memory=memory, disk=round(left * cost.bytes.at(whole.tokens).middle))


def again_line(recipe: Recipe, costs: Mapping[Label, Cost], seen: Seen, whole: Whole, pool: Examples) -> Iterator[Planned]:
    """The rows that arms take, compared once more in one process; nothing where leaks are not left out."""
    if not recipe.hygiene.decontaminate or not shares_taken(recipe, pool):
        return
    stage, label = AGAIN
    if found_keys(seen, stage, [label]) or GATE not in costs:
        yield _unmeasured(stage, label, seen)
        return
    cost = costs[GATE]
    taken = 1 - math.prod(1 - share for share in shares_taken(recipe, pool))
    warm = replace(cost, time=replace(cost.time, first=0.0))
    seconds = warm.seconds(taken * whole.tokens, whole.items, taken * whole.rows)
    yield planned(seconds, stage=stage, what=label, labels=[label], count=1, memory=cost.memory)


def _unmeasured(stage: str, label: str, seen: Seen) -> Planned:
    """What is there, or could not be made of the first rows."""
    keys = found_keys(seen, stage, [label])
    unknown = "" if keys else "it could not be tried on the first rows"
    return Planned(stage=stage, what=label, labels=[label], count=max(1, len(keys)), found=keys, unknown=unknown)


def shares_taken(recipe: Recipe, pool: Examples) -> list[float]:
    """The share of the pool that each selection holds which may differ from the others: the largest budget of each arm, target and seed that is drawn by."""
    shares: dict[tuple[str, str, int | None], float] = {}
    for cell in cells_of(recipe):
        if cell.budget is None or cell.arm == "full":
            continue
        drawn = cell.arm not in recipe.arms or recipe.arms[cell.arm].seeded
        one = cell.arm, cell.target, cell.seed if drawn else None
        shares[one] = max(shares.get(one, 0.0), share_of(cell.budget, pool))
    return list(shares.values())
