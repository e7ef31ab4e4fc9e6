"""The whole experiment, read top to bottom: prepare, score, select, train, evaluate, compare."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from curate.core import Artifact, Budget, Examples, Integers
from curate.data.examples import open_examples
from curate.data.source import Source
from curate.errors import DataError
from curate.model import ModelHandle, resolve
from curate.pipelines.evaluate import Examination, draw, evaluate, shot_turns
from curate.pipelines.finetune import TrainTask, finetune, matched
from curate.pipelines.prepare import prepare
from curate.pipelines.score import ATTENTION, score, warm_up
from curate.pipelines.select import read_selection, select
from curate.pipelines.session import Session, numeric_environment
from curate.recipe import Arm, Evaluate, Recipe, label_of
from curate.store import Store

STAGES = ("prepare", "score", "select", "train")


@dataclass(frozen=True)
class Chosen:
    """One selection of the experiment, and where it stands in it."""

    arm: str
    budget: Budget
    seed: int
    artifact: Artifact


@dataclass(frozen=True)
class CellTask:
    """Train on one selection and evaluate the result, as a worker gets it; without a training task the base model is evaluated."""

    arm: str
    budget: str
    seed: int | None
    training: TrainTask | None
    inputs: tuple[str, ...]
    examinations: tuple[Examination, ...]
    base: ModelHandle
    store: Path
    device: str


@dataclass(frozen=True)
class Outcome:
    """The artifacts of a finished cell."""

    arm: str
    budget: str
    seed: int | None
    checkpoint: Artifact | None
    evaluations: tuple[Artifact, ...]


@dataclass(frozen=True)
class Experiment:
    """Everything a report needs to know of a run; later stages are empty when it stopped early."""

    pool: Artifact
    target: Artifact
    features: dict[str, Artifact]
    chosen: list[Chosen]
    examinations: list[Examination]
    outcomes: list[Outcome]


def run(recipe: Recipe, session: Session, until: str = "") -> Experiment:
    """Compute what is missing of the experiment, up to a stage; every result is an artifact that the next run finds."""
    handle = resolve(recipe.model, session.folder)
    base, warm = replace(handle, lora=None), replace(handle, lora=recipe.warmup.lora or handle.lora or ATTENTION)

    pool = prepare(session, "pool", recipe.pool, base, recipe.hygiene)
    target = prepare(session, "target", _target_sources(recipe), base, recipe.hygiene)
    if until == "prepare":
        return Experiment(pool, target, {}, [], [], [])

    scored: dict[str, tuple[Artifact, Artifact | None]] = {}
    needs_warmup = any(scorer.warmup for scorer in recipe.used_features().values())
    warmup = warm_up(session, warm, pool, recipe.warmup) if needs_warmup else None
    for name, scorer in recipe.used_features().items():
        given = (scorer, warm if scorer.warmup else base)
        checkpoints = warmup if scorer.warmup else None
        ours = score(session, name, *given, pool, "pool", checkpoints, recipe.hygiene.quarantine_limit)
        theirs = score(session, name, *given, target, "target", checkpoints, recipe.hygiene.quarantine_limit) if scorer.output == "vectors" else None
        scored[name] = (ours, theirs)
    features = {name: ours for name, (ours, _) in scored.items()}
    if until == "score":
        return Experiment(pool, target, features, [], [], [])

    rows = open_examples(pool.path)
    chosen = [_select(session, recipe, name, arm, budget, seed, pool, rows, target, scored) for name, arm, budget, seed in _arms(recipe)]
    if until == "select":
        return Experiment(pool, target, features, chosen, [], [])

    examinations = _examinations(recipe, session, base, target)
    outcomes = _cells(recipe, session, handle, base, pool, rows, chosen, examinations if until != "train" else [])
    return Experiment(pool, target, features, chosen, examinations, outcomes)


def _target_sources(recipe: Recipe) -> list[Source]:
    """All targets as one set whose rows are grouped by the target's name, unless they bring groups of their own."""
    return [source if source.group else source.model_copy(update={"group": f"label:{name}"}) for name, sources in recipe.target.items() for source in sources]


def _arms(recipe: Recipe) -> list[tuple[str, Arm, Budget, int]]:
    baseline = {"random": Arm.model_validate({"selector": "random"})} if "random" in recipe.baselines else {}
    return [(name, arm, budget, seed) for name, arm in {**baseline, **recipe.arms}.items() for budget in recipe.budgets for seed in recipe.seeds]


def _select(
    session: Session,
    recipe: Recipe,
    name: str,
    arm: Arm,
    budget: Budget,
    seed: int,
    pool: Artifact,
    rows: Examples,
    target: Artifact,
    scored: dict[str, tuple[Artifact, Artifact | None]],
) -> Chosen:
    ours, theirs = scored[arm.vectors] if arm.vectors else (None, None)
    artifact = select(
        session,
        name,
        arm.selector,
        budget,
        seed,
        (pool, rows),
        (target, open_examples(target.path)),
        vectors=(ours, theirs) if ours and theirs else None,
        scores=scored[arm.scores][0] if arm.scores else None,
    )
    return Chosen(name, budget, seed, artifact)


def _examinations(recipe: Recipe, session: Session, base: ModelHandle, target: Artifact) -> list[Examination]:
    made = []
    target_rows = open_examples(target.path)
    for entry in recipe.evaluate:
        label = label_of(entry)
        items = prepare(session, f"evaluation {label}", entry.data, base, recipe.hygiene)
        rows = held_out(open_examples(items.path), target_rows, entry, label)
        shots = shot_turns(target, target_rows, entry.shots, entry.seed)
        made.append(Examination(label, entry.task, items.path, tuple(rows.tolist()), shots, (items.key, target.key) if shots else (items.key,)))
    return made


def held_out(items: Examples, target: Examples, entry: Evaluate, label: str) -> Integers:
    """The items to ask: drawn among those that are not also target rows, for what was selected by cannot be evaluated on."""
    drawn = draw(items, None, entry.seed, "evaluation items")
    free = drawn[~np.isin(items.ids[drawn], target.ids)][: entry.limit]
    if len(free) < 2:
        raise DataError(f"evaluation {label}: fewer than two of its {len(items)} items are not target rows; evaluate on other data than the target")
    return free


def _cells(
    recipe: Recipe,
    session: Session,
    handle: ModelHandle,
    base: ModelHandle,
    pool: Artifact,
    rows: Examples,
    chosen: list[Chosen],
    examinations: list[Examination],
) -> list[Outcome]:
    def task(arm: str, budget: Budget | None, seed: int | None, training: TrainTask | None, inputs: Sequence[str]) -> CellTask:
        name = str(budget) if budget else ""
        return CellTask(arm, name, seed, training, tuple(inputs), tuple(examinations), base, session.store.root, session.device)

    def training(kept: Any, weights: Any, budget: Budget, seed: int) -> TrainTask:
        tokens, steps = matched(recipe.train, budget, rows)
        return TrainTask(handle, pool.path, kept, weights, recipe.train, seed, tokens, steps, session.device)

    tasks = [task("zero_shot", None, None, None, ())] if "zero_shot" in recipe.baselines and examinations else []
    if "full" in recipe.baselines:
        everything = (np.arange(len(rows)), np.ones(len(rows), np.float32))
        tasks += [task("full", budget, seed, training(*everything, budget, seed), [pool.key]) for budget in recipe.budgets for seed in recipe.seeds]
    for one in chosen:
        kept = read_selection(one.artifact)
        tasks.append(task(one.arm, one.budget, one.seed, training(kept["row"], kept["weight"], one.budget, one.seed), [pool.key, one.artifact.key]))
    session.announce("train", f"{len(tasks)} models")
    outcomes = list(session.cluster.map(run_cell, tasks, label="train and evaluate"))
    for outcome in outcomes:
        label = f"{outcome.arm} {outcome.budget}" + (f" seed {outcome.seed}" if outcome.seed is not None else "")
        for stage, artifact in [("train", outcome.checkpoint), *(("evaluate", evaluation) for evaluation in outcome.evaluations)]:
            if artifact:
                session.note(stage, label, artifact, False)
    return outcomes


def run_cell(task: CellTask) -> Outcome:
    """Train and evaluate one model in this process; both results go to the store."""
    store = Store(task.store)
    environment = numeric_environment(task.device)
    checkpoint = finetune(store, task.training, list(task.inputs), environment) if task.training else None
    handle = task.training.handle if task.training else task.base
    evaluations = tuple(evaluate(store, examination, handle, checkpoint, task.device, environment) for examination in task.examinations)
    return Outcome(task.arm, task.budget, task.seed, checkpoint, evaluations)
