"""Scorers whose features are gradients: which weights, which direction, which projection."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field

from curate.core import Checkpoint
from curate.interfaces import Batch, Modules, Reads, Scorer, ScoringContext, VectorScorer
from curate.passes import Objective, PassScorer, Reader

if TYPE_CHECKING:
    from torch import Tensor

    from curate.gradients import LayerGradient

DEFAULT_WIDTH = 8192


class GradientScorer(PassScorer, VectorScorer):
    """A row's direction in weight space, under one or several sets of weights, projected to `width` numbers.

    Over sets of weights c with shares w_c, the vector is sum_c sqrt(w_c) R_c d_c(x), R_c a CountSketch with a hash of its
    own for each c, so that inner products are sum_c w_c <d_c(x), d_c(y)> with noise of about |x| |y| / sqrt(width). `factored`
    projects both factors of every layer's gradient instead, P_out G P_in^T, and never forms a gradient; at equal width it
    is much the poorer, and serves full gradients of large layers. A row whose gradient is zero has no direction: NaN.
    """

    reads: ClassVar[Reads] = "gradients"
    sample_rows: ClassVar[int | None] = 0
    objective: ClassVar[Objective] = "loss"
    metric: ClassVar[Literal["cosine", "inner"]] = "inner"  # of vectors that were normalised before the sketch, where they were
    exact: ClassVar[bool] = True  # whether inner products can be had without a projection, from a state that hangs on none
    projecting: ClassVar[frozenset[str]] = frozenset({"width", "projection", "similarity", "seed", "store"})  # fields that such inner products do not read

    width: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="Numbers per row; auto: the smallest power of two that a pilot finds faithful (8192 outside a recipe)."
    )
    projection: Literal["sketch", "factored"] = Field("sketch", description="sketch: CountSketch of the whole gradient; factored: both factors of each layer.")
    similarity: Literal["auto", "exact", "sketch"] = Field(
        "auto", description="For arms that only compare with the target: exact inner products, or those of the vectors; auto: exact where 2 GiB suffice."
    )
    normalise: Literal["row", "module", "none"] = Field("row", description="Unit length: of the whole direction, of each layer's part first, or neither.")
    modules: Modules = Field("all", description="Trained layers: all, attention, or name endings such as [q_proj, v_proj].")
    seed: int = Field(0, ge=0, description="Of the projection's hash.")

    @property
    def warmup(self) -> bool:
        return True

    @property
    def prepared(self) -> Scorer:
        return self.unprojected() if self.exact else self

    def unprojected(self) -> Self:
        """The scorer of the same exact inner products with all fields at their defaults that say how vectors are projected and stored."""
        return self.model_copy(update={name: field.default for name, field in type(self).model_fields.items() if name in self.projecting})

    @property
    def numbers(self) -> int:
        """The width, where none was chosen the default."""
        return DEFAULT_WIDTH if self.width == "auto" else self.width

    def sets(self, checkpoints: int) -> int:
        """How many sets of weights it reads, of so many checkpoints."""
        return max(1, checkpoints)

    def stored_width(self, checkpoints: int) -> int:
        """Numbers per row on disk, at most."""
        return self.numbers * (1 if self.projection == "sketch" else self.sets(checkpoints))

    @abstractmethod
    def shares(self, context: ScoringContext) -> Sequence[tuple[Checkpoint | None, float]]:
        """The sets of weights, and the share of each in the similarity."""

    @abstractmethod
    def step(self, layer: "LayerGradient", number: int, context: ScoringContext) -> "Tensor":
        """(B, P) each row's direction in one layer's weights, for the role of the context, under weights `number`."""

    def sketched(self, layer: "LayerGradient", number: int, context: ScoringContext) -> "Tensor":
        """(B, P) what is sketched instead of the direction, if another pair has the same inner products and shorter rows."""
        return self.step(layer, number, context)

    def balance(self, name: str, number: int, context: ScoringContext) -> "Tensor | None":
        """(P,) what coordinates are multiplied by before the sketch; its product over the two roles must be one."""
        return None

    def whole_block(self, block: "dict[str, Tensor]", context: ScoringContext) -> "dict[str, Tensor]":
        """The target's directions by `number/layer`, each (M, P), with what else an exact reader needs of them."""
        return block

    def exact_reader(self, batch: Batch, context: ScoringContext, block: "Mapping[str, Tensor]") -> Reader:
        """A reader of exact inner products with the target's directions."""
        from curate.gradient_features import ExactReader

        return ExactReader(self, batch, context, block)

    @property
    def sketchable(self) -> bool:
        """Whether its inner products are those of two vectors."""
        return True

    def reader(self, batch: Batch, context: ScoringContext) -> Reader:
        from curate.gradient_features import FactoredReader, SketchReader

        return SketchReader(self, batch, context) if self.projection == "sketch" else FactoredReader(self, batch, context)
