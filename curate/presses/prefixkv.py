"""PrefixKV: all heads of a layer keep the same tokens, and every layer as many as hold one common share of its attention."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self
from weakref import ref

from pydantic import Field, model_validator

from curate.compression.actions.evict import Evict
from curate.compression.allocators.prefixkv import Prefixkv as PrefixkvBudgets
from curate.compression.fixed_slot import FixedSlot
from curate.compression.importances.received import Received
from curate.compression.parts import AnyAllocator, AnyImportance
from curate.compression.token_press import TokenPress
from curate.errors import ConfigError

if TYPE_CHECKING:
    from curate.compression.prefix import Prefix
    from curate.inference.stores import DecodeCache, Memory


class Prefixkv(TokenPress):
    """One set of tokens per layer, by attention received (mean over heads); one threshold p on the layers' cumulative curves gives their numbers.

    s_j = sum_i mean_h A_h,ij; layer l keeps min{m : F_l(m) >= p} + 5 tokens, the first four and the last among them, with p such that the layers' sum
    is L B exactly. Bytes: 2 Hk d L B numbers in all, unevenly over layers. Time: as H2O's sums, and a sort per layer. Bad where heads of a layer need
    different tokens.

    Generated tokens are added. With `decode: fixed_slot`, as in the published code, a layer that kept c of n tokens grows by c / n of a token a step: one
    that has m of t tokens with m - t c / n >= 1 drops the token in slot c - 25, whatever it is worth. So old tokens before that slot stay, and behind it
    lies a window of the newest; it is bad where what was generated matters again later.
    Wang et al., "PrefixKV: Adaptive Prefix KV Cache is What Vision Instruction-Following Models Need for Efficient Generation", 2024.
    """

    name: Literal["prefixkv"] = Field(default="prefixkv", description="The press's name.")
    importance: AnyImportance = Field(
        default=Received(share="layer", first=4, recent=1), description="What tokens are worth: a name, or a mapping with its fields."
    )
    allocator: AnyAllocator = Field(default=PrefixkvBudgets(), description="How many each layer and head may keep: a name, or a mapping with its fields.")
    decode: Literal["grow", "fixed_slot"] = Field(
        "grow", description="What becomes of generated tokens: all stay, or layers grow as they kept the prefix, and a fixed slot is emptied."
    )

    @model_validator(mode="after")
    def _only_evicted(self) -> Self:
        if self.decode == "fixed_slot" and not isinstance(self.action, Evict):
            raise ConfigError(f"prefixkv.decode: fixed_slot evicts, but action {self.action.name} keeps tokens otherwise; use evict, or decode: grow")
        return self

    def compress(self, prefix: "Prefix") -> "Memory":
        memory = super().compress(prefix)
        if self.decode == "fixed_slot":
            _latest[:] = [_Made(self, ref(prefix), ref(memory))]
        return memory

    def decoder(self, prefix: "Prefix", layer: int) -> "DecodeCache | None":
        """Budgets depend on all layers: what `compress` made of this prefix is taken, as long as somebody holds it, and else made again."""
        from curate.inference.stores import Plain

        if self.decode == "grow":
            return None
        made = [memory for one in _latest if one.press == self and one.prefix() is prefix and (memory := one.memory()) is not None]
        store = (made[0] if made else self.compress(prefix)).layers[layer]
        if not isinstance(store, Plain):
            raise ConfigError(f"prefixkv.decode: fixed_slot needs equally many tokens in all heads, but allocator {self.allocator.name} differs; use prefixkv")
        return FixedSlot(store.keys, store.values, len(prefix))


@dataclass(frozen=True)
class _Made:
    """What a press made of a prefix, which it does not keep alive."""

    press: Prefixkv
    prefix: "ref[Prefix]"
    memory: "ref[Memory]"


_latest: list[_Made] = []  # at most one
