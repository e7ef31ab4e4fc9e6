"""EL2N: how far the model's prediction is from the answer, early in training."""

from typing import TYPE_CHECKING, ClassVar, Literal

from curate.interfaces import Batch, Scorer, ScoringContext

if TYPE_CHECKING:
    from torch import Tensor


class El2n(Scorer):
    """Mean over a row's answer tokens and the warm-up's checkpoints of |softmax(logits) - onehot(token)|_2.

    In [0, sqrt(2)], no unit; high is hard or wrong. Needs no target. Computed as sqrt(sum p^2 - 2 p_token + 1).

    Paul et al., "Deep Learning on a Data Diet", NeurIPS 2021; here per token, since a row has many predictions.
    """

    name: Literal["el2n"] = "el2n"
    output: ClassVar[Literal["vectors", "scores"]] = "scores"
    reads: ClassVar[Literal["text", "tokens", "logits", "hidden", "gradients"]] = "logits"
    warmup: ClassVar[bool] = True

    def score(self, batch: Batch, context: ScoringContext) -> "Tensor":
        import torch

        from curate.errors import ConfigError
        from curate.model import row_means, token_logits

        if not context.checkpoints or context.model is None:
            raise ConfigError("el2n reads the checkpoints of a warm-up, and none was given")
        total = torch.zeros(len(batch.input_ids), device=context.model.device)
        for checkpoint in context.checkpoints:
            context.model.use(checkpoint)
            with torch.no_grad():
                logits, token, row = token_logits(context.model.model, batch)
                p = logits.softmax(-1)
                right = p.gather(1, token.unsqueeze(1)).squeeze(1)
                # the sum can fall below zero by a rounding when the prediction is certain and right
                errors = (p.square().sum(1) - 2 * right + 1).clamp(min=0).sqrt()
            total += row_means(errors, row, len(batch.input_ids))
        return total / len(context.checkpoints)
