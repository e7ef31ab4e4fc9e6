"""An arm of a recipe: one way to select."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, SerializeAsAny, field_validator

from curate.core import Budget, Config
from curate.errors import ConfigError
from curate.interfaces import Selector
from curate.registry import component
from curate.rules import NO_RULES, Rules


def named(kind: Literal["scorers", "selectors", "tasks"]) -> Callable[[Any], Any]:
    """Builds a method from its name, or from a mapping of its name and fields."""
    def build(value: Any) -> Any:
        return component(kind, value)

    return build


def _budget(value: Any) -> Any:
    if isinstance(value, dict):
        return value
    try:
        return Budget.parse(value)
    except ConfigError as error:
        raise ValueError(str(error)) from error


AnySelector = Annotated[SerializeAsAny[Selector], BeforeValidator(named("selectors"))]
OneBudget = Annotated[Budget, BeforeValidator(_budget), PlainSerializer(str)]


class FilterStep(Config):
    """A selector that runs before an arm's own, on the same features, and what it leaves of the pool."""

    selector: AnySelector
    keep: OneBudget = Field(description="Rows, a share of the pool (80%) or tokens that pass.")

    @field_validator("keep")
    @classmethod
    def _something(cls, keep: Budget) -> Budget:
        if keep.amount <= 0 or keep.elbow or (keep.unit == "fraction" and keep.amount > 1):
            raise ValueError(f"a filter that keeps {keep} makes no sense; write rows (500), a share of at most 100% (80%) or tokens")
        return keep


class Arm(Config):
    """One way to select: which features it reads, and the selector with its fields."""

    vectors: str | None = Field(None, description="Name of a feature whose scorer gives vectors.")
    scores: str | None = Field(None, description="Name of a feature whose scorer gives scores.")
    similarity: str | None = Field(None, description="Name of a feature whose scorer gives similarities to the target.")
    selector: AnySelector
    filters: list[FilterStep] = Field([], description="Selectors that run before, one after the other, such as {selector: semdedup, keep: 80%}.")
    rules: Rules = Field(NO_RULES, description="Which rows may be kept, which must be, and quotas.")

    @property
    def seeded(self) -> bool:
        """Whether another seed may give other rows."""
        return any(selector.seeded for selector in self.selectors)

    @property
    def ends_at_elbow(self) -> bool:
        """Whether a budget of elbow can end it."""
        return self.selector.diminishing and not self.rules.force and not self.rules.quotas

    @property
    def reads(self) -> frozenset[str]:
        """What its selectors read of features."""
        return frozenset().union(*(selector.needs | selector.needs_one_of for selector in self.selectors))

    @property
    def selectors(self) -> list[Selector]:
        """Its own last."""
        return [*(step.selector for step in self.filters), self.selector]

    def fields(self) -> dict[str, Any]:
        """What of it, beside the features, decides the rows."""
        steps = [{"selector": step.selector.model_dump(mode="json"), "version": step.selector.version, "keep": str(step.keep)} for step in self.filters]
        found = {"selector": self.selector.model_dump(mode="json"), "filters": steps, "rules": {} if self.rules.empty else self.rules.model_dump(mode="json")}
        return {name: value for name, value in found.items() if value}
