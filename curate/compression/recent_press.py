"""A press that gives part of every head's tokens to the newest."""

from typing import TYPE_CHECKING

from pydantic import Field

from curate.compression.token_press import TokenPress, best

if TYPE_CHECKING:
    from curate.compression.prefix import Prefix
    from curate.inference.stores import Memory


class RecentPress(TokenPress):
    """Of B tokens per head, floor(B recent) are the newest, the others the best by their scores."""

    recent: float = Field(0.5, ge=0, le=1, description="Share of every head's kept tokens that are the newest (rounded down).")

    def compress(self, prefix: "Prefix") -> "Memory":
        import torch

        from curate.inference.stores import Memory

        scores = self.importance.score(prefix)
        counts = self.allocator.allocate(prefix, scores, self.budget(prefix))
        protected = self.importance.protected(prefix)
        age = torch.arange(len(prefix) - 1, -1, -1, device=protected.device)
        stores = []
        for layer, values in enumerate(scores):
            kept = [best(row, protected | (age < int(int(count) * self.recent)), int(count)) for row, count in zip(values, counts[layer], strict=True)]
            stores.append(self.action.store(prefix, layer, kept, values))
        return Memory(stores, len(prefix))
