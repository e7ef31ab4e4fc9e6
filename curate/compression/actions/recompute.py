"""Keep what the attention layers were given, and make keys and values of it again whenever they are attended to (KV-Direct)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from curate.compression.parts import Action
from curate.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from curate.compression.prefix import Prefix
    from curate.inference.stores import LayerStore


class Recompute(Action):
    """Stores the normed input h (n, H) of each attention layer once, and recomputes K = rope(norm(W_k h)), V = W_v h when they are attended to.

    Bit-identical to the cache, adapters included, if the prefill ran in chunks of the engine's default size. Bytes: H instead of 2 Hk d numbers a token and
    layer. It is used only where that is less, H < 2 Hk d: multi-head attention (half of the bytes at Hk d = H), but hardly any model with grouped queries.
    Elsewhere keys and values are stored as they are; the store's attribute `recomputed` says which of the two it is. Time: the layer's projections of all n
    tokens for every pass that attends to them, 4 n H Hk d operations, so it pays when many rows share a pass. It forgets no tokens: all heads must keep all.
    The published claim of 5 KB a token counts one residual vector for all layers, which means to run the model again and is no cache.
    """

    name: Literal["recompute"] = Field(default="recompute", description="The action's name.")

    needs_inputs: ClassVar[bool] = True  # of the prefix: LayerView.inputs

    def store(self, prefix: "Prefix", layer: int, kept: "Sequence[Tensor]", scores: "Tensor") -> "LayerStore":
        from curate.compression.recomputed import NotRecomputed, Recomputed

        view = prefix.layers[layer]
        if any(len(tokens) < len(prefix) for tokens in kept):
            raise ConfigError(f"recompute keeps whole tokens, and layer {layer} was to keep {min(map(len, kept))} of {len(prefix)} in a head; set keep: 1")
        if view.inputs is None:
            raise ConfigError("recompute needs what the attention layers were given, and this prefix holds none of it; prefill with inputs=True")
        if view.inputs.shape[-1] >= 2 * view.keys.shape[0] * view.keys.shape[-1]:
            return NotRecomputed(view.keys.clone(), view.values.clone())
        return Recomputed.of(view.inputs, prefix.model, layer)
