"""Fine-tune: the model on one selection, for as many tokens or steps as every other arm."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.core import Artifact, Budget, Examples, Integers
from curate.data.examples import opened
from curate.settings import Train
from curate.store import Store, Workspace, canonical


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
        return run_training(task, workspace)

    fields = {
        "model": task.handle.identity(),
        "settings": task.settings.model_dump(mode="json", exclude={"checkpoint_every"}),
        "seed": task.seed,
        "tokens": task.tokens,
        "steps": task.steps,
        "environment": dict(environment),
    }
    return store.build("checkpoint", make, fields=fields, inputs=inputs)


def run_training(task: TrainTask, workspace: Workspace, after_step: Callable[[int, Any], None] = lambda step, optimizer: None) -> dict[str, Any]:
    """Train in this process and write weights.safetensors, state.json and losses.json."""
    from curate.model import fresh
    from curate.train import TrainingSet, plan_steps, save_checkpoint, train

    examples = opened(task.examples)
    rows = [examples.rows[int(row)] for row in task.rows]
    data = TrainingSet(examples.ids[task.rows], rows, examples.lengths[task.rows], task.weights)
    plan = plan_steps(data, task.settings, task.seed, tokens=task.tokens, steps=task.steps)
    model = fresh(task.handle, task.device, seed=task.seed)
    log = train(model, data, plan, task.settings, task.seed, workspace, save_every=task.settings.checkpoint_every, after_step=after_step)
    save_checkpoint(model, workspace, "", {"step": log.steps, "learning_rate": task.settings.learning_rate}, task.settings)
    workspace.write("losses.json", canonical(log.losses))
    return {"steps": log.steps, "tokens": log.tokens, "rows": len(rows), "last_loss": log.losses[-1] if log.losses else None}
