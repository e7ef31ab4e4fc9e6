"""Plan: what a run will find, what it will have to compute, and what that will take of time, memory, disk and money."""

import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from curate import __version__
from curate.cluster import cluster_of
from curate.clusters.chosen import workers_in
from curate.clusters.settings import LaptopProfile
from curate.core import Artifact, Budget
from curate.errors import ConfigError, Interrupted
from curate.evaluations import label_of
from curate.gradient_scorer import GradientScorer
from curate.model import ModelHandle, resolve
from curate.pipelines.evaluate import AnyExamination
from curate.pipelines.experiment import Experiment
from curate.pipelines.launch import pick_device, workers_of
from curate.pipelines.measure import Awakening, Pass, Piece, Scene, Scoring, Trials, awake, rehearse
from curate.pipelines.plan_cells import by_budget, cells_of, evaluation_line, foreseen, items_of, sentences, share_of, training_lines
from curate.pipelines.plan_choosing import RANDOM, Choosing, Tryout, rehearse_choosing
from curate.pipelines.plan_file import recipe_digest, write_plan
from curate.pipelines.plan_found import Lookup, look_up, lookup_session
from curate.pipelines.plan_hygiene import Whole, again_line, hygiene_lines, rehearse_hygiene
from curate.pipelines.plan_lines import Amounts, Model, Workers, forecasts, found_lines, planned, scoring_lines, selection_line
from curate.pipelines.plan_miniature import Miniatures, settled
from curate.progress import Progress
from curate.recipe import Recipe, Runtime
from curate.report.planned import Plan, Planned
from curate.report.wording import size
from curate.scratch import Scratch
from curate.store import Store

SCORED = (8, 16, 64, 256)  # rows of the pool in each rehearsal
CHOSEN_FROM = (64, 250, 500, 1000)
TRAINED = (1, 2, 4, 16, 64)  # batches
ASKED = (8, 16, 64, 256)  # items
LOOKED_THROUGH = (16, 64, 250, 1000)  # rows of the pool that are searched for leaks and duplicates
FEW = 64  # items of each set in the pass that tells what items cost from what rows cost
SECONDS = 12.0  # that a rehearsal may take


def plan(recipe: Recipe, runtime: Runtime, folder: Path, *, price: float | None = None, quiet: bool = False) -> Plan:
    """The plan of this run, also written to RUNS/<name>/plan.json where something is left to compute; nothing goes to the store.

    Miniatures lie in a temporary folder (TMPDIR), which must hold one trained model. `price` is what this machine costs per hour.
    """
    if price is not None and not 0 <= price < float("inf"):
        raise ConfigError(f"--price {price:g} is no price; give what this machine costs per hour, such as 2.5")
    if recipe.growth:
        raise ConfigError("growth: a plan does not foretell steps of growth, of which only the new rows are computed; leave growth out to plan the first pool")
    started, progress = time.monotonic(), Progress(None, quiet=quiet)
    try:
        with Scratch("plan") as scratch:
            made = _Planning(recipe, runtime, folder.absolute(), pick_device(runtime.device), scratch, progress).plan(price)
    except KeyboardInterrupt:
        raise Interrupted("interrupted: the plan was not made, and nothing was computed of the run") from None
    finally:
        progress.close()
    made = made.model_copy(update={"measured_seconds": round(time.monotonic() - started, 1)})
    write_plan(runtime.runs / recipe.name, made)
    return made


@dataclass
class _Planning:
    """One plan in the making."""

    recipe: Recipe
    runtime: Runtime
    folder: Path
    device: str
    scratch: Path
    progress: Progress

    @cached_property
    def workers(self) -> int:
        """As many as the run would have."""
        here = workers_of(self.runtime, self.device)
        return workers_in(self.runtime.profile, here) if self.runtime.profile else here

    @cached_property
    def measured_with(self) -> int:
        """As many as are started here to measure: none for workers of other machines or GPUs, which are not asked for."""
        return self.workers if isinstance(self.runtime.profile, LaptopProfile | None) else 1

    @cached_property
    def handle(self) -> ModelHandle:
        """The model that is trained."""
        return resolve(self.recipe.model, self.folder)

    @cached_property
    def miniatures(self) -> Miniatures:
        """Small examples of every role."""
        return Miniatures(self.recipe, self.folder, replace(self.handle, lora=None), Store(self.scratch))

    @cached_property
    def lookup(self) -> Lookup:
        """What is there of the run."""
        runtime = self.runtime
        return lookup_session(
            runtime.store, runtime.runs, self.folder, self.device, runtime.processes, lambda role: self.miniatures.of(role, self.miniatures.most(role))
        )

    def plan(self, price: float | None) -> Plan:
        """Look first; measure where something is missing."""
        self.progress.stage("plan", "looking into the store")
        prepared = look_up(self.recipe, self.lookup)
        lines, sentences = (found_lines(self.lookup.seen), []) if self._finished() else self._measured(prepared)
        return Plan(
            recipe=self.recipe.name,
            version=__version__,
            digest=recipe_digest(self.recipe),
            device=self.device,
            workers=self.workers,
            profile=self.runtime.profile.kind if self.runtime.profile else "",
            price=price,
            planned=lines,
            sentences=sentences,
            warnings=list(self._warnings(lines)),
        )

    def _finished(self) -> bool:
        """Whether the run would compute nothing."""
        seen = self.lookup.seen
        asked = all(("evaluate", cell.label) in seen and (cell.budget is None or ("train", cell.label) in seen) for cell in cells_of(self.recipe))
        return asked and all(there for keys in seen.values() for there in keys.values())

    @cached_property
    def real(self) -> Amounts:
        """How much the run has to do; of examples that are not prepared yet, by their first rows."""
        sizes = {role: self._size(role) for role in self.lookup.given}
        targets = [amount for role, amount in sizes.items() if role.split(" ")[0] == "target"]
        rows, tokens = sizes["pool"]
        warmup = max(1, int(self.recipe.warmup.fraction * rows))
        return Amounts(rows, tokens, sum(one[0] for one in targets), sum(one[1] for one in targets), warmup)

    def _size(self, role: str) -> tuple[float, float]:
        """(rows, tokens) that can be used."""
        summary = self.lookup.given[role].manifest["summary"]
        scale = 1.0 if self.lookup.has(role) else self.miniatures.sample(role).kept / summary["rows_in"]
        return round(summary["used"] * scale), round(summary["tokens"] * scale)

    def _measured(self, prepared: Experiment) -> tuple[list[Planned], list[str]]:
        """Everything that was not found, carried over from miniatures."""
        recipe, seen, real = self.recipe, self.lookup.seen, self.real
        workers = Workers(self.workers)
        scored, model = self._rehearse(workers)
        searched = rehearse_hygiene(self.scene, recipe.hygiene, self._looked_through())
        costs = forecasts(recipe, scored, real)
        tried = self._try_arms(scored)
        pool = foreseen(self.lookup.given["pool"], int(real.pool_rows))
        items = {one.label: self._items(one) for one in prepared.examinations}
        whole = Whole(real.pool_rows, real.pool_tokens, sum(self._size(role)[1] for role in self.lookup.given if role != "pool"))
        lines = [*self._example_lines(), *hygiene_lines(searched, seen, whole, workers), *scoring_lines(recipe, costs, seen, real, workers)]
        lines += [*self._selection_lines(tried), *again_line(recipe, searched, seen, whole, pool)]
        lines += training_lines(recipe, model, pool, seen, self.workers)
        lines.append(evaluation_line(recipe, model, items, prepared.examinations, seen, self.workers))
        return lines, list(sentences(recipe, costs, tried, model, pool))

    def _items(self, examination: AnyExamination) -> float:
        """How many items it will ask; where it or a target is not prepared yet, its rows without those that targets have too."""
        role, known = f"evaluation {examination.label}", items_of(examination, self.handle, self.real.target_rows)
        together = [one for one in self.lookup.given if one == role or one.split(" ")[0] == "target"]
        if role not in together or all(map(self.lookup.has, together)):
            return known
        limit = next(entry.limit for entry in self.recipe.evaluate if label_of(entry) == examination.label)
        return float(min(max(2, round(self._size(role)[0] - self.miniatures.in_targets(role))), limit or math.inf))

    @cached_property
    def scene(self) -> Scene:
        """What rehearsals share."""
        recipe = settled(self.recipe, self.handle, self.folder, self.device, self.real.target_rows)
        return Scene(recipe, self.folder, self.scratch, self.device, SECONDS, self.runtime.processes)

    def _rehearse(self, workers: Workers) -> tuple[list[tuple[Pass, list[Piece]]], Model]:
        """Scoring and cells in miniature, side by side where the run has several workers."""
        scene = self.scene
        cluster = cluster_of(self.measured_with, self.progress.advance)
        try:
            if self.workers > 1:
                started = time.monotonic()
                loading = [Awakening(replace(self.handle, lora=None), self.device)] * self.measured_with
                workers.load = max(cluster.map(awake, loading, label="starting workers"))
                workers.start = time.monotonic() - started - workers.load
            tasks: list[Scoring | Trials] = [Scoring(scene, self._passes()), self._trials()]
            scored, trials = cluster.map(rehearse, tasks, label="measuring")
        finally:
            cluster.close()
        return scored, Model.of(trials)

    def _looked_through(self) -> list[Pass]:
        """Growing pools beside all items, and one of them beside few."""
        most, items = self.miniatures.most("pool"), max(self.miniatures.most(role) for role in self.lookup.given)
        sizes = sorted({min(rows, most) for rows in LOOKED_THROUGH})
        middle = sizes[max(0, len(sizes) - 2)]
        return [*(Pass(rows, self._given(rows, items)) for rows in sizes), Pass(middle, self._given(middle, FEW))]

    def _passes(self) -> list[Pass]:
        sizes = sorted({min(rows, self.miniatures.most("pool")) for rows in SCORED})
        return [Pass(rows, self._given(rows, rows), int(min(rows, self.real.warmup_rows))) for rows in sizes]

    def _trials(self) -> Trials:
        most = self.miniatures.most("pool")
        asked = [Pass(items, self._given(most, items)) for items in ASKED]
        usable = asked[0].given["pool"].manifest["summary"]["used"]
        return Trials(self.scene, sorted({min(self.recipe.train.batch_size * batches, usable) for batches in TRAINED}), asked)

    def _given(self, pool: int, others: int) -> dict[str, Artifact]:
        """Examples of so many rows; targets have at least the rows that evaluations show."""
        shots = max((entry.shots or 0 for entry in self.recipe.evaluate), default=0)
        return {role: self.miniatures.of(role, pool if role == "pool" else max(others, shots)) for role in self.lookup.given}

    def _try_arms(self, passes: Sequence[tuple[Pass, Sequence[Piece]]]) -> dict[str, Choosing]:
        """Every arm on pools with features like the last that were made."""
        self.progress.stage("plan", "trying selectors")
        pool = foreseen(self.lookup.given["pool"], int(self.real.pool_rows))
        shares = {str(budget): Budget(amount=share_of(budget, pool), unit="fraction", elbow=budget.elbow) for budget in self.recipe.budgets}
        sizes = sorted({min(rows, self.miniatures.most("pool")) for rows in CHOSEN_FROM})
        scored: dict[tuple[str, str], list[Artifact]] = {}
        for _, pieces in passes:
            made: dict[tuple[str, str], list[Artifact]] = {}
            for piece in pieces:
                made.setdefault((piece.stage, piece.label), []).append(piece.artifact)
            scored |= made
        given = [{**passes[-1][0].given, "pool": self.miniatures.of("pool", rows)} for rows in sizes]
        return rehearse_choosing(Tryout(self.scene, given, scored, shares))

    def _example_lines(self) -> Iterator[Planned]:
        """What is prepared; what two roles share is made for the first."""
        made: set[str] = set()
        for role in self.lookup.given:
            keys = self.lookup.seen["examples", role]
            there = [key for key, found in keys.items() if found or key in made]
            made |= set(keys)
            if there:
                yield Planned(stage="examples", what=role, labels=[role], count=1, found=there)
                continue
            seconds = self.miniatures.seconds(role)
            memory, disk = self.miniatures.memory, self.miniatures.bytes(role)
            yield planned(seconds, stage="examples", what=role, labels=[role], count=1, memory=memory, disk=disk)

    def _selection_lines(self, tried: Mapping[str, Choosing]) -> Iterator[Planned]:
        """Random and every arm, then the controls, which draw at random too."""
        recipe, rows = self.recipe, self.real.pool_rows
        cells = [cell for cell in cells_of(recipe) if cell.budget is not None]
        for name in ([RANDOM] if RANDOM in recipe.baselines else []) + list(recipe.arms):
            seeded = name == RANDOM or recipe.arms[name].seeded
            yield selection_line("selection", name, by_budget(cells, [name]), tried[name], self.lookup.seen, rows, seeded)
        if controls := {cell.arm for cell in cells} - {RANDOM, "full", *recipe.arms}:
            yield selection_line("control", "controls", by_budget(cells, controls), tried[RANDOM], self.lookup.seen, rows, True)

    def _warnings(self, lines: Sequence[Planned]) -> Iterator[str]:
        """What may stop the run, and what the plan does not know."""
        from distributed.system import MEMORY_LIMIT

        store = next(folder for folder in (self.runtime.store.absolute(), *self.runtime.store.absolute().parents) if folder.exists())
        wanted, free = sum(line.disk for line in lines), shutil.disk_usage(store).free
        if wanted > free:
            yield f"the run writes {size(wanted)}, and the disk of {self.runtime.store} has {size(free)} free: use another --store, or store: float16 or int8"
        peak = max(lines, key=lambda line: line.memory)
        if peak.memory > MEMORY_LIMIT and (self.workers == 1 or self.measured_with > 1):
            yield f"{peak.stage} of {peak.what} holds {size(peak.memory)} of memory, and this machine has {size(MEMORY_LIMIT)}: use fewer --workers"
        yield from (f"no forecast for {line.what}: {line.unknown}" for line in lines if line.unknown)
        yield from self._doubts()

    def _doubts(self) -> Iterator[str]:
        """What the first rows say that the run may stumble over, and what no miniature can tell."""
        if self.workers > 1 and self.measured_with == 1 and self.runtime.profile:
            yield f"times are of this machine: how fast the workers of {self.runtime.profile.kind} are, and how long they take to start, is not foretold"
        limit = self.recipe.hygiene.quarantine_limit
        for role in self.miniatures.samples:
            summary = self.lookup.given[role].manifest["summary"]
            aside = sum(summary["quarantined"].values())
            if aside > limit * summary["rows_in"] and not self.lookup.has(role):
                yield f"{role}: {aside} of the first {summary['rows_in']} rows are set aside; a run stops above {limit:.1%} (see `curate inspect`)"
        used = self.recipe.used_features()
        if wide := [name for name, scorer in used.items() if isinstance(scorer, GradientScorer) and scorer.width == "auto"]:
            yield f"the width of {', '.join(wide)} is settled by a pilot of the run, so its disk may be another power of two of the forecast"
        if self.recipe.train.pruning is not None or self.recipe.train.validation:
            yield "training may take less than forecast: pruning and early stopping are not foretold"
