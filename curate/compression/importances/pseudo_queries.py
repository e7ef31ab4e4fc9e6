"""DapQ's importance: what made-up tokens after the prefix would attend to."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from curate.compression.windowed import Pool, Windowed

if TYPE_CHECKING:
    from torch import Tensor

    from curate.compression.prefix import Prefix


class PseudoQueries(Windowed):
    """N tokens of the prefix itself, its first and its last ones, are run once more behind it, and their queries score all of its tokens.

    s_j = mean_h mean_q softmax_{j < n}(scale q_h k)_j for queries at positions n to n + N - 1, where an answer would stand; the softmax is over the
    prefix alone, and nothing of the made-up tokens is kept. Costs a forward pass of N tokens. It guesses that what follows begins right behind the
    prefix; the paper leaves pooling and the sharing of heads open, and here they are fields.
    Tian et al., "Where Matters More Than What: Decoding-aligned KV Cache Compression via Position-aware Pseudo Queries", 2026.
    """

    name: Literal["pseudo_queries"] = Field(default="pseudo_queries", description="The importance's name.")
    tokens: int = Field(32, ge=1, description="Made-up tokens N; the prefix's own number where it has fewer.")
    first: int = Field(4, ge=0, description="How many of them are the prefix's first; the others are its last.")
    pool: Pool = Field("none", description="Smoothing along the tokens: none, avg or max.")

    def window_of(self, prefix: "Prefix") -> "tuple[Sequence[Tensor], Tensor, int]":
        import torch

        n = len(prefix)
        made_up = self.pseudo_tokens(prefix.tokens)
        return prefix.follow(made_up), torch.arange(n, n + len(made_up), device=prefix.layers[0].keys.device), n

    def pseudo_tokens(self, tokens: Sequence[int]) -> list[int]:
        """The first and the last of a prefix's tokens, none of them twice."""
        head = min(self.first, self.tokens, len(tokens))
        tail = min(self.tokens - head, len(tokens) - head)
        return [*tokens[:head], *tokens[len(tokens) - tail :]]
