"""The norm of a row's gradient: how far one step on the row alone would move the model."""

from typing import ClassVar, Literal

from pydantic import Field

from curate.interfaces import Batch, Modules, Output, Reads, ScoringContext
from curate.passes import DynamicsScorer, Reader


class GradNorm(DynamicsScorer):
    """|g(x)|_2, the norm of the gradient of a row's mean answer loss (nats per unit of weight); high is hard or odd.

    Over the trained linear layers: all of the base model's, or the adapters of a warm-up's checkpoints, whose squared
    norms are averaged before the root. No gradient is formed where sum_{s,t} (delta_s . delta_t)(x_s . x_t) is cheaper.
    It falls with the length of the answer, since the mean over many tokens cancels. No target.

    GraNd: Paul et al., "Deep Learning on a Data Diet", NeurIPS 2021.
    """

    name: Literal["grad_norm"] = "grad_norm"
    output: ClassVar[Output] = "scores"
    reads: ClassVar[Reads] = "gradients"

    modules: Modules = Field("all", description="Linear layers: all, attention, or name endings such as [q_proj, v_proj].")

    def reader(self, batch: Batch, context: ScoringContext) -> Reader:
        from curate.readers import GradientNorms

        return GradientNorms(self.weights(context), self.modules)
