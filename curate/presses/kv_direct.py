"""KV-Direct: keep what the attention layers were given, and make keys and values of it when they are attended to."""

from typing import Literal

from pydantic import Field

from curate.compression.actions.recompute import Recompute
from curate.compression.importances.key_norm import KeyNorm
from curate.compression.parts import AnyAction, AnyImportance
from curate.compression.token_press import TokenPress


class KvDirect(TokenPress):
    """Keeps every token exactly: the normed input h (n, H) of each layer, of which K and V are computed again, adapters included.

    Bytes: H instead of 2 Hk d numbers a token and layer, so it is used only where H < 2 Hk d, which models with grouped queries seldom meet; elsewhere keys
    and values are stored, and the store's `recomputed` is False. Time: the projections of all tokens in every pass. Only the adapters of the
    prefill give its keys.
    After "KV-Direct", which stores one residual vector per token and has published no code; this is its exact part, layer by layer.
    """

    name: Literal["kv_direct"] = Field(default="kv_direct", description="The press's name.")
    keep: float = Field(1.0, ge=1, le=1, description="All tokens are kept.")
    importance: AnyImportance = Field(default=KeyNorm(), description="Read by nothing, as all tokens are kept.")
    action: AnyAction = Field(default=Recompute(), description="How the tokens are stored: a name, or a mapping with its fields.")
