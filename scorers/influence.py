"""Influence: by how much a pool row lowers the loss on a target row, curvature counted."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from curate.core import Checkpoint
from curate.curved import Curved
from curate.errors import ConfigError
from curate.gradient_scorer import GradientScorer
from curate.interfaces import Batch, ScoringContext
from curate.passes import Reader

if TYPE_CHECKING:
    from torch import Tensor

    from curate.gradients import LayerGradient


class Influence(Curved, GradientScorer):  # type: ignore[override]  # how many rows it prepares from is a field
    """The inner product of two gradients through the inverse Fisher, at the end of the warm-up:

        influence(x, y) = g(y)^T F^-1 g(x)

    for pool row x and target row y, g being the gradient of the mean answer loss over the trained layers. Positive: a
    small step on x, in the geometry of the Fisher, lowers the loss on y; unit nats^2 / Fisher, so only its order means
    anything. F is the empirical Fisher of `fisher_rows` pool rows plus `damping` times its mean eigenvalue, as EK-FAC (block
    per layer, the default), K-FAC, or exactly for the sample over all layers by Woodbury's identity (M-FAC's F), which a
    row of the sample is left out of when it is compared: it would meet itself there and look harmless. With EK-FAC and K-FAC
    exact similarities apply F^-1 to the few target rows, and vectors are sketches of F^-1/2 g on both sides: the same inner product of shorter rows.
    Woodbury has similarities only. With `normalise` the F^-1/2 g are scaled to unit length, a cosine in the Fisher's geometry. With a very large
    damping it is the plain inner product, as `less` with `direction: sgd, normalise: none`.

    Koh and Liang, ICML 2017; Grosse et al., "Studying Large Language Model Generalization with Influence Functions", 2023;
    Frantar et al., "M-FAC", NeurIPS 2021.
    """

    name: Literal["influence"] = "influence"
    version: ClassVar[int] = 2

    projection: Literal["sketch"] = Field("sketch", description="The inverse Fisher needs whole gradients, so there is nothing to factor.")
    normalise: Literal["row", "module", "none"] = Field(
        "none", description="Unit length before the comparison, or none: long gradients count for more. Not by module with woodbury."
    )

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.curvature == "woodbury" and self.normalise == "module":
            raise ValueError("curvature: woodbury joins the layers, so they cannot be normalised one by one; write normalise: none or row, or curvature: ekfac")
        return self

    def sets(self, checkpoints: int) -> int:
        return 1 if self.checkpoint == "last" else max(1, checkpoints)

    def shares(self, context: ScoringContext) -> Sequence[tuple[Checkpoint | None, float]]:
        checkpoints = self.weights(context)
        return [(checkpoint, 1 / len(checkpoints)) for checkpoint in checkpoints]

    def step(self, layer: "LayerGradient", number: int, context: ScoringContext) -> "Tensor":
        if self.curvature == "woodbury":
            return layer.dense.flatten(1)
        if self.normalise != "none":
            return self.sketched(layer, number, context)
        if context.role == "pool":
            return layer.dense.flatten(1)
        from curate.fisher import kronecker

        return kronecker(context.state, number, layer.name).apply(layer.name, layer.dense).flatten(1)

    def sketched(self, layer: "LayerGradient", number: int, context: ScoringContext) -> "Tensor":
        from curate.fisher import kronecker

        basis = kronecker(context.state, number, layer.name).layers[layer.name]
        return basis.half(*layer.factors).flatten(1)

    def whole_block(self, block: "dict[str, Tensor]", context: ScoringContext) -> "dict[str, Tensor]":
        if self.curvature != "woodbury":
            return block
        from curate.fisher_features import halves

        return block | halves(block, context.state, len(self.weights(context)))

    def exact_reader(self, batch: Batch, context: ScoringContext, block: "Mapping[str, Tensor]") -> Reader:
        if self.curvature != "woodbury":
            return super().exact_reader(batch, context, block)
        from curate.fisher_features import HeldOutReader

        return HeldOutReader(self, batch, context, block)

    @property
    def sketchable(self) -> bool:
        return self.curvature != "woodbury"

    def reader(self, batch: Batch, context: ScoringContext) -> Reader:
        if not self.sketchable:
            raise ConfigError("influence with curvature: woodbury has no vectors, only similarities to the target; use curvature: ekfac for vectors")
        return super().reader(batch, context)
