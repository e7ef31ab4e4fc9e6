"""The same number of tokens everywhere."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from curate.compression.parts import Allocator
from curate.core import Integers

if TYPE_CHECKING:
    from torch import Tensor

    from curate.compression.prefix import Prefix


class Uniform(Allocator):
    """Every layer and key-value head keeps the same number of tokens."""

    name: Literal["uniform"] = Field(default="uniform", description="The allocator's name.")

    def allocate(self, prefix: "Prefix", scores: "Sequence[Tensor]", tokens: int) -> Integers:
        return np.full((len(scores), len(scores[0])), min(tokens, len(prefix)), np.int64)
