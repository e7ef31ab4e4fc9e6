"""LESS: influence of a pool row on a target row, through the gradients of a short warm-up."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from curate.core import Checkpoint
from curate.interfaces import Batch, Scorer, ScoringContext

if TYPE_CHECKING:
    from torch import Tensor


class Less(Scorer):
    """Projected gradients over the warm-up's checkpoints, weighted by their learning rates.

    For checkpoint t with mean learning rate eta_t (normalised to sum to 1), pool row x and target row y:

        similarity(x, y) = sum_t eta_t <psi_t(y), phi_t(x)> / (|psi_t(y)| |phi_t(x)|)

    where psi is the plain gradient of the row's mean answer loss and phi the direction that Adam would step in
    from the checkpoint's own moments. The vector of a row is the sum over t of an independent CountSketch of
    sqrt(eta_t) times its unit direction: one sketch of `width` for all checkpoints, with noise 1 / sqrt(width).

    With `rebalance` the pair is sketched as (psi v^-1/4, phi v^1/4), v being Adam's second moment: the same inner
    product, at the accuracy of about four times the width; norms are exact, taken before the sketch. Unit: a cosine
    in [-1, 1] up to sketch noise. The formula is the inner product of the vectors (`metric: inner` of the selectors);
    their cosine, the selectors' default, is the same on the rebalanced scale and ranks almost alike. A row whose
    gradient is zero has no direction and gives NaN: it is quarantined.

    Xia et al., "LESS: Selecting Influential Data for Targeted Instruction Tuning", ICML 2024.
    """

    name: Literal["less"] = "less"
    output: ClassVar[Literal["vectors", "scores"]] = "vectors"
    reads: ClassVar[Literal["text", "tokens", "logits", "hidden", "gradients"]] = "gradients"
    warmup: ClassVar[bool] = True

    width: int = Field(8192, ge=1, description="Numbers per row.")
    direction: Literal["adam", "adam_less", "sgd"] = Field(
        "adam", description="adam: AdamW's next step; adam_less: the published formula (no bias correction, epsilon inside the root); sgd: the gradient."
    )
    rebalance: bool = Field(True, description="Sketch the pair on the scale where both sides are alike.")
    seed: int = Field(0, ge=0, description="Of the projection's hash.")

    def score(self, batch: Batch, context: ScoringContext) -> "Tensor":
        import torch

        from curate.errors import ConfigError

        if not context.checkpoints or context.model is None:
            raise ConfigError("less reads the checkpoints of a warm-up, and none was given")
        total = sum(checkpoint.learning_rate for checkpoint in context.checkpoints)
        vectors = torch.zeros(len(batch.input_ids), self.width, device=context.model.device)
        for stream, checkpoint in enumerate(context.checkpoints):
            vectors += (checkpoint.learning_rate / total) ** 0.5 * self._directions(batch, context, checkpoint, stream)
        return vectors

    def _directions(self, batch: Batch, context: ScoringContext, checkpoint: Checkpoint, stream: int) -> "Tensor":
        import torch

        from curate.gradients import per_sample_gradients, trained_layers
        from curate.moments import load_moments
        from curate.projection import CountSketch

        model = context.model
        if model is None:
            raise ValueError("less needs a model")
        model.use(checkpoint)
        moments = load_moments(checkpoint.path, model.device)
        first = offsets({name: model.names[name].numel() for name in trained_layers(model)})
        sketch = CountSketch(self.width, self.seed, stream)
        vectors = torch.zeros(len(batch.input_ids), self.width, device=model.device)
        squares = torch.zeros(len(batch.input_ids), dtype=torch.float64, device=model.device)
        moved = torch.zeros(len(batch.input_ids), dtype=torch.bool, device=model.device)

        def receive(name: str, gradients: "Tensor") -> None:
            flat = gradients.flatten(1)
            moved.logical_or_(flat.any(1))
            if context.role == "pool" and self.direction != "sgd":
                flat = moments.direction(name, flat, published=self.direction == "adam_less")
            squares.add_(torch.linalg.vector_norm(flat, dim=1, dtype=torch.float64).square_())
            scale = moments.quarter_scale(name) if self.rebalance and self.direction != "sgd" else None
            sketch.add(vectors, flat, first[name], scale if scale is None or context.role == "pool" else 1 / scale)

        per_sample_gradients(model, batch, receive)
        # Without a gradient Adam still moves, by momentum alone; that says nothing about the row.
        return torch.where(moved, vectors.T / squares.sqrt().float(), torch.nan).T


def offsets(sizes: Mapping[str, int]) -> dict[str, int]:
    """Where each weight starts in the concatenation of all, in the order of their names."""
    starts, position = {}, 0
    for name in sorted(sizes):
        starts[name] = position
        position += sizes[name]
    return starts
