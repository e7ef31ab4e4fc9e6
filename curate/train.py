"""Fine-tuning: a plain loop whose order, loss and state are pure functions of (rows, settings, seed, step).

The loss of a step is  sum_rows w_r sum_tokens nll / (number of supervised tokens in the step),  weights scaled to
mean one, so that neither micro-batches nor row lengths, packing, chunks or the number of processes change the gradient.
Nothing random is stored: the order of an epoch and the dropout of a step are drawn from their numbers, which makes a
resumed run bit-identical on a CPU.
"""

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from curate.adapters import inputs_as_they_are
from curate.attention_kernels import kernels_of_any_shape
from curate.batches import sent
from curate.beat import beat
from curate.core import Integers
from curate.errors import ModelError, NumericError
from curate.model import LanguageModel, apply_weights
from curate.randomness import uniform
from curate.settings import Optimizer
from curate.store import Workspace
from curate.training.chunked import check_chunkable
from curate.training.order import Step, TrainingSet, plan_steps, supervised_tokens, walk
from curate.training.packed import check_packable
from curate.training.parts import backward, forward, parts_of
from curate.training.passes import start_of
from curate.training.pruning import Pruning
from curate.training.ranks import ALONE, Ranks
from curate.training.reporters import Report
from curate.training.state import Progress, clear_progress, restore_progress, save_checkpoint, save_progress, trained_tensors

__all__ = ["HeldOut", "TrainingLog", "TrainingSet", "learning_rate", "plan_steps", "save_checkpoint", "train", "trained_tensors"]

AfterStep = Callable[[int, "torch.optim.AdamW"], None]


@dataclass(frozen=True)
class HeldOut:
    """Rows to validate on, after every `every` steps; training stops after `patience` losses in a row that are no new lowest."""

    rows: TrainingSet
    every: int
    patience: int


@dataclass(frozen=True)
class TrainingLog:
    """What happened: loss per step in nats per supervised token, tokens seen, steps taken, and what pruning and stopping saved."""

    losses: list[float]
    tokens: int
    steps: int
    planned_tokens: int  # what the plan would have read without pruning and without stopping early
    validation: list[tuple[int, float]]  # (steps taken, loss)
    best_step: int | None  # whose weights were kept, where there was a validation


def learning_rate(settings: Optimizer, step: float, steps: int) -> float:
    """The rate of step 0, 1, ..., steps - 1: linear warm-up, then constant, linear or cosine decay."""
    warm = max(1, math.ceil(settings.warmup_ratio * steps))
    if step < warm:
        return settings.learning_rate * min(1.0, (step + 1) / warm)
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
    pruning: Pruning | None = None,
    held_out: HeldOut | None = None,
    ranks: Ranks = ALONE,
    after_step: AfterStep = lambda step, optimizer: None,
    report: Report = lambda step, numbers: None,
) -> TrainingLog:
    """Train `model` in place over `plan`, from the last state that the workspace holds.

    NumericError when a loss or a gradient stops being finite: nothing of such a run is kept as a result.
    """
    _check(model, settings)
    optimizer = _adamw(model, settings)
    progress = restore_progress(model, optimizer, workspace)
    ranks.wait()  # until all have read it: the first process removes it at the end
    seen = np.full(len(data), np.nan, np.float32)
    loop = _Loop(model, data, settings, seed, optimizer, ranks)
    with _training(model, settings):
        for number, step in enumerate(walk(data, plan, settings, seed, pruning, seen)):
            if number < len(progress.losses):
                seen[step.rows] = progress.visited[number] if pruning else np.nan
                continue
            if held_out and _exhausted(progress, held_out):
                break
            rate = learning_rate(settings, step.position, len(plan))
            beat()
            loss, rows, norm = loop.take(step, number, rate)
            seen[step.rows] = rows
            progress.losses.append(loss)
            progress.tokens += int(data.lengths[step.rows].sum())
            if pruning:
                progress.visited.append(rows)
            numbers = {"loss": loss, "learning_rate": rate, "gradient_norm": norm, "tokens": float(progress.tokens)}
            if held_out and (number + 1) % held_out.every == 0:
                numbers["validation_loss"] = _validate(model, held_out, settings, progress, number + 1)
            report(number + 1, numbers)
            after_step(number + 1, optimizer)
            if (number + 1) % save_every == 0 and ranks.first:
                save_progress(model, optimizer, progress, workspace)
    if held_out and progress.best:
        apply_weights(model.names, progress.best)
    _check_finite(model, settings)
    if ranks.first:
        clear_progress(workspace)
    planned = int(sum(data.lengths[rows].sum() for rows in plan))
    return TrainingLog(progress.losses, progress.tokens, len(progress.losses), planned, progress.validation, progress.best_step)


@dataclass(frozen=True)
class _Loop:
    """Takes one step after the other."""

    model: LanguageModel
    data: TrainingSet
    settings: Optimizer
    seed: int
    optimizer: "torch.optim.AdamW"
    ranks: Ranks

    @cached_property
    def _scale(self) -> float:
        """What scales the weights to mean one."""
        return float(len(self.data) / np.sum(self.data.weights, dtype=np.float64))

    @cached_property
    def _start(self) -> int:
        return start_of(self.model)

    def take(self, step: Step, number: int, rate: float) -> tuple[float, NDArray[np.float32], float]:
        """One step of the optimizer: the loss before it, the mean loss of each of its rows, and the norm of the gradient."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        found = self._backward(step, number)
        gradient = torch.nn.utils.clip_grad_norm_(list(self.model.names.values()), self.settings.max_grad_norm)
        self.optimizer.step()
        values: NDArray[np.float32] = found.cpu().numpy()  # waits for the device, which has the whole step by now
        loss, norm = float(values[-1]), float(gradient)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise NumericError(
                f"training diverged at step {number + 1} (loss {loss}, gradient norm {norm}); lower the learning rate (now {self.settings.learning_rate:g})"
            )
        return loss, values[:-1], norm

    def _backward(self, step: Step, number: int) -> Tensor:
        """Leave the step's gradient in the parameters; the mean loss of every row, then the loss of the step, (rows + 1,)."""
        rows = [self.data.rows[int(row)] for row in step.rows]
        shares = self.data.weights[step.rows] * step.factors * self._scale / (step.denominator or supervised_tokens(rows))
        parts = parts_of(self.data.lengths[step.rows], self.settings, self._start)
        found = torch.zeros(len(step.rows) + 1, device=self.model.device)
        for place, part in enumerate(parts):
            if place % self.ranks.size != self.ranks.rank:
                continue
            torch.manual_seed(_dropout_seed(self.seed, number, place))
            weights = shares[part.rows].astype(np.float32)
            total, means = backward(self.model, [rows[int(row)] for row in part.rows], weights, self.settings, chunked=part.chunked)
            found[-1] += total
            found.index_copy_(0, sent(part.rows, self.model.device), means.to(found))
        self.ranks.add([*_gradients(self.model), found])
        return found


def _gradients(model: LanguageModel) -> Iterator[Tensor]:
    """The gradient of every trained parameter, zero where this process saw nothing that depends on it."""
    for parameter in model.names.values():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        yield parameter.grad


def _adamw(model: LanguageModel, settings: Optimizer) -> "torch.optim.AdamW":
    return torch.optim.AdamW(
        list(model.names.values()),
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
        fused=model.device != "cpu",
    )


@contextlib.contextmanager
def _training(model: LanguageModel, settings: Optimizer) -> Iterator[None]:
    """The model as training wants it, and as it was afterwards; random numbers drawn meanwhile are nobody else's."""
    model.model.train()
    with torch.random.fork_rng(devices=[]), kernels_of_any_shape(), contextlib.ExitStack() as stack:
        stack.callback(model.model.eval)
        if settings.precision == "bfloat16":
            stack.enter_context(inputs_as_they_are(model.model))
        if settings.gradient_checkpointing:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # the names until transformers 6
                model.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            stack.callback(_keep_activations, model)
        yield


def _keep_activations(model: LanguageModel) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model.model.gradient_checkpointing_disable()


def _check(model: LanguageModel, settings: Optimizer) -> None:
    """ModelError for a model that cannot be trained in the way that is asked for."""
    if settings.packing:
        check_packable(model)
    if settings.chunk_tokens:
        check_chunkable(model)
    if settings.gradient_checkpointing and not model.model.supports_gradient_checkpointing:
        raise ModelError("this model does not support gradient checkpointing; leave gradient_checkpointing out")


def _validate(model: LanguageModel, held_out: HeldOut, settings: Optimizer, progress: Progress, step: int) -> float:
    """The mean loss of the held-out rows' supervised tokens; keeps the weights if it is a new lowest."""
    rows, total, count = held_out.rows, 0.0, 0
    model.model.eval()
    with torch.no_grad():
        for part in parts_of(rows.lengths, settings.model_copy(update={"chunk_tokens": None}), start_of(model)):
            losses = forward(model, [rows.rows[int(row)] for row in part.rows], settings)
            total += float(losses.sum(dtype=torch.float64))
            count += losses.numel()
    model.model.train()
    loss = total / count
    if not math.isfinite(loss):
        raise NumericError(f"the validation loss after step {step} is {loss}; lower the learning rate (now {settings.learning_rate:g})")
    if all(loss < before for _, before in progress.validation):
        progress.best = {name: tensor.clone() for name, tensor in trained_tensors(model).items()}
    progress.validation.append((step, loss))
    return loss


def _exhausted(progress: Progress, held_out: HeldOut) -> bool:
    """Whether the last `patience` validations brought no new lowest loss."""
    best = progress.best_step
    return best is not None and sum(step > best for step, _ in progress.validation) >= held_out.patience


def _check_finite(model: LanguageModel, settings: Optimizer) -> None:
    finite = torch.stack([torch.isfinite(parameter).all() for parameter in model.names.values()]).tolist()  # waits once
    for name, sound in zip(model.names, finite, strict=True):
        if not sound:
            raise NumericError(f"training left {name} with numbers that are not finite; lower the learning rate (now {settings.learning_rate:g})")


def _dropout_seed(seed: int, step: int, part: int) -> int:
    return int(uniform(seed, "dropout", np.array([f"{step}/{part}"]))[0] * 2**53)
