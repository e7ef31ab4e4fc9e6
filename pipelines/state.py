"""State: what a scorer needs of the whole pool or of the target, computed once and stored."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from curate.core import Artifact, Checkpoint, Examples
from curate.data.examples import opened
from curate.errors import IntegrityError
from curate.interfaces import Batch, Scorer, ScoringContext
from curate.pipelines.session import Session, numeric_environment
from curate.randomness import uniform
from curate.store import Workspace

STATE = "state.safetensors"


@dataclass(frozen=True)
class Inputs:
    """What scorers read besides the rows that they score: small, picklable, the same on every worker."""

    handle: Any  # curate.model.ModelHandle, None for scorers of text
    pool: Artifact
    target: Artifact
    checkpoints: tuple[Checkpoint, ...]
    keys: tuple[str, ...]  # of the artifacts behind the checkpoints
    folder: Path  # that relative paths in scorers' fields start from
    device: str

    def fields(self, scorer: Scorer) -> dict[str, Any]:
        """What of it decides the scorer's numbers, besides its input artifacts."""
        return {
            "scorer": scorer.model_dump(mode="json"),
            "model": self.handle.identity() if self.handle else None,
            "files": dict(scorer.inputs(self.folder)),
            "environment": numeric_environment(self.device),
        }

    def input_keys(self, scorer: Scorer) -> list[str]:
        """The artifacts that the scorer's state depends on."""
        return [self.pool.key] * (scorer.sample_rows != 0) + [self.target.key] * scorer.targeted + list(self.keys if scorer.warmup else ())

    def context(self, scorer: Scorer, state: Path | None) -> ScoringContext:
        """The context of this process, with the model loaded if the scorer reads one."""
        context = ScoringContext(device=self.device, folder=self.folder)
        if self.handle is not None:
            from curate.model import cached

            context = replace(context, model=cached(self.handle, self.device), checkpoints=self.checkpoints if scorer.warmup else ())
        if scorer.targeted:
            context = replace(context, target=target_rows(self.target.path))
        return replace(context, state=load_state(state, self.device)) if state else context


@dataclass(frozen=True)
class StateTask:
    """One scorer's preparation, as a worker gets it."""

    scorer: Scorer
    inputs: Inputs
    workspace: Path
    tokens: int


def prepares(scorer: Scorer) -> bool:
    """Whether the scorer wants to know something of the pool or the target first."""
    return type(scorer).prepare is not Scorer.prepare


def prepare_state(session: Session, label: str, scorer: Scorer, inputs: Inputs, tokens: int) -> Artifact | None:
    """The stored state of the scorer; None where it needs none."""
    if not prepares(scorer):
        return None

    def make(workspace: Workspace) -> Mapping[str, Any]:
        task = StateTask(scorer, inputs, workspace.path, tokens)
        return next(iter(session.cluster.map(run_prepare, [task], label=f"{label} (preparing)")))

    fields = {**inputs.fields(scorer), "micro_batch_tokens": tokens}
    return session.build("state", f"{label} (state)", make, fields=fields, inputs=inputs.input_keys(scorer), version=scorer.version)


def run_prepare(task: StateTask) -> dict[str, Any]:
    """Prepare in this process and write the state's arrays."""
    import torch
    from safetensors.torch import save

    context = task.inputs.context(task.scorer, None)
    state = task.scorer.prepare(sample(task, context), context) or {}
    tensors = {name: torch.as_tensor(value).detach().cpu().contiguous() for name, value in state.items()}
    Workspace(task.workspace).write(STATE, save(tensors))
    return {"arrays": len(tensors), "bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())}


def sample(task: StateTask, context: ScoringContext) -> Iterator[Batch]:
    """The rows of the pool that the scorer prepares from, drawn by their ids, batch by batch; none if it wants none."""
    from curate.rowwise import batch_of, batches

    wanted = task.scorer.sample_rows
    if wanted == 0:
        return
    pool = opened(task.inputs.pool.path)
    rows = drawn(pool, wanted)
    for batch in batches(pool.lengths[rows], context.model, task.tokens):
        yield batch_of([pool.rows[int(row)] for row in rows[batch]], context.model)


def drawn(examples: Examples, count: int | None) -> Any:
    """(K,) positions of `count` rows drawn by their ids; all of them, in order, if it is None or more than there are."""
    if count is None or count >= len(examples):
        return np.arange(len(examples))
    return np.argsort(uniform(0, "prepare", examples.ids), kind="stable")[:count]


@lru_cache(maxsize=8)
def target_rows(path: Path) -> tuple[Any, ...]:
    """The target's rows in the order of their ids, in memory."""
    examples = opened(path)
    return tuple(examples.rows[i] for i in range(len(examples)))


@lru_cache(maxsize=8)
def load_state(folder: Path, device: str) -> Mapping[str, Any]:
    """The arrays that `prepare` left, on the device."""
    from safetensors.torch import load_file

    try:
        return load_file(str(folder / STATE), device=device)
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{folder / STATE} cannot be read ({error}); remove its folder and run the same command again") from error
