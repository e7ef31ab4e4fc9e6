"""The base model's perplexity on a row."""

from typing import ClassVar, Literal

from curate.interfaces import Batch, Output, Reads, ScoringContext
from curate.passes import DynamicsScorer, Reader


class Perplexity(DynamicsScorer):
    """exp of the mean negative log-likelihood of a row's answer: how many tokens the model hesitates between; high is hard.

        perplexity(x) = exp(-(1 / T) sum over answer tokens t of log p(x_t | x_<t))

    In [1, inf), no unit. It orders rows as `loss` does; strata of equal width and means are another matter, for few rows
    then hold most of the scale. Over several checkpoints the losses are averaged before the exponential.
    """

    name: Literal["perplexity"] = "perplexity"
    output: ClassVar[Output] = "scores"
    reads: ClassVar[Reads] = "logits"

    def reader(self, batch: Batch, context: ScoringContext) -> Reader:
        from curate.readers import TokenMeans

        return TokenMeans(self.weights(context), lambda seen: seen.losses, finish=lambda means: means.exp())
