"""Fine-tune: the model on one selection, for as many tokens or steps as every other arm."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from curate.core import Artifact, Budget, Examples, Integers, Row
from curate.data.examples import opened
from curate.errors import DataError
from curate.randomness import uniform
from curate.settings import Train
from curate.store import Request, Store, Workspace, canonical, digest
from curate.training.ranks import ALONE, Ranks
from curate.training.reporters import ReporterName, reporting

if TYPE_CHECKING:
    from curate.model import LanguageModel
    from curate.train import HeldOut, TrainingLog, TrainingSet

VERSION = 2  # of the loop's numbers
_NO_NUMBERS = {"checkpoint_every"}  # settings that change no number


@dataclass(frozen=True)
class TrainTask:
    """One fine-tuning run: rows of the pool by position, with weights."""

    handle: Any  # curate.model.ModelHandle
    examples: Path
    rows: Integers
    weights: NDArray[np.float32]
    settings: Train
    seed: int
    tokens: int | None
    steps: int | None
    device: str
    report_to: tuple[ReporterName, ...] = ()
    run_folder: Path = Path()  # where reporters write
    label: str = ""  # what reporters call this model
    processes: int = 1  # that train it together


def matched(settings: Train, budget: Budget, pool: Examples) -> tuple[int | None, int | None]:
    """(tokens, steps) that every arm of this budget trains for, or neither when epochs are matched.

    The measure is the budget itself, worth of average pool rows: K rows for E epochs are E K mean-length tokens, or
    E ceil(K / batch) steps. It depends on no arm.
    """
    mean = float(pool.lengths.mean())
    per_row = {"tokens": mean, "supervised_tokens": float(pool.supervised.mean())}.get(budget.unit, 1.0)
    total = budget.amount * len(pool) if budget.unit == "fraction" else budget.amount
    rows = total / per_row
    if settings.match == "tokens":
        return max(1, round(settings.epochs * rows * mean)), None
    if settings.match == "steps":
        return None, max(1, round(settings.epochs * np.ceil(rows / settings.batch_size)))
    return None, None


def finetune(store: Store, task: TrainTask, inputs: list[str], environment: Mapping[str, Any]) -> Artifact:
    """The trained weights and the loss of every step; a killed run goes on from its last checkpoint, bit for bit on a CPU."""

    def make(workspace: Workspace) -> Mapping[str, Any]:
        if task.processes > 1:
            from curate.pipelines.joint import train_jointly

            return train_jointly(task, workspace)
        return run_training(task, workspace)

    return store.build_request(training_request(task, inputs, environment), make)


def training_request(task: TrainTask, inputs: Sequence[str], environment: Mapping[str, Any]) -> Request:
    """What the trained weights are found by: rows and weights, whoever chose them."""
    fields = {
        "model": task.handle.identity(),
        "rows": digest(np.asarray(task.rows, np.int64).tobytes() + np.asarray(task.weights, np.float32).tobytes()),
        "settings": task.settings.model_dump(mode="json", exclude=_NO_NUMBERS),
        "seed": task.seed,
        "tokens": task.tokens,
        "steps": task.steps,
        "environment": {**environment, **({"processes": task.processes} if task.processes > 1 else {})},
    }
    return Request("checkpoint", fields, inputs, VERSION)


def run_training(
    task: TrainTask, workspace: Workspace, after_step: Callable[[int, Any], None] = lambda step, optimizer: None, ranks: Ranks = ALONE
) -> dict[str, Any]:
    """Train in this process and write weights.safetensors, state.json and losses.json; of several processes, the first one writes."""
    from curate.model import fresh
    from curate.train import TrainingSet, plan_steps, train

    examples, settings = opened(task.examples), task.settings
    whole = TrainingSet(examples.ids[task.rows], _Picked(examples.rows, task.rows), examples.lengths[task.rows], task.weights)
    data, held_out = split(whole, settings, task.seed)
    plan = plan_steps(data, settings, task.seed, tokens=task.tokens, steps=task.steps)
    model = fresh(task.handle, task.device, seed=task.seed)
    with reporting(task.report_to, task.run_folder, task.label) as report:
        log = train(
            model,
            data,
            plan,
            settings,
            task.seed,
            workspace,
            save_every=settings.checkpoint_every,
            pruning=settings.pruning,
            held_out=held_out,
            ranks=ranks,
            after_step=after_step,
            report=report,
        )
    if ranks.first:
        _save(model, log, settings, workspace)
    return {
        "steps": log.steps,
        "tokens": log.tokens,
        "planned_tokens": log.planned_tokens,
        "rows": len(data),
        "held_out": len(whole) - len(data),
        "best_step": log.best_step,
        "last_loss": log.losses[-1] if log.losses else None,
    }


def _save(model: "LanguageModel", log: "TrainingLog", settings: Train, workspace: Workspace) -> None:
    from curate.train import save_checkpoint

    save_checkpoint(model, workspace, "", {"step": log.best_step or log.steps, "learning_rate": settings.learning_rate}, settings)
    workspace.write("losses.json", canonical({"steps": log.losses, "validation": log.validation}))


def split(whole: "TrainingSet", settings: Train, seed: int) -> "tuple[TrainingSet, HeldOut | None]":
    """The rows to train on and those to validate on, drawn by (seed, row id); at least one of each where a validation is wanted."""
    from curate.train import HeldOut

    if not settings.validation:
        return whole, None
    if len(whole) < 2:
        raise DataError(f"a selection of {len(whole)} rows has none to spare for validation; raise the budget, or leave train.validation out")
    count = min(max(1, round(settings.validation * len(whole))), len(whole) - 1)
    held = np.sort(np.argsort(uniform(seed, "validation rows", whole.ids), kind="stable")[:count])
    data = whole.only(np.setdiff1d(np.arange(len(whole)), held))
    every = settings.validate_every or math.ceil(len(data) / settings.batch_size)
    return data, HeldOut(whole.only(held), every, settings.patience)


class _Picked(Sequence[Row]):
    """Some rows of a set, read when they are asked for."""

    def __init__(self, rows: Sequence[Row], chosen: Integers) -> None:
        self._rows, self._chosen = rows, chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, place: Any) -> Any:
        return self._rows[int(self._chosen[place])]
