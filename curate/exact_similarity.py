"""The similarity of a gradient scorer to a few target rows, without a projection."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, field_validator

from curate.errors import DataError
from curate.gradient_scorer import GradientScorer
from curate.interfaces import Batch, Output, Reads, Scorer, ScoringContext, State
from curate.parts import named, part_of
from curate.passes import PassScorer, Reader, warm_checkpoints
from curate.registry import component

AnyGradients = Annotated[SerializeAsAny[GradientScorer], BeforeValidator(lambda value: component("scorers", value))]
_TOKENS = 2048
_OF, _BLOCK = "of", "block"


class ExactSimilarity(PassScorer):
    """(B, M) the inner products that a gradient scorer's vectors estimate: pool gradients are streamed against the target's.

    The directions of the M target rows are held whole, C M P numbers for C sets of weights and P trained weights; each
    pool row then costs 2 C M P operations more than its gradient, a fraction of a percent where adapters are trained. Target
    rows without a gradient have no column; the state's `columns` names those that do.
    """

    name: Literal["exact_similarity"] = "exact_similarity"
    output: ClassVar[Output] = "similarity"
    reads: ClassVar[Reads] = "gradients"
    targeted: ClassVar[bool] = True

    of: AnyGradients = Field(description="The scorer whose vectors would be compared; how it projects and stores them is left out.")

    @field_validator("of")
    @classmethod
    def _unprojected(cls, of: GradientScorer) -> GradientScorer:
        """Scorers with the same exact inner products have one similarity, found under one key."""
        return of.unprojected()

    @property
    def warmup(self) -> bool:
        return self.of.warmup

    @property
    def within(self) -> Scorer:
        return self.of

    @property
    def sample_rows(self) -> int | None:  # type: ignore[override]  # that of the scorer within
        return self.of.sample_rows

    def prepare(self, sample: Iterable[Batch], context: ScoringContext) -> State:
        """The target's `columns` and directions; with the state of the scorer within, unless the context gave it."""
        import torch

        from curate.gradient_features import target_block

        if not context.target:
            raise DataError(f"{self.of.name}: an exact similarity needs target rows, and there are none")
        given = part_of(context.state, _OF)
        made = {} if given else self.of.prepare(sample, context) or {}
        context = replace(context, state=given or made or None)
        block, usable = target_block(self.of, context, _TOKENS)
        if not bool(usable.any()):
            raise DataError(f"{self.of.name}: no target row has a gradient, so there is nothing to compare with; use other target rows")
        columns = torch.nonzero(usable).squeeze(1)
        whole = self.of.whole_block({key: rows[columns] for key, rows in block.items()}, context)
        return {"columns": columns, **named(_BLOCK, whole), **named(_OF, made)}

    def reader(self, batch: Batch, context: ScoringContext) -> Reader:
        warm_checkpoints(self, context)
        within = part_of(context.state, _OF)
        return self.of.exact_reader(batch, replace(context, state=within or None), part_of(context.state, _BLOCK))
