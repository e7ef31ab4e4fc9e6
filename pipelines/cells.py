"""Cells: one model per arm, budget and seed, trained and evaluated by whichever worker is free."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from curate.core import Artifact, Budget
from curate.data.examples import opened
from curate.model import ModelHandle
from curate.pipelines.evaluate import AnyExamination, evaluate
from curate.pipelines.finetune import TrainTask, finetune, matched
from curate.pipelines.select import read_selection
from curate.pipelines.session import Session, numeric_environment
from curate.recipe import Recipe
from curate.store import Store


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
    examinations: tuple[AnyExamination, ...]
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
    computed: frozenset[str]  # keys that were not found in the store


def run_cells(
    recipe: Recipe, session: Session, handle: ModelHandle, pool: Artifact, chosen: Sequence[Chosen], examinations: Sequence[AnyExamination]
) -> list[Outcome]:
    """Every selection and the baselines, trained on equal terms and evaluated alike; each cell is a task of its own."""
    base, rows = replace(handle, lora=None), opened(pool.path)

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
                session.note(stage, label, artifact, artifact.key not in outcome.computed)
    return outcomes


def run_cell(task: CellTask) -> Outcome:
    """Train and evaluate one model in this process; both results go to the store."""
    store = Store(task.store)
    environment = numeric_environment(task.device)
    checkpoint = finetune(store, task.training, list(task.inputs), environment) if task.training else None
    handle = task.training.handle if task.training else task.base
    evaluations = tuple(evaluate(store, examination, handle, checkpoint, task.device, environment) for examination in task.examinations)
    return Outcome(task.arm, task.budget, task.seed, checkpoint, evaluations, frozenset(store.built))
