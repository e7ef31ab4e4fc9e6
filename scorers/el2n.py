"""EL2N: how far the model's prediction is from the answer, early in training."""

from typing import ClassVar, Literal

from curate.interfaces import Batch, Output, Reads, ScoringContext
from curate.passes import DynamicsScorer, Reader


class El2n(DynamicsScorer):
    """Mean over a row's answer tokens of |softmax(logits) - onehot(token)|_2, under the base model or a warm-up's checkpoints.

    In [0, sqrt(2)], no unit; high is hard or wrong. Needs no target. The paper averages
    over several short runs: `at: every` averages over the warm-up's checkpoints, `base` costs no warm-up.

    Paul et al., "Deep Learning on a Data Diet", NeurIPS 2021; here per token, since a row has many predictions.
    """

    name: Literal["el2n"] = "el2n"
    version: ClassVar[int] = 2  # the default reads the base model
    output: ClassVar[Output] = "scores"
    reads: ClassVar[Reads] = "logits"

    def reader(self, batch: Batch, context: ScoringContext) -> Reader:
        from curate.dynamics import el2n
        from curate.readers import TokenMeans

        return TokenMeans(self.weights(context), lambda seen: el2n(seen.logits, seen.labels))
