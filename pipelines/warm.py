"""Warm-up: the checkpoints that gradient and dynamics scorers read, trained here or taken from the user's own run."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from curate.core import Artifact, Checkpoint
from curate.data.examples import opened
from curate.errors import ModelError
from curate.model_folder import absence
from curate.pipelines.session import Session, numeric_environment
from curate.randomness import uniform
from curate.settings import Lora, Warmup
from curate.store import Workspace, canonical

ATTENTION = Lora(r=8, alpha=16, targets="attention")


@dataclass(frozen=True)
class WarmupTask:
    """A warm-up run, as a worker gets it."""

    handle: Any  # curate.model.ModelHandle
    examples: Path
    settings: Warmup
    workspace: Path
    device: str


def warm_handle(handle: Any, settings: Warmup, folder: Path) -> Any:
    """The model with the adapters that the warm-up trains, or those of the Trainer's run."""
    if settings.trainer is None:
        return replace(handle, lora=settings.lora or handle.lora or ATTENTION)
    from curate.trainer_folder import lora_of, trainer_checkpoints

    return replace(handle, lora=lora_of(trainer_checkpoints(_run(settings.trainer, folder))[0]))


def _run(path: str, folder: Path) -> Path:
    found = (folder / path).expanduser()
    if not found.is_dir():
        raise ModelError(f"warmup.trainer {path!r} is not a folder ({found} {absence(found)}); give the output_dir of a Hugging Face Trainer run")
    return found


@dataclass(frozen=True)
class ImportTask:
    """The checkpoints of a Trainer's run to read, as a worker gets them."""

    handle: Any  # curate.model.ModelHandle
    run: Path
    workspace: Path


def import_run(session: Session, handle: Any, settings: Warmup) -> Artifact:
    """The checkpoints of the user's own Trainer run, in the form of a warm-up's."""
    from curate.trainer_folder import fingerprint

    run = _run(str(settings.trainer), session.folder)

    def make(workspace: Workspace) -> Mapping[str, Any]:
        return next(iter(session.cluster.map(run_import, [ImportTask(handle, run, workspace.path)], label="trainer's run")))

    return session.build("warmup", "trainer's run", make, fields={"trainer": fingerprint(run), "model": handle.identity()})


def run_import(task: ImportTask) -> dict[str, Any]:
    """Read every checkpoint and write it as one of ours."""
    from curate.model import fresh
    from curate.trainer_folder import convert, trainer_checkpoints

    model, workspace = fresh(task.handle), Workspace(task.workspace)
    folders = trainer_checkpoints(task.run)
    for number, folder in enumerate(folders):
        for name, data in convert(folder, model, previous=folders[number - 1] if number else None).items():
            workspace.write(f"checkpoint-{number:06d}/{name}", data)
    return {"checkpoints": len(folders)}


def warm_up(session: Session, handle: Any, pool: Artifact, settings: Warmup) -> Artifact:
    """A short training run on a random part of the pool, one checkpoint with its optimizer moments per epoch; or the user's own run."""
    if settings.trainer is not None:
        return import_run(session, handle, settings)

    def make(workspace: Workspace) -> Mapping[str, Any]:
        task = WarmupTask(handle, pool.path, settings, workspace.path, session.device)
        return next(iter(session.cluster.map(run_warmup, [task], label="warm-up")))

    fields = {"settings": settings.model_dump(mode="json"), "model": handle.identity(), "environment": numeric_environment(session.device)}
    return session.build("warmup", "warm-up", make, fields=fields, inputs=[pool.key])


def run_warmup(task: WarmupTask) -> dict[str, Any]:
    """Train on the drawn rows and save a checkpoint after every epoch."""
    from curate.model import fresh
    from curate.train import TrainingSet, learning_rate, plan_steps, save_checkpoint, train

    examples = opened(task.examples)
    count = max(1, int(task.settings.fraction * len(examples)))
    rows = np.sort(np.argsort(uniform(task.settings.seed, "warm-up rows", examples.ids), kind="stable")[:count])
    data = TrainingSet(examples.ids[rows], [examples.rows[int(row)] for row in rows], examples.lengths[rows], np.ones(count, np.float32))
    plan = plan_steps(data, task.settings, task.settings.seed)
    per_epoch = len(plan) // task.settings.epochs
    model = fresh(task.handle, task.device, seed=task.settings.seed)
    workspace = Workspace(task.workspace)

    def after_step(step: int, optimizer: Any) -> None:
        if step % per_epoch == 0:
            mean = sum(learning_rate(task.settings, s, len(plan)) for s in range(step - per_epoch, step)) / per_epoch
            state = {"step": step, "learning_rate": mean}
            save_checkpoint(model, workspace, f"checkpoint-{step:06d}", state, task.settings, optimizer)

    log = train(model, data, plan, task.settings, task.settings.seed, workspace, save_every=per_epoch, after_step=after_step)
    workspace.write("losses.json", canonical(log.losses))
    return {"steps": log.steps, "tokens": log.tokens, "rows": count, "last_loss": log.losses[-1]}


def checkpoints_of(warmup: Artifact) -> tuple[Checkpoint, ...]:
    """The warm-up's checkpoints, first to last."""
    from curate.store import read_json

    folders = sorted(path.parent for path in warmup.path.glob("checkpoint-*/state.json"))
    states = [read_json(folder / "state.json") for folder in folders]
    return tuple(Checkpoint(folder, int(state["step"]), float(state["learning_rate"])) for folder, state in zip(folders, states, strict=True))
