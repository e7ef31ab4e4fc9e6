"""RDS+: position-weighted mean of the last hidden states."""

from typing import TYPE_CHECKING, ClassVar, Literal

from curate.interfaces import Batch, Scorer, ScoringContext

if TYPE_CHECKING:
    from torch import Tensor


class Rds(Scorer):
    """The unit vector along sum_t t h_t / sum_t t, h being the base model's last hidden states after the final norm.

    Over all tokens of the row, prompt and answer, in the model's template; padding takes no part, so any batch
    gives the same rows. Similarity is the cosine. One forward pass, no warm-up.

    Ivison et al., "Large-Scale Data Selection for Instruction Tuning", 2025.
    """

    name: Literal["rds"] = "rds"
    output: ClassVar[Literal["vectors", "scores"]] = "vectors"
    reads: ClassVar[Literal["text", "tokens", "logits", "hidden", "gradients"]] = "hidden"

    def score(self, batch: Batch, context: ScoringContext) -> "Tensor":
        import torch

        if context.model is None:
            raise ValueError("rds needs a model")
        with torch.no_grad():
            states = context.model.hidden_states(batch).float()
        weights = torch.cumsum(batch.mask.float(), 1) * batch.mask
        pooled = torch.einsum("bt,btd->bd", weights / weights.sum(1, keepdim=True), states)
        return torch.nn.functional.normalize(pooled, dim=1)
