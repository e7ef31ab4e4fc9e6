"""Forgetting: how often the model loses a token of a row's answer that it had right."""

from typing import ClassVar, Literal

from curate.interfaces import Batch, Output, Reads, ScoringContext
from curate.passes import PassScorer, Reader, warm_checkpoints


class Forgetting(PassScorer):
    """Mean over a row's answer tokens of how often greedy prediction goes from right to wrong between checkpoints of the warm-up.

    With C checkpoints, in training order, a token that was right at some time has at most C / 2 such events; one that
    never was counts C, for it is harder than any that was learned. In [0, C], no unit; 0 is learned and kept. No target. A
    row without an answer token gives NaN.

    Toneva et al., "An Empirical Study of Example Forgetting during Deep Neural Network Learning", ICLR 2019; here per token.
    """

    name: Literal["forgetting"] = "forgetting"
    output: ClassVar[Output] = "scores"
    reads: ClassVar[Reads] = "logits"

    @property
    def warmup(self) -> bool:
        return True

    def reader(self, batch: Batch, context: ScoringContext) -> Reader:
        from curate.readers import ForgettingEvents

        checkpoints = sorted(warm_checkpoints(self, context), key=lambda checkpoint: checkpoint.step)
        return ForgettingEvents(checkpoints)
