"""Scorers that read the same forward pass share it.

A pass is one forward pass of a batch under one set of weights, with a backward pass where somebody reads gradients.
Each scorer has a reader, which says what it wants to see of which passes; `read` runs every pass once for all readers.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from curate.core import Checkpoint
from curate.errors import ConfigError
from curate.interfaces import Batch, Scorer, ScoringContext

if TYPE_CHECKING:
    from torch import Tensor

    from curate.gradients import LayerGradient
    from curate.model import LanguageModel

Wanted = Literal["hidden", "logits", "gradients"]
Objective = Literal["loss", "margin"]  # what gradients are of; see curate.forward
At = Literal["base", "first", "last", "every"]


@dataclass(frozen=True)
class Forward:
    """What one forward pass saw; S counts the batch's answer tokens."""

    batch: Batch
    hidden: "Tensor | None"  # (B, T, H) last hidden states after the final norm
    logits: "Tensor"  # (S, V) float32, before every answer token
    labels: "Tensor"  # (S,) that token
    row: "Tensor"  # (S,) its row

    @cached_property
    def losses(self) -> "Tensor":
        """(S,) negative log-likelihood in nats of every answer token."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(self.logits, self.labels, reduction="none")

    def row_means(self, values: "Tensor") -> "Tensor":
        """(B,) mean of `values` (S,) over the answer tokens of each row; NaN for a row that has none."""
        from torch import full_like

        from curate.model import row_means

        means = row_means(values, self.row, len(self.batch.input_ids))
        return means.where(self.batch.supervised[:, 1:].any(1), full_like(means, float("nan")))


class Reader(ABC):
    """What one scorer takes from the passes over one batch."""

    wants: ClassVar[frozenset[Wanted]] = frozenset({"logits"})
    objective: Objective = "loss"
    weights: Sequence[Checkpoint | None] = (None,)  # one pass for each; None is the model as it is
    modules: str | Sequence[str] = "all"  # whose gradients it wants

    def see(self, seen: Forward, number: int) -> None:  # noqa: B027  # most readers of gradients look at nothing else
        """Take what the forward pass under weights `number` saw; under `torch.no_grad`, before the gradients come."""

    @property
    def squeezes(self) -> bool:
        """Whether `squeeze` is all that it needs of a layer's inputs, if it is the only reader of the layer."""
        return False

    def squeeze(self, name: str, inputs: "Tensor") -> "Tensor":
        """What to keep of a layer's inputs (B, T, I), during the forward pass."""
        return inputs

    def take(self, layer: "LayerGradient", number: int) -> None:  # noqa: B027
        """Take one layer's gradients under weights `number`."""

    @abstractmethod
    def result(self) -> "Tensor":
        """What `Scorer.score` returns."""


class PassScorer(Scorer):
    """A scorer that reads forward passes of the model, and shares them with others."""

    @abstractmethod
    def reader(self, batch: Batch, context: ScoringContext) -> Reader:
        """A new reader for this batch."""

    def score(self, batch: Batch, context: ScoringContext) -> "Tensor":
        return read([(self, context)], batch)[0]


class DynamicsScorer(PassScorer):
    """A scorer whose number is a mean over sets of weights: the model as it comes, or the warm-up's checkpoints."""

    at: At = Field("base", description="Whose weights: the base model's, or the warm-up's first, last or every checkpoint (their mean).")

    @property
    def warmup(self) -> bool:
        return self.at != "base"

    def weights(self, context: ScoringContext) -> Sequence[Checkpoint | None]:
        """The sets of weights to read."""
        if self.at == "base":
            return (None,)
        checkpoints = warm_checkpoints(self, context)
        return {"first": checkpoints[:1], "last": checkpoints[-1:], "every": checkpoints}[self.at]


def warm_checkpoints(scorer: Scorer, context: ScoringContext) -> Sequence[Checkpoint]:
    """The warm-up's checkpoints; ConfigError where there are none."""
    if not context.checkpoints:
        raise ConfigError(f"{scorer.name} reads the checkpoints of a warm-up, and none was given")
    return context.checkpoints


def model_of(scorer: Scorer, context: ScoringContext) -> "LanguageModel":
    """The model of the context; ConfigError where there is none."""
    if context.model is None:
        raise ConfigError(f"{scorer.name} reads a model, and none was given")
    return context.model


def read(jobs: Sequence[tuple[PassScorer, ScoringContext]], batch: Batch) -> list["Tensor"]:
    """What each scorer's `score` returns, every pass run once for all of them; their contexts hold the same model."""
    readers = [scorer.reader(batch, context) for scorer, context in jobs]
    show(model_of(*jobs[0]), batch, readers)
    return [reader.result() for reader in readers]


def show(model: "LanguageModel", batch: Batch, readers: Sequence[Reader]) -> None:
    """Run every pass that some reader wants, once, for all that want it."""
    from curate.forward import run_pass

    for (checkpoint, objective), listeners in _passes(readers).items():
        if checkpoint is not None:
            model.use(checkpoint)
        run_pass(model, batch, listeners, objective)


def _passes(readers: Sequence[Reader]) -> dict[tuple[Checkpoint | None, Objective], list[tuple[Reader, int]]]:
    """Who listens to which pass: one for each set of weights, and one more for each further objective of gradients."""
    passes: dict[tuple[Checkpoint | None, Objective], list[tuple[Reader, int]]] = {}
    for reader in sorted(readers, key=lambda reader: "gradients" not in reader.wants):
        for number, checkpoint in enumerate(reader.weights):
            key = next((key for key in passes if key[0] == checkpoint), (checkpoint, reader.objective))
            if "gradients" in reader.wants:
                key = (checkpoint, reader.objective)
            passes.setdefault(key, []).append((reader, number))
    return passes
