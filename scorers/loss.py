"""The base model's loss on a row."""

from typing import TYPE_CHECKING, ClassVar, Literal

from curate.interfaces import Batch, Scorer, ScoringContext

if TYPE_CHECKING:
    from torch import Tensor


class Loss(Scorer):
    """Mean negative log-likelihood of a row's answer under the base model, in nats per token; high is hard.

        loss(x) = -(1 / T) sum over answer tokens t of log p(x_t | x_<t)

    Its exponential is the perplexity. It sees difficulty only: noise and wrong answers are hard as well
    (Marion et al., "When Less is More", 2023).
    """

    name: Literal["loss"] = "loss"
    output: ClassVar[Literal["vectors", "scores"]] = "scores"
    reads: ClassVar[Literal["text", "tokens", "logits", "hidden", "gradients"]] = "logits"

    def score(self, batch: Batch, context: ScoringContext) -> "Tensor":
        import torch

        from curate.model import row_means, token_losses

        if context.model is None:
            raise ValueError("loss needs a model")
        with torch.no_grad():
            losses, row = token_losses(context.model.model, batch)
        return row_means(losses, row, len(batch.input_ids))
