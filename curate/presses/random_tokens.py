"""Keep tokens at random."""

from typing import Literal

from pydantic import Field

from curate.compression.importances.chance import Chance
from curate.compression.parts import AnyImportance
from curate.compression.token_press import TokenPress


class RandomTokens(TokenPress):
    """The baseline that every press has to beat: per layer and head B tokens drawn without replacement, from the seed.

    A larger B keeps the tokens of a smaller one. Bytes: 2 d B numbers per head and layer. Time: n numbers per head. Always bad.
    """

    name: Literal["random_tokens"] = Field(default="random_tokens", description="The press's name.")
    importance: AnyImportance = Field(default=Chance(), description="What tokens are worth: a name, or a mapping with its fields.")
