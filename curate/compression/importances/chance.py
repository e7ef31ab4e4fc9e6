"""What tokens are worth is drawn at random: what every other importance has to beat."""

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from curate.compression.parts import Importance
from curate.randomness import draw, row_keys

if TYPE_CHECKING:
    from torch import Tensor

    from curate.compression.prefix import Prefix


class Chance(Importance):
    """A uniform number for every (seed, layer, key-value head, token), a function of these alone: a longer prefix leaves the numbers of its first tokens."""

    name: Literal["chance"] = Field(default="chance", description="The importance's name.")

    def score(self, prefix: "Prefix") -> "list[Tensor]":
        import torch

        heads = [f"{layer}/{head}" for layer, view in enumerate(prefix.layers) for head in range(len(view.keys))]
        keys = row_keys(prefix.seed, "chance", heads)
        numbers = np.stack([draw(keys, token) for token in range(len(prefix))], 1).astype(np.float32)
        return list(torch.from_numpy(numbers).to(prefix.layers[0].keys.device).split([len(view.keys) for view in prefix.layers]))
