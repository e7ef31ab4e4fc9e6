"""IFD: how much of an answer's difficulty is left once its prompt is read."""

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from curate.interfaces import Batch, Output, Reads, ScoringContext
from curate.passes import Forward, PassScorer, Reader, model_of

if TYPE_CHECKING:
    from torch import Tensor

    from curate.model import LanguageModel

Ratio = Literal["loss", "perplexity"]


class Ifd(PassScorer):
    """Instruction-following difficulty: the base model's loss on a row's answer after its prompt, relative to the answer alone.

        IFD(x) = s(A | Q) / s(A)             (ratio: loss)
        IFD(x) = exp(s(A | Q) - s(A))        (ratio: perplexity)

    s is the mean negative log-likelihood over the answer tokens. Above 0, no unit: near 0 the prompt says it all, near 1 it
    says nothing, above 1 it misleads; the papers keep the highest below 1. The answer alone keeps those tokens t of the row
    where t or t + 1 carries loss, at positions from 0: of each run of answer tokens also the one token before it, so that
    both losses are over the same tokens. In a row of several turns the answers stand together, without the turns between
    them, and what the prompts add is measured for all at once.

    A row that has nothing before its answers but that one token gives exactly 1; one without answer tokens NaN, and one
    whose answer alone has a loss of 0 no finite ratio of losses.

    Li et al., "From Quantity to Quality", NAACL 2024; of perplexities: Li et al., "Superfiltering", ACL 2024.
    """

    name: Literal["ifd"] = "ifd"
    output: ClassVar[Output] = "scores"
    reads: ClassVar[Reads] = "logits"

    ratio: Ratio = Field("loss", description="Of what: mean losses, as in the first paper, or perplexities, as in Superfiltering.")

    def reader(self, batch: Batch, context: ScoringContext) -> Reader:
        return WithAndWithoutPrompt(batch, model_of(self, context), self.ratio)


class WithAndWithoutPrompt(Reader):
    """(B,) the loss of the answers in the pass that it is shown, relative to a pass of its own over the answers alone."""

    def __init__(self, batch: Batch, model: "LanguageModel", ratio: Ratio) -> None:
        self.batch, self.model, self.ratio = batch, model, ratio
        self.conditioned: Tensor | None = None

    def see(self, seen: Forward, number: int) -> None:
        self.conditioned = seen.row_means(seen.losses)

    def result(self) -> "Tensor":
        import torch

        from curate.model import row_means, token_losses

        if self.conditioned is None:
            raise ValueError("a reader of answers was shown none")
        alone = answers_alone(self.batch)
        with torch.no_grad():
            losses, row = token_losses(self.model.model, alone)
        free = row_means(losses, row, len(alone.input_ids))
        found = self.conditioned / free if self.ratio == "loss" else (self.conditioned - free).exp()
        prompted = alone.mask.sum(1) < self.batch.mask.sum(1)
        return found.where(prompted | self.conditioned.isnan(), torch.ones_like(found))


def answers_alone(batch: Batch) -> Batch:
    """The batch without prompts: of each row the tokens t where t or t + 1 carries loss, moved together and right-padded."""
    kept = batch.supervised.clone()
    kept[:, :-1] |= batch.supervised[:, 1:]
    kept[:, 0] |= ~kept.any(1)  # attention needs a token, also in a row without an answer
    order = (~kept).int().argsort(dim=1, stable=True)[:, : int(kept.sum(1).max())]
    ids, mask, supervised = (part.gather(1, order) for part in (batch.input_ids, kept, batch.supervised))
    return replace(batch, input_ids=ids, mask=mask, supervised=supervised)
