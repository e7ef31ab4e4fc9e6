"""RDS+: position-weighted mean of the last hidden states."""

from typing import ClassVar, Literal

from curate.interfaces import Batch, Reads, ScoringContext, VectorScorer
from curate.passes import PassScorer, Reader


class Rds(PassScorer, VectorScorer):
    """The unit vector along sum_t t h_t / sum_t t, h being the base model's last hidden states after the final norm.

    Over all tokens of the row, prompt and answer, in the model's template; padding takes no part, so any batch
    gives the same rows. Similarity is the cosine. One forward pass, no warm-up.

    Ivison et al., "Large-Scale Data Selection for Instruction Tuning", 2025.
    """

    name: Literal["rds"] = "rds"
    reads: ClassVar[Reads] = "hidden"

    def reader(self, batch: Batch, context: ScoringContext) -> Reader:
        from curate.readers import PooledStates

        return PooledStates(batch)
