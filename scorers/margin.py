"""Margin: by how much the model prefers a row's answer to the next best, while it learns."""

from typing import ClassVar, Literal

from pydantic import Field

from curate.interfaces import Batch, Output, Reads, ScoringContext
from curate.passes import At, DynamicsScorer, Reader


class Margin(DynamicsScorer):
    """Mean over a row's answer tokens and the warm-up's checkpoints of z_token - max over other tokens z, in logits.

    High is easy, low is hard or mislabelled; 0 is undecided, and a token is predicted greedily where it is positive. No
    target. A row without an answer token gives NaN.

    Pleiss et al., "Identifying Mislabeled Data using the Area Under the Margin Ranking", NeurIPS 2020; here per token.
    """

    name: Literal["margin"] = "margin"
    output: ClassVar[Output] = "scores"
    reads: ClassVar[Reads] = "logits"

    at: At = Field("every", description="Whose weights: the warm-up's checkpoints (their mean), the first, the last, or the base model's.")

    def reader(self, batch: Batch, context: ScoringContext) -> Reader:
        from curate.dynamics import margin
        from curate.readers import TokenMeans

        return TokenMeans(self.weights(context), lambda seen: margin(seen.logits, seen.labels))
