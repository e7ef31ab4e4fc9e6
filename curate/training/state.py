"""What a killed run goes on from: weights, moments, and what was seen so far, in one committed file."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from curate.model import LanguageModel, apply_weights
from curate.own_gpu import numbered
from curate.settings import Optimizer
from curate.store import Workspace, canonical
from curate.tensor_file import read_tensors


@dataclass
class Progress:
    """How far a run has come. `best` holds the weights of the lowest validation loss, where there is a validation."""

    losses: list[float] = field(default_factory=list)  # of every step, in nats per supervised token
    visited: list[NDArray[np.float32]] = field(default_factory=list)  # of every step: the mean loss of each of its rows, where training prunes
    validation: list[tuple[int, float]] = field(default_factory=list)  # (steps taken, loss)
    best: dict[str, Tensor] = field(default_factory=dict)
    tokens: int = 0

    @property
    def best_step(self) -> int | None:
        """The step after which the validation loss was lowest; the first of equals."""
        return min(self.validation, key=lambda seen: (seen[1], seen[0]))[0] if self.validation else None


def trained_tensors(model: LanguageModel) -> dict[str, Tensor]:
    """The weights that training changes, on the CPU, by saved name."""
    return {name: parameter.detach().cpu().contiguous() for name, parameter in model.names.items()}


def moment_tensors(model: LanguageModel, optimizer: "torch.optim.AdamW") -> dict[str, Tensor]:
    """Adam's moments as `first.<name>` and `second.<name>`, on the CPU."""
    tensors = {}
    for name, parameter in model.names.items():
        tensors[f"first.{name}"] = optimizer.state[parameter]["exp_avg"].cpu().contiguous()
        tensors[f"second.{name}"] = optimizer.state[parameter]["exp_avg_sq"].cpu().contiguous()
    return tensors


def save_checkpoint(
    model: LanguageModel, workspace: Workspace, folder: str, state: dict[str, Any], settings: Optimizer, optimizer: "torch.optim.AdamW | None" = None
) -> None:
    """A `Checkpoint` on disk: weights, the optimizer's moments where given, and the constants that belong to them."""
    from safetensors.torch import save

    prefix = f"{folder}/" if folder else ""
    workspace.write(f"{prefix}weights.safetensors", save(trained_tensors(model)))
    if optimizer is not None:
        workspace.write(f"{prefix}moments.safetensors", save(moment_tensors(model, optimizer)))
    constants = {"beta1": settings.beta1, "beta2": settings.beta2, "epsilon": settings.epsilon}
    workspace.write(f"{prefix}state.json", canonical({**state, **constants}))


def save_progress(model: LanguageModel, optimizer: "torch.optim.AdamW", progress: Progress, workspace: Workspace) -> None:
    """Commit the state after the last step; the state before it goes once this one stands."""
    from safetensors.torch import save

    tensors = {f"weights.{name}": tensor for name, tensor in trained_tensors(model).items()} | moment_tensors(model, optimizer)
    tensors |= {f"best.{name}": tensor for name, tensor in progress.best.items()}
    tensors["visited"] = torch.from_numpy(np.concatenate([*progress.visited, np.zeros(0, np.float32)]))
    info = {
        "losses": progress.losses,
        "visits": [len(rows) for rows in progress.visited],
        "validation": [list(seen) for seen in progress.validation],
        "tokens": progress.tokens,
    }
    before = list(workspace.path.glob("resume-*"))
    workspace.commit(f"resume-{len(progress.losses):08d}.safetensors", save(tensors), info)
    for stale in before:
        workspace.remove(stale.name)


def restore_progress(model: LanguageModel, optimizer: "torch.optim.AdamW", workspace: Workspace) -> Progress:
    """Load the newest whole state into model and optimizer; a new `Progress` for a new run."""
    for file in sorted(workspace.path.glob("resume-*.safetensors"), reverse=True):
        info = workspace.committed(file.name)
        if info is None:
            continue
        tensors = read_tensors(file, numbered(model.device))
        apply_weights(model.names, _named(tensors, "weights."))
        for name, parameter in model.names.items():
            optimizer.state[parameter] = {
                "step": torch.tensor(float(len(info["losses"])), device=parameter.device if optimizer.defaults["fused"] else None),
                "exp_avg": tensors[f"first.{name}"].clone(),
                "exp_avg_sq": tensors[f"second.{name}"].clone(),
            }
        cuts = np.cumsum(info["visits"])[:-1]
        visited = np.split(tensors["visited"].cpu().numpy(), cuts) if info["visits"] else []
        best = {name: tensor.cpu() for name, tensor in _named(tensors, "best.").items()}
        return Progress(list(info["losses"]), visited, [(int(step), float(loss)) for step, loss in info["validation"]], best, int(info["tokens"]))
    return Progress()


def clear_progress(workspace: Workspace) -> None:
    """A finished run ships no state to resume from."""
    for stale in (*workspace.path.glob("resume-*.json"), *workspace.path.glob("resume-*.safetensors")):
        workspace.remove(stale.name)


def _named(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
