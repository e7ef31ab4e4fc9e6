"""TRAK: attribution by a linear model in the space of projected gradients of the model's output."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from curate.core import Checkpoint
from curate.gradient_scorer import GradientScorer
from curate.interfaces import Batch, ScoringContext, State
from curate.passes import Objective, Reader, model_of, warm_checkpoints

if TYPE_CHECKING:
    from torch import Tensor

    from curate.gradients import LayerGradient


class Trak(GradientScorer):
    """The effect of a pool row x on the output at a target row y, were the model linear in its gradients:

        tau(x, y) = (1 / C) sum_c phi_c(y)^T (Phi_c^T Phi_c + lambda I)^-1 phi_c(x) (1 - p_c(x))

    phi is the projected gradient of the mean over a row's answer tokens of the margin log(p / (1 - p)), p the probability of the
    right token, Phi stacks the phi of the pool's rows and lambda is `damping` times the kernel's mean eigenvalue; the
    original's lambda of zero is singular for fewer rows than numbers. Every checkpoint keeps its own kernel, unscaled, in float64.
    Vectors are C `width` numbers: (1 - p) phi for the pool, K^-1 phi for the target; their inner product is the score
    (which selectors take), without a unit; positive helps. A row of the kernel meets itself in it and scores lower than one that is
    not (to six tenths where the kernel has twice as many rows as numbers), so by default all rows of the pool make it.

    Park et al., "TRAK: Attributing Model Behavior at Scale", ICML 2023.
    """

    name: Literal["trak"] = "trak"
    objective: ClassVar[Objective] = "margin"
    exact: ClassVar[bool] = False

    width: int = Field(2048, ge=1, description="Numbers per row and checkpoint; the kernel takes 8 width^2 bytes.")
    projection: Literal["sketch"] = Field("sketch", description="Each checkpoint has a sketch of its own.")
    similarity: Literal["auto", "sketch"] = Field("auto", description="Always of the vectors: the kernel is one of sketches.")
    normalise: Literal["row", "module", "none"] = Field("none", description="Unit length before the kernel, or none as published.")
    damping: float = Field(1.0, gt=0, description="Added to the kernel's eigenvalues, as a share of their mean.")
    kernel_rows: int | None = Field(None, ge=1, description="Rows of the pool that the kernel is made of; null for all, at one more pass over the pool.")
    checkpoint: Literal["last", "every"] = Field("every", description="The warm-up's last checkpoint, or the mean over all of them.")

    @property
    def sample_rows(self) -> int | None:  # type: ignore[override]  # of this instance
        return self.kernel_rows

    def sets(self, checkpoints: int) -> int:
        return 1 if self.checkpoint == "last" else max(1, checkpoints)

    def shares(self, context: ScoringContext) -> Sequence[tuple[Checkpoint | None, float]]:
        checkpoints = warm_checkpoints(self, context)
        checkpoints = checkpoints[-1:] if self.checkpoint == "last" else checkpoints
        return [(checkpoint, 1 / len(checkpoints)) for checkpoint in checkpoints]

    def step(self, layer: "LayerGradient", number: int, context: ScoringContext) -> "Tensor":
        return layer.dense.flatten(1)

    def stored_width(self, checkpoints: int) -> int:
        return self.numbers * self.sets(checkpoints)

    def prepare(self, sample: Iterable[Batch], context: ScoringContext) -> State:
        from curate.kernel_features import fit_kernels

        return fit_kernels(self, model_of(self, context), sample, context)

    def reader(self, batch: Batch, context: ScoringContext) -> Reader:
        from curate.kernel_features import KernelReader

        return KernelReader(self, batch, context)
