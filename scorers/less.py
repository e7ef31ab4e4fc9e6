"""LESS: influence of a pool row on a target row, through the gradients of a short warm-up."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from curate.core import Checkpoint
from curate.gradient_scorer import GradientScorer
from curate.interfaces import ScoringContext
from curate.passes import model_of, warm_checkpoints

if TYPE_CHECKING:
    from torch import Tensor

    from curate.gradients import LayerGradient
    from curate.moments import Moments


class Less(GradientScorer):
    """Projected gradients over the warm-up's checkpoints, weighted by their learning rates.

    For checkpoint t with mean learning rate eta_t (normalised to sum to 1), pool row x and target row y:

        similarity(x, y) = sum_t eta_t <psi_t(y), phi_t(x)> / (|psi_t(y)| |phi_t(x)|)

    where psi is the plain gradient of the row's mean answer loss and phi the direction that Adam would step in
    from the checkpoint's own moments. The vector of a row is the sum over t of an independent CountSketch of
    sqrt(eta_t) times its unit direction: one sketch of `width` for all checkpoints, with noise 1 / sqrt(width).

    After a short warm-up most of Adam's step is the momentum it carries, the same for all rows; `momentum: false` takes
    phi(g) - phi(0) for phi: what the row adds to the step.

    With `rebalance` the pair is sketched as (psi v^-1/4, phi v^1/4), v being Adam's second moment: the same inner
    product, at the accuracy of about four times the width; norms are exact, taken before the sketch. Unit: a cosine
    in [-1, 1] up to sketch noise. The formula is the inner product of the vectors, which is how selectors compare them. Arms that need
    similarities to the target only get the formula itself, without a sketch. A row whose gradient is zero has no
    direction and gives NaN: it is quarantined.

    Xia et al., "LESS: Selecting Influential Data for Targeted Instruction Tuning", ICML 2024.
    """

    name: Literal["less"] = "less"
    projecting: ClassVar[frozenset[str]] = GradientScorer.projecting | {"rebalance"}

    direction: Literal["adam", "adam_less", "sgd", "sign"] = Field(
        "adam",
        description="adam: AdamW's next step; adam_less: the published formula (no bias correction, epsilon inside the root); "
        "sgd: the gradient; sign: its signs.",
    )
    momentum: bool = Field(
        True, description="Whether the step that Adam takes without any gradient counts, which is the same for every row; false: what the row adds to it."
    )
    rebalance: bool = Field(True, description="Sketch the pair on the scale where both sides are alike.")

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.projection == "factored" and self.direction != "sgd":
            raise ValueError("projection: factored needs plain gradients; write direction: sgd, or projection: sketch")
        if not self.momentum and self.direction in ("sgd", "sign"):
            raise ValueError(f"direction: {self.direction} has no momentum to leave out; write direction: adam, or leave momentum away")
        return self

    def shares(self, context: ScoringContext) -> Sequence[tuple[Checkpoint | None, float]]:
        checkpoints = warm_checkpoints(self, context)
        total = sum(checkpoint.learning_rate for checkpoint in checkpoints)
        return [(checkpoint, checkpoint.learning_rate / total) for checkpoint in checkpoints]

    def step(self, layer: "LayerGradient", number: int, context: ScoringContext) -> "Tensor":
        flat = layer.dense.flatten(1)
        if context.role == "target" or self.direction == "sgd":
            return flat
        if self.direction == "sign":
            return flat.sign()
        import torch

        moments, published = self._moments(number, context), self.direction == "adam_less"
        step = moments.direction(layer.name, flat, published=published)
        return step if self.momentum else step - moments.direction(layer.name, torch.zeros_like(flat[:1]), published=published)

    def balance(self, name: str, number: int, context: ScoringContext) -> "Tensor | None":
        if not self.rebalance or self.direction not in ("adam", "adam_less"):
            return None
        scale = self._moments(number, context).quarter_scale(name)
        return scale if context.role == "pool" else 1 / scale

    def _moments(self, number: int, context: ScoringContext) -> "Moments":
        from curate.moments import load_moments

        return load_moments(context.checkpoints[number].path, model_of(self, context).device)
