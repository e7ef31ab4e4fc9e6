"""A press put together from an importance, an allocator and an action; published methods are this with their own parts as defaults."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field, PrivateAttr

from curate.compression.actions.evict import Evict
from curate.compression.allocators.uniform import Uniform
from curate.compression.parts import AnyAction, AnyAllocator, AnyImportance, Importance
from curate.interfaces import Press, State

if TYPE_CHECKING:
    from torch import Tensor

    from curate.compression.prefix import Prefix
    from curate.inference.stores import Memory
    from curate.model import LanguageModel

PARTS = ("importance", "allocator", "action")


class TokenPress(Press):
    """Scores all tokens, gives every layer and head its number, and stores what the action makes of them."""

    keep: float = Field(0.25, gt=0, le=1, description="Share of the prefix's tokens that are kept, on average over layers and heads (rounded up).")
    tokens: int | None = Field(None, ge=1, description="Kept tokens on average over layers and heads, in place of the share.")
    importance: AnyImportance
    allocator: AnyAllocator = Field(default=Uniform(), description="How many each layer and head may keep: a name, or a mapping with its fields.")
    action: AnyAction = Field(default=Evict(), description="What becomes of the others: a name, or a mapping with its fields.")

    @property
    def reads_inputs(self) -> bool:
        return self.action.needs_inputs

    def budget(self, prefix: "Prefix") -> int:
        """Tokens that a layer and head keep on average: at least one, at most all."""
        return min(budget_of(self.keep, self.tokens, len(prefix)), len(prefix))

    def compress(self, prefix: "Prefix") -> "Memory":
        from curate.inference.stores import Memory

        scores = self.importance.score(prefix)
        counts = self.allocator.allocate(prefix, scores, self.budget(prefix))
        protected = self.importance.protected(prefix)
        stores = []
        for layer, values in enumerate(scores):
            kept = [best(values[head], protected, int(counts[layer, head])) for head in range(len(values))]
            stores.append(self.action.store(prefix, layer, kept, values))
        return Memory(stores, len(prefix))

    def calibrate(self, model: "LanguageModel", texts: Sequence[Sequence[int]], seed: int) -> State | None:
        """What the importance and the allocator found; an allocator that calibrates by the same importance is told, so that nothing is measured twice."""
        known = self.importance.calibrate(model, texts, seed) or {}
        allocator = self.allocator
        if known and getattr(allocator, "importance", None) == self.importance:
            allocator = allocator.model_copy(update={"importance": Calibrated.of(self.importance, known)})
        return {**known, **(allocator.calibrate(model, texts, seed) or {})} or None


class Calibrated(Importance):
    """An importance whose calibration was made: asked for it, it gives what was found."""

    importance: AnyImportance
    _found: State = PrivateAttr(default_factory=dict)

    @classmethod
    def of(cls, importance: Importance, found: State) -> "Calibrated":
        """This importance with what its calibration found."""
        made = cls(name=importance.name, importance=importance)
        made._found = found
        return made

    def score(self, prefix: "Prefix") -> "list[Tensor]":
        return self.importance.score(prefix)

    def protected(self, prefix: "Prefix") -> "Tensor":
        return self.importance.protected(prefix)

    def calibrate(self, model: "LanguageModel", texts: Sequence[Sequence[int]], seed: int) -> State:
        return self._found


def budget_of(keep: float, tokens: int | None, n: int) -> int:
    """`tokens` if they are given, else a share of n tokens, rounded up; at least one."""
    return tokens if tokens is not None else max(1, -int(-keep * n // 1))


def best(scores: "Tensor", protected: "Tensor", count: int) -> "Tensor":
    """The `count` tokens to keep of scores (n,), ascending: protected ones first (the later first), then by score, ties to the earlier."""
    import torch

    guarded = torch.nonzero(protected.to(scores.device)).squeeze(-1).flip(0)[:count]
    free = scores.masked_fill(protected.to(scores.device), float("-inf"))
    order = torch.argsort(free, descending=True, stable=True)
    chosen = torch.cat([guarded, order[: count - len(guarded)]])
    return chosen.sort().values
