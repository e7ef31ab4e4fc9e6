"""State: what a scorer needs of the whole pool or of the target, computed once and stored."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.core import Artifact, Checkpoint, Examples
from curate.data.examples import opened
from curate.errors import IntegrityError, about
from curate.interfaces import Batch, Scorer, ScoringContext
from curate.kept import kept
from curate.own_gpu import numbered
from curate.parts import Parts, named
from curate.pipelines.memory import bytes_to_prepare, side_by_side
from curate.pipelines.session import Session, numeric_environment
from curate.randomness import uniform
from curate.store import Request, Workspace
from curate.tensor_file import read_tensors

STATE = "state.safetensors"
_INNER = ", within"  # behind the label of a scorer: the one that it is made of


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
            **({"version within": scorer.within.version} if scorer.within else {}),
        }

    def input_keys(self, scorer: Scorer) -> list[str]:
        """The artifacts that the scorer's state depends on."""
        return [self.pool.key] * (scorer.sample_rows != 0) + [self.target.key] * scorer.targeted + list(self.keys if scorer.warmup else ())

    def context(self, scorer: Scorer, state: Path | None, within: Path | None = None) -> ScoringContext:
        """The context of this process, with the model loaded if the scorer reads one."""
        context = ScoringContext(device=self.device, folder=self.folder)
        if self.handle is not None:
            from curate.model import cached

            context = replace(context, model=cached(self.handle, self.device), checkpoints=self.checkpoints if scorer.warmup else ())
        if scorer.targeted:
            context = replace(context, target=target_rows(self.target.path))
        return replace(context, state=load_state(self.device, state, within)) if state or within else context


@dataclass(frozen=True)
class Prepared:
    """The stored state of a scorer, and that of the scorer within; None where there is none."""

    state: Artifact | None = None
    within: Artifact | None = None

    @property
    def keys(self) -> list[str]:
        """What features that are scored with it depend on."""
        return [artifact.key for artifact in (self.state, self.within) if artifact]

    @property
    def paths(self) -> tuple[Path | None, Path | None]:
        """Where the two lie."""
        return self.state.path if self.state else None, self.within.path if self.within else None


@dataclass(frozen=True)
class StateTask:
    """One scorer's preparation, as a worker gets it."""

    label: str
    scorer: Scorer
    inputs: Inputs
    workspace: Path
    tokens: int
    within: Path | None = None


def prepares(scorer: Scorer) -> bool:
    """Whether the scorer wants to know something of the pool or the target first."""
    return type(scorer).prepare is not Scorer.prepare


def prepare_states(session: Session, scorers: Mapping[str, Scorer], inputs: Inputs, tokens: int) -> dict[str, Prepared]:
    """The stored states of the scorers by label, first those of which others are made; equal ones are made once, others side by side."""
    inner = {label: scorer.within.prepared for label, scorer in scorers.items() if scorer.within and prepares(scorer.within)}
    own = {label: scorer.prepared for label, scorer in scorers.items() if prepares(scorer)}
    first = {label + _INNER: scorer for label, scorer in inner.items()} | {label: scorer for label, scorer in own.items() if label not in inner}
    made = _build(session, first, inputs, tokens, {})
    within = {label: made[label + _INNER] for label in inner}
    made |= _build(session, {label: own[label] for label in inner if label in own}, inputs, tokens, within)
    return {label: Prepared(made.get(label), within.get(label)) for label in scorers}


def _build(session: Session, scorers: Mapping[str, Scorer], inputs: Inputs, tokens: int, within: Mapping[str, Artifact]) -> dict[str, Artifact]:
    """States that do not need each other, made over the cluster as many at a time as memory holds."""
    requests = []
    for label, scorer in scorers.items():
        with about(f"feature {label.removesuffix(_INNER)}"):
            fields = {**inputs.fields(scorer), "micro_batch_tokens": tokens}
        keys = inputs.input_keys(scorer) + ([within[label].key] if label in within else [])
        requests.append(Request("state", fields, keys, scorer.version))

    def make(places: Sequence[Workspace | None]) -> list[Mapping[str, Any] | None]:
        tasks = [
            StateTask(label.removesuffix(_INNER), scorer, inputs, place.path, tokens, within[label].path if label in within else None)
            for (label, scorer), place in zip(scorers.items(), places, strict=True)
            if place
        ]
        done: list[Mapping[str, Any]] = []
        for group in side_by_side(tasks, lambda task: bytes_to_prepare(task.scorer, inputs), session):
            done += session.cluster.map(run_prepare, group, label=f"{', '.join(task.label for task in group)} (preparing)")
        summaries = iter(done)
        return [next(summaries) if place else None for place in places]

    artifacts = session.build_together([f"{label} (state)" for label in scorers], requests, make) if requests else []
    return dict(zip(scorers, artifacts, strict=True))


def run_prepare(task: StateTask) -> dict[str, Any]:
    """Prepare in this process and commit the state's arrays; what an earlier run committed stays."""
    import torch
    from safetensors.torch import save

    workspace = Workspace(task.workspace)
    if found := workspace.committed(STATE):
        return {name: found[name] for name in ("arrays", "bytes")}
    with about(f"feature {task.label}"):
        context = task.inputs.context(task.scorer, None, task.within)
        state = task.scorer.prepare(sample(task, context), context) or {}
    tensors = {name: torch.as_tensor(value).detach().cpu().contiguous() for name, value in state.items()}
    committed = workspace.commit(STATE, save(tensors), {"arrays": len(tensors)})
    return {name: committed[name] for name in ("arrays", "bytes")}


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


@kept(most_bytes=2**32, most_values=64)  # mapped on a CPU, so that worker processes share them
def load_state(device: str, state: Path | None, within: Path | None = None) -> Parts:
    """The arrays that `prepare` left, on the device, with those of the scorer within under `of:`."""
    from safetensors import SafetensorError

    def arrays(folder: Path) -> dict[str, Any]:
        try:
            return read_tensors(folder / STATE, numbered(device))
        except (OSError, ValueError, SafetensorError) as error:
            raise _unreadable(folder, error) from error

    return Parts({**(arrays(state) if state else {}), **(named("of", arrays(within)) if within else {})})


def stored_array(folder: Path, name: str) -> NDArray[Any] | None:
    """One array of a stored state, without reading the others; None if it has none of this name."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(folder / STATE), "numpy") as file:
            return np.asarray(file.get_tensor(name)) if name in file.keys() else None  # noqa: SIM118  # it is no mapping
    except (OSError, ValueError, SafetensorError) as error:
        raise _unreadable(folder, error) from error


def _unreadable(folder: Path, error: Exception) -> IntegrityError:
    return IntegrityError(f"{folder / STATE} cannot be read ({error}); remove its folder and run the same command again")
