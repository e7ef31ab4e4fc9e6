"""Fine-tuning: a plain loop whose order, loss and state are pure functions of (rows, settings, seed, step).

The loss of a step is  sum_rows w_r sum_tokens nll / (number of supervised tokens in the step),  weights scaled to
mean one, so that neither micro-batches nor row lengths change the gradient. Nothing random is stored: the order of
an epoch and the dropout of a step are drawn from their numbers, which makes a resumed run bit-identical on a CPU.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from curate.core import Integers, Row, Strings
from curate.errors import NumericError
from curate.model import LanguageModel, apply_weights, micro_batches, token_losses
from curate.randomness import uniform
from curate.settings import Optimizer
from curate.store import Workspace, canonical


@dataclass(frozen=True)
class TrainingSet:
    """The rows of one run, with the weight of each row's loss."""

    ids: Strings
    rows: Sequence[Row]
    lengths: Integers
    weights: NDArray[np.float32]


@dataclass(frozen=True)
class TrainingLog:
    """What happened: loss per step in nats per supervised token, tokens seen, and steps taken."""

    losses: list[float]
    tokens: int
    steps: int


def plan_steps(data: TrainingSet, settings: Optimizer, seed: int, *, tokens: int | None = None, steps: int | None = None) -> list[Integers]:
    """The rows of every step: whole epochs, or as many batches as reach `tokens` tokens or `steps` steps.

    Every epoch visits each row once, in an order drawn from (seed, epoch, row id).
    """
    plan: list[Integers] = []
    seen, epoch = 0, 0
    while len(data.ids):
        if tokens is None and steps is None and epoch == settings.epochs:
            break
        order = np.argsort(uniform(seed, f"training epoch {epoch}", data.ids), kind="stable")
        for start in range(0, len(order), settings.batch_size):
            if (tokens is not None and seen >= tokens) or (steps is not None and len(plan) >= steps):
                return plan
            batch = order[start : start + settings.batch_size]
            plan.append(batch)
            seen += int(data.lengths[batch].sum())
        epoch += 1
    return plan


def learning_rate(settings: Optimizer, step: int, steps: int) -> float:
    """The rate of step 0, 1, ..., steps - 1: linear warm-up, then constant, linear or cosine decay."""
    warm = max(1, math.ceil(settings.warmup_ratio * steps))
    if step < warm:
        return settings.learning_rate * (step + 1) / warm
    left = (steps - step) / max(1, steps - warm)
    factor = {"constant": 1.0, "linear": left, "cosine": 0.5 * (1 - math.cos(math.pi * left))}[settings.schedule]
    return settings.learning_rate * factor


def train(
    model: LanguageModel,
    data: TrainingSet,
    plan: Sequence[Integers],
    settings: Optimizer,
    seed: int,
    workspace: Workspace,
    *,
    save_every: int,
    after_step: Callable[[int, "torch.optim.AdamW"], None] = lambda step, optimizer: None,
) -> TrainingLog:
    """Train `model` in place over `plan`, from the last state that the workspace holds.

    NumericError when a loss or a gradient stops being finite: nothing of such a run is kept as a result.
    """
    parameters = list(model.names.values())
    optimizer = torch.optim.AdamW(
        parameters, lr=settings.learning_rate, betas=(settings.beta1, settings.beta2), eps=settings.epsilon, weight_decay=settings.weight_decay
    )
    losses = _restore(model, optimizer, workspace)
    scale = float(len(data.weights) / np.sum(data.weights, dtype=np.float64))
    model.model.train()
    with torch.random.fork_rng(devices=[]):
        for step in range(len(losses), len(plan)):
            torch.manual_seed(_step_seed(seed, step))
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(settings, step, len(plan))
            losses.append(_step(model, data, plan[step], optimizer, settings, scale, step))
            after_step(step + 1, optimizer)
            if (step + 1) % save_every == 0 and step + 1 < len(plan):
                _save(model, optimizer, losses, workspace)
    model.model.eval()
    for stale in (*workspace.path.glob("resume-*.json"), *workspace.path.glob("resume-*.safetensors")):
        stale.unlink()
    return TrainingLog(losses, int(sum(data.lengths[rows].sum() for rows in plan)), len(plan))


def _step(model: LanguageModel, data: TrainingSet, rows: Integers, optimizer: Any, settings: Optimizer, scale: float, step: int) -> float:
    optimizer.zero_grad(set_to_none=True)
    supervised = sum(int(data.rows[int(row)].supervised[1:].sum()) for row in rows)
    total = 0.0
    for chunk in micro_batches(data.lengths[rows], settings.micro_batch_tokens):
        chosen = rows[chunk]
        batch = model.batch([data.rows[int(row)] for row in chosen])
        losses, row = token_losses(model.model, batch)
        weights = torch.from_numpy(data.weights[chosen] * scale).to(losses)
        loss = (losses * weights[row]).sum() / supervised
        loss.backward()
        total += float(loss.detach())
    norm = torch.nn.utils.clip_grad_norm_(list(model.names.values()), settings.max_grad_norm)
    if not (math.isfinite(total) and bool(torch.isfinite(norm))):
        raise NumericError(
            f"training diverged at step {step + 1} (loss {total}, gradient norm {float(norm)}); lower the learning rate (now {settings.learning_rate:g})"
        )
    optimizer.step()
    return total


def _step_seed(seed: int, step: int) -> int:
    return int(uniform(seed, "training step", np.array([str(step)]))[0] * 2**53)


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


def _save(model: LanguageModel, optimizer: "torch.optim.AdamW", losses: list[float], workspace: Workspace) -> None:
    from safetensors.torch import save

    tensors = {f"weights.{name}": tensor for name, tensor in trained_tensors(model).items()} | moment_tensors(model, optimizer)
    before = list(workspace.path.glob("resume-*"))
    workspace.commit(f"resume-{len(losses):08d}.safetensors", save(tensors), {"losses": losses})
    for stale in before:
        stale.unlink()


def _restore(model: LanguageModel, optimizer: "torch.optim.AdamW", workspace: Workspace) -> list[float]:
    """Load the newest whole state into model and optimizer; returns the losses so far, empty for a new run."""
    from safetensors.torch import load_file

    for file in sorted(workspace.path.glob("resume-*.safetensors"), reverse=True):
        info = workspace.committed(file.name)
        if info is None:
            continue
        tensors = load_file(str(file), device=model.device)
        apply_weights(model.names, {name.removeprefix("weights."): tensor for name, tensor in tensors.items() if name.startswith("weights.")})
        for name, parameter in model.names.items():
            optimizer.state[parameter] = {
                "step": torch.tensor(float(len(info["losses"]))),
                "exp_avg": tensors[f"first.{name}"].clone(),
                "exp_avg_sq": tensors[f"second.{name}"].clone(),
            }
        return list(info["losses"])
    return []
