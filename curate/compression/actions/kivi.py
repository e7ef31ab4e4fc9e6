"""Keep all tokens in few bits, but for the last ones."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from curate.compression.parts import Action
from curate.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from curate.compression.prefix import Prefix
    from curate.inference.stores import LayerStore


class Kivi(Action):
    """Stores kept tokens in few bits: keys per channel in groups of `group` tokens, values per token in groups of `group` channels; the last ones whole.

    Keys have channels that are large in every token, values do not, hence the two directions. Of n kept tokens, the last n mod `residual` keys and the last
    `residual` values stay as they are, so a short prefix is not compressed. Bytes of an element: (b + 32 / g) / 16 of 16-bit numbers, 19 % at b = 2, g = 32.
    At 2 bits the error is plain to see in small models. Liu et al., "KIVI: A Tuning-Free Asymmetric 2bit Quantization for KV Cache", 2024.
    """

    name: Literal["kivi"] = Field(default="kivi", description="The action's name.")
    bits: Literal[2, 3, 4, 8] = Field(2, description="Bits of a number: 2, 3, 4 or 8.")
    group: int = Field(32, ge=1, le=1024, description="Numbers that share a scale: tokens of a channel for keys, channels of a token for values (at most all).")
    residual: int = Field(32, ge=1, le=4096, description="Last tokens whose values, and at most whose keys, stay as they are; a multiple of the group.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.residual % self.group:
            raise ConfigError(f"residual {self.residual} is not a multiple of group {self.group}; use {-(-self.residual // self.group) * self.group}")
        return self

    def store(self, prefix: "Prefix", layer: int, kept: "Sequence[Tensor]", scores: "Tensor") -> "LayerStore":
        from curate.compression.codec import coded
        from curate.compression.quantised import Residual, stored, taken

        view = prefix.layers[layer]

        def of(heads: slice, tokens: "Tensor") -> "LayerStore":
            keys, values = taken(view.keys[heads], tokens), taken(view.values[heads], tokens)
            n = keys.shape[1]
            old, older = n - n % self.residual, max(0, n - self.residual)
            first_keys, first_values = coded(keys[:, :old], self.bits, self.group, axis=-2), coded(values[:, :older], self.bits, self.group)
            return Residual(first_keys, keys[:, old:].clone(), first_values, values[:, older:].clone())

        return stored(kept, of)
