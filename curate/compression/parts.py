"""The parts that a press is put together from, so that published methods compose: importance x allocation x action."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BeforeValidator, SerializeAsAny

from curate.interfaces import Component, State
from curate.registry import Kind, component

if TYPE_CHECKING:
    from torch import Tensor

    from curate.compression.prefix import Prefix
    from curate.core import Integers
    from curate.inference.stores import LayerStore
    from curate.model import LanguageModel


class Importance(Component):
    """What every token of a prefix is worth, per layer and key-value head."""

    @abstractmethod
    def score(self, prefix: "Prefix") -> "list[Tensor]":
        """Per layer (Hk, n) float32, finite; more is worth more, ties go to the earlier token."""

    def protected(self, prefix: "Prefix") -> "Tensor":
        """(n,) bool: tokens that are kept before all others, the later first if not even they fit; none unless a method says so."""
        import torch

        return torch.zeros(len(prefix), dtype=torch.bool)

    def calibrate(self, model: "LanguageModel", texts: Sequence[Sequence[int]], seed: int) -> State | None:
        """What the scores need to know of the model; as for a press."""
        return None


class Allocator(Component):
    """How many tokens every layer and key-value head may keep."""

    @abstractmethod
    def allocate(self, prefix: "Prefix", scores: "Sequence[Tensor]", tokens: int) -> "Integers":
        """(L, Hk) whole numbers between 0 and n that sum to exactly L * Hk * min(tokens, n)."""

    def calibrate(self, model: "LanguageModel", texts: Sequence[Sequence[int]], seed: int) -> State | None:
        """What the budgets need to know of the model; as for a press."""
        return None


class Action(Component):
    """What is stored of one layer, once it is known which tokens matter."""

    needs_inputs: ClassVar[bool] = False  # whether it reads `LayerView.inputs`

    @abstractmethod
    def store(self, prefix: "Prefix", layer: int, kept: "Sequence[Tensor]", scores: "Tensor") -> "LayerStore":
        """The layer's store; `kept` has per key-value head the tokens to keep (ascending), `scores` (Hk, n) what each is worth."""


def _named(kind: Kind) -> Callable[[Any], Any]:
    return lambda value: component(kind, value)


AnyImportance = Annotated[SerializeAsAny[Importance], BeforeValidator(_named("importances"))]
AnyAllocator = Annotated[SerializeAsAny[Allocator], BeforeValidator(_named("allocators"))]
AnyAction = Annotated[SerializeAsAny[Action], BeforeValidator(_named("actions"))]
