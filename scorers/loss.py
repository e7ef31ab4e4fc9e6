"""The base model's loss on a row."""

from typing import ClassVar, Literal

from curate.interfaces import Batch, Output, Reads, ScoringContext
from curate.passes import DynamicsScorer, Reader


class Loss(DynamicsScorer):
    """Mean negative log-likelihood of a row's answer, in nats per token; high is hard.

        loss(x) = -(1 / T) sum over answer tokens t of log p(x_t | x_<t)

    Its exponential is the perplexity. It sees difficulty only: noise and wrong answers are hard as well
    (Marion et al., "When Less is More", 2023).
    """

    name: Literal["loss"] = "loss"
    output: ClassVar[Output] = "scores"
    reads: ClassVar[Reads] = "logits"

    def reader(self, batch: Batch, context: ScoringContext) -> Reader:
        from curate.readers import TokenMeans

        return TokenMeans(self.weights(context), lambda seen: seen.losses)
