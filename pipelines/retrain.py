"""Retrain: a model on a random part of the pool, and what that does to every target row."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from curate.core import Artifact
from curate.data.examples import opened
from curate.datamodel import subset
from curate.errors import NumericError
from curate.interfaces import ScoringContext
from curate.model import LanguageModel, ModelHandle, apply_weights, fresh, micro_batches, read_weights
from curate.pipelines.finetune import TrainTask, finetune
from curate.pipelines.score import micro_batch_tokens
from curate.pipelines.session import numeric_environment
from curate.pipelines.state import target_rows
from curate.rowwise import score_rows
from curate.scorers.loss import Loss
from curate.settings import Train
from curate.store import Store, Workspace, canonical

LOSSES = "losses.json"


@dataclass(frozen=True)
class Retraining:
    """One subset to train on and to see what it does to the target, as a worker gets it."""

    number: int
    size: int
    seed: int
    handle: ModelHandle
    pool: Artifact
    target: Artifact
    settings: Train
    store: Path
    device: str


def retrain(task: Retraining) -> Artifact:
    """The target's losses after training on one subset in this process; subset, model and losses go to the store."""
    store, environment = Store(task.store), numeric_environment(task.device)
    ids = opened(task.pool.path).ids
    rows = subset(ids, task.seed, task.number, task.size)

    def name(workspace: Workspace) -> Mapping[str, Any]:
        workspace.write("ids.json", canonical(ids[rows].tolist()))
        return {"rows": len(rows)}

    drawn = store.build("subset", name, fields={"seed": task.seed, "number": task.number, "size": task.size}, inputs=[task.pool.key])
    training = TrainTask(task.handle, task.pool.path, rows, np.ones(len(rows), np.float32), task.settings, task.seed, None, None, task.device)
    checkpoint = finetune(store, training, [task.pool.key, drawn.key], environment)
    fields = {"scorer": Loss().model_dump(mode="json"), "model": task.handle.identity(), "environment": environment, "tokens": micro_batch_tokens(task.device)}

    def ask(workspace: Workspace) -> Mapping[str, Any]:
        model = fresh(task.handle, task.device)
        apply_weights(model.names, read_weights(checkpoint.path))
        losses = target_losses(model, task)
        workspace.write(LOSSES, canonical(losses))
        return {"rows": len(losses), "mean": float(np.mean(list(losses.values())))}

    return store.build("losses", ask, fields=fields, inputs=[task.target.key, checkpoint.key], version=Loss.version)


def target_losses(model: LanguageModel, task: Retraining) -> dict[str, float]:
    """Mean answer loss of every target row in nats per token, by id."""
    examples, rows = opened(task.target.path), target_rows(task.target.path)
    context = ScoringContext(device=task.device, model=model, role="target")
    losses: dict[str, float] = {}
    for batch in micro_batches(examples.lengths, micro_batch_tokens(task.device)):
        found = score_rows([(Loss(), context)], [rows[int(i)] for i in batch])[0]
        losses |= {str(examples.ids[int(i)]): float(loss) for i, loss in zip(batch, found, strict=True)}
    broken = sorted(row for row, loss in losses.items() if not np.isfinite(loss))
    if broken:
        raise NumericError(f"target row {broken[0]} has no finite loss after training on subset {task.number}; lower train.learning_rate, or drop the row")
    return losses
