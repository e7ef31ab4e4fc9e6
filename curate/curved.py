"""The fields and the preparation that scorers with curvature share."""

from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import Field

from curate.core import Checkpoint
from curate.interfaces import Batch, Modules, Scorer, ScoringContext, State
from curate.passes import model_of, warm_checkpoints


class Curved(Scorer):
    """A scorer that reads the inverse Fisher of a sample of the pool, under the warm-up's last checkpoint or every one."""

    curvature: Literal["ekfac", "kfac", "woodbury"] = Field(
        "ekfac", description="Per layer in K-FAC's eigenbasis, with measured eigenvalues (ekfac) or their products (kfac); or over all layers from a sample."
    )
    damping: float = Field(0.1, gt=0, description="Added to the eigenvalues, as a share of their mean.")
    fisher_rows: int = Field(1024, ge=1, description="Rows of the pool that the Fisher is measured on.")
    checkpoint: Literal["last", "every"] = Field("last", description="The warm-up's last checkpoint, or the mean over all of them.")
    modules: Modules = Field("all", description="Trained layers: all, attention, or name endings such as [q_proj, v_proj].")

    @property
    def warmup(self) -> bool:
        return True

    @property
    def sample_rows(self) -> int | None:  # type: ignore[override]  # of this instance
        return self.fisher_rows

    def weights(self, context: ScoringContext) -> Sequence[Checkpoint]:
        """The checkpoints that it reads."""
        checkpoints = warm_checkpoints(self, context)
        return checkpoints[-1:] if self.checkpoint == "last" else checkpoints

    def prepare(self, sample: Iterable[Batch], context: ScoringContext) -> State:
        from curate.fisher import fit

        return fit(model_of(self, context), self.weights(context), sample, self.curvature, self.damping, self.modules)
