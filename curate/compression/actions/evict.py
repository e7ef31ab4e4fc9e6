"""Keep the best tokens, forget the others."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from curate.compression.parts import Action

if TYPE_CHECKING:
    from torch import Tensor

    from curate.compression.prefix import Prefix
    from curate.inference.stores import LayerStore


class Evict(Action):
    """Stores the kept tokens as they are, at their own positions; the others are gone. Heads with numbers of their own are stored apart."""

    name: Literal["evict"] = Field(default="evict", description="The action's name.")

    def store(self, prefix: "Prefix", layer: int, kept: "Sequence[Tensor]", scores: "Tensor") -> "LayerStore":
        import torch

        from curate.inference.stores import Plain, Ragged

        view = prefix.layers[layer]
        if len({len(tokens) for tokens in kept}) == 1:
            rows = torch.stack(list(kept)).unsqueeze(-1).expand(-1, -1, view.keys.shape[-1])
            return Plain(view.keys.gather(1, rows), view.values.gather(1, rows))
        return Ragged([Plain(view.keys[i : i + 1, tokens], view.values[i : i + 1, tokens]) for i, tokens in enumerate(kept)])
