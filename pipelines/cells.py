"""Cells: one model per arm, budget and seed, trained and evaluated by whichever worker is free."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from curate.core import Artifact, Budget
from curate.data.examples import opened
from curate.errors import NumericError
from curate.model import ModelHandle
from curate.pipelines.evaluate import AnyExamination, evaluate, evaluation_request
from curate.pipelines.finetune import TrainTask, finetune, matched, training_request
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
    target: str = ""  # what it was chosen for; empty for all targets together, and for what heeds no target
    matched_to: str = ""  # the arm whose lengths or sources a control copies


@dataclass(frozen=True)
class CellTask:
    """Train on one selection and evaluate the result, as a worker gets it; without a training task the base model is evaluated."""

    arm: str
    target: str
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
    """The artifacts of a finished cell, or why there is no model."""

    arm: str
    target: str
    budget: str
    seed: int | None
    checkpoint: Artifact | None
    evaluations: Mapping[str, Artifact]  # by the label of the examination
    computed: frozenset[str] = field(default_factory=frozenset)  # keys that were not found in the store
    failed: str = ""

    @property
    def label(self) -> str:
        """What the cell is called in tables and in the log."""
        return label_of(self.arm, self.target, self.budget, self.seed)


def label_of(arm: str, target: str, budget: str, seed: int | None) -> str:
    """`less-rr for maths 5% seed 0`, without what there is not."""
    parts = (arm, f"for {target}" if target else "", budget, f"seed {seed}" if seed is not None else "")
    return " ".join(part for part in parts if part)


def run_cells(
    recipe: Recipe, session: Session, handle: ModelHandle, pool: Artifact, chosen: Sequence[Chosen], examinations: Sequence[AnyExamination]
) -> list[Outcome]:
    """Every selection and the baselines, trained on equal terms and evaluated alike; each cell is a task of its own."""
    tasks = cell_tasks(recipe, session, handle, pool, chosen, examinations)
    session.announce("train", f"{len(tasks)} models")
    there = [finished(task, session.store) for task in tasks]
    missing = iter(session.cluster.map(run_cell, [task for task, found in zip(tasks, there, strict=True) if not found], label="train and evaluate"))
    outcomes = [found or next(missing) for found in there]
    for outcome in outcomes:
        for stage, artifact in [("train", outcome.checkpoint), *(("evaluate", evaluation) for evaluation in outcome.evaluations.values())]:
            if artifact:
                session.note(stage, outcome.label, artifact, artifact.key not in outcome.computed)
    return outcomes


def cell_tasks(
    recipe: Recipe, session: Session, handle: ModelHandle, pool: Artifact, chosen: Sequence[Chosen], examinations: Sequence[AnyExamination]
) -> list[CellTask]:
    """What the workers get: the baselines first, then every selection."""
    base, rows = replace(handle, lora=None), opened(pool.path)

    def task(arm: str, target: str, budget: Budget | None, seed: int | None, training: TrainTask | None, inputs: Sequence[str]) -> CellTask:
        asked = tuple(one for one in examinations if not target or one.target in (None, target))
        name = str(budget) if budget else ""
        named = replace(training, label=label_of(arm, target, name, seed)) if training else None
        return CellTask(arm, target, name, seed, named, tuple(inputs), asked, base, session.store.root, session.device)

    def training(kept: Any, weights: Any, budget: Budget, seed: int) -> TrainTask:
        tokens, steps = matched(recipe.train, budget, rows)
        return TrainTask(
            handle, pool.path, kept, weights, recipe.train, seed, tokens, steps, session.device, report_to=session.report_to, run_folder=session.run_folder,
            processes=session.processes,
        )

    # Trainings are found by their rows and weights, so that arms, targets and runs that come to the same subset share its model.
    tasks = [task("zero_shot", "", None, None, None, ())] if "zero_shot" in recipe.baselines and examinations else []
    if "full" in recipe.baselines:
        everything = (np.arange(len(rows)), np.ones(len(rows), np.float32))
        tasks += [task("full", "", budget, seed, training(*everything, budget, seed), [pool.key]) for budget in recipe.budgets for seed in recipe.seeds]
    for one in chosen:
        kept = read_selection(one.artifact)
        order = np.argsort(kept["row"])  # what is trained on has no order of its own
        mine = training(kept["row"][order], kept["weight"][order], one.budget, one.seed)
        tasks.append(task(one.arm, one.target, one.budget, one.seed, mine, [pool.key]))
    return tasks


def finished(task: CellTask, store: Store) -> Outcome | None:
    """The cell as the store holds it; None if anything of it is missing."""
    environment, checkpoint = numeric_environment(task.device), None
    if task.training:
        checkpoint = store.found(training_request(task.training, task.inputs, environment))
        if checkpoint is None:
            return None
    handle, evaluations = task.training.handle if task.training else task.base, {}
    for one in task.examinations:
        found = store.found(evaluation_request(one, handle, checkpoint, environment))
        if found is None:
            return None
        evaluations[one.label] = found
    return Outcome(task.arm, task.target, task.budget, task.seed, checkpoint, evaluations)


def run_cell(task: CellTask) -> Outcome:
    """Train and evaluate one model in this process; both results go to the store. A run that diverges stops alone, with its reason."""
    store = Store(task.store)
    environment = numeric_environment(task.device)
    handle = task.training.handle if task.training else task.base
    try:
        checkpoint = finetune(store, task.training, list(task.inputs), environment) if task.training else None
        evaluations = {one.label: evaluate(store, one, handle, checkpoint, task.device, environment) for one in task.examinations}
    except NumericError as error:
        return Outcome(task.arm, task.target, task.budget, task.seed, None, {}, failed=str(error))
    return Outcome(task.arm, task.target, task.budget, task.seed, checkpoint, evaluations, frozenset(store.built))
