"""What a recipe says of comparisons by vectors: which encoder, and from which cosine on."""

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, SerializeAsAny

from curate.arm import named
from curate.core import Config
from curate.hygiene.benchmark import LeakRules
from curate.interfaces import Scorer
from curate.registry import component

_ADVICE = "name embed (a sentence encoder) or rds (the model of the recipe)"


def _plain(scorer: Scorer) -> Scorer:
    """A scorer whose vector hangs on its row alone, so that it can be had before anything else is known."""
    if scorer.output != "vectors":
        raise ValueError(f"scorer {scorer.name} yields {scorer.output}, not vectors; {_ADVICE}")
    if scorer.warmup or scorer.targeted or scorer.reads == "gradients" or type(scorer).prepare is not Scorer.prepare:
        raise ValueError(f"scorer {scorer.name} reads more than its row, such as a target or checkpoints, which hygiene comes before; {_ADVICE}")
    return scorer


def _of_text(scorer: Scorer) -> Scorer:
    if scorer.reads != "text":
        raise ValueError(f"items of evaluations are texts, and scorer {scorer.name} reads {scorer.reads}; name embed (a sentence encoder)")
    return scorer


def _embed() -> Any:
    return component("scorers", "embed")


AnyEncoder = Annotated[SerializeAsAny[Scorer], AfterValidator(_plain), BeforeValidator(named("scorers"))]
TextEncoder = Annotated[SerializeAsAny[Scorer], AfterValidator(_of_text), AfterValidator(_plain), BeforeValidator(named("scorers"))]


class Semantic(Config):
    """From which cosine on two rows say the same, and whose vectors are compared."""

    encoder: AnyEncoder = Field(default_factory=_embed, description="A scorer whose vectors are compared: embed, or rds for the model of the recipe.")
    at: float = Field(0.95, gt=0, le=1, description="Cosine from which a row goes for one before it; SemDeDup's 1 - eps.")


class NearItems(Config):
    """From which cosine on a row is reported beside an item."""

    encoder: TextEncoder = Field(default_factory=_embed, description="A scorer of texts whose vectors are compared.")
    at: float = Field(0.95, gt=0, le=1, description="Cosine of a row's question and an item's from which the item is suspicious.")


class Leaks(LeakRules):
    """When a row counts as a leak, by its words and, where that is asked for, by its vector."""

    near: NearItems | None = Field(None, description="Report rows that are alike to items by vectors, as suspicious at most; {} stands for the defaults.")

    @property
    def words(self) -> LeakRules:
        """What concerns words only."""
        return LeakRules(**{name: getattr(self, name) for name in LeakRules.model_fields})
