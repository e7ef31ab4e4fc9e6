"""CompressKV's importance: what the heads attend to that find things again."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from curate.compression.windowed import LastWindow
from curate.errors import ConfigError, ModelError
from curate.interfaces import State

if TYPE_CHECKING:
    from torch import Tensor

    from curate.compression.prefix import Prefix
    from curate.model import LanguageModel

HEADS = "retrieval_heads"


class RetrievalHeads(LastWindow):
    """Per layer, the few query heads that retrieve best choose one set of tokens for all key-value heads, by what the last queries attend to.

    s_j = avgpool_5(mean over those heads and the last 8 queries of their attention to j). Which heads retrieve is measured once per base model: needles
    from the given texts are put into haystacks of them, the needle's first tokens are given again, and whenever the model's next token is one of the
    needle's, each head is credited with the attention that its query pays to the whole needle. It takes `trials` prefills of `context` tokens.
    The paper asks in words where we give the needle's beginning, so that any tokens will do. A model too small to repeat anything has no such heads.
    Lin et al., "CompressKV: Semantic Retrieval Heads Know What Tokens are Not Important Before Generation", 2025.
    """

    name: Literal["retrieval_heads"] = Field(default="retrieval_heads", description="The importance's name.")
    window: int = Field(8, ge=1, description="Last tokens of the prefix whose queries are asked; they are kept before all others, and count.")
    share: Literal["layer"] = Field("layer", description="The chosen heads decide together, and all key-value heads of the layer keep the same.")
    heads: int = Field(4, ge=1, description="How many query heads of a layer are asked: those that retrieve best; all where there are no more.")
    trials: int = Field(16, ge=1, description="Calibration: how many needles are looked for.")
    context: int = Field(1024, ge=1, description="Calibration: tokens of a haystack; fewer where the texts are shorter.")
    needle: int = Field(32, ge=2, description="Calibration: tokens of a needle.")
    cue: int = Field(8, ge=1, description="Calibration: how many of the needle's first tokens are given again at the end; the rest is what is decoded.")

    @model_validator(mode="after")
    def _something_to_find(self) -> Self:
        if self.cue >= self.needle:
            raise ConfigError(f"cue {self.cue} leaves nothing of a needle of {self.needle} tokens to be found; use a smaller cue")
        return self

    def asked(self, prefix: "Prefix", layer: int) -> "Tensor":
        from curate.compression.calibration import calibrated

        view = prefix.layers[layer]
        credits = calibrated(prefix, HEADS, (len(prefix.layers), len(view.queries)), self.name)[layer]
        return credits.argsort(descending=True, stable=True)[: self.heads].sort().values

    def calibrate(self, model: "LanguageModel", texts: Sequence[Sequence[int]], seed: int) -> State:
        import torch

        from curate.compression.calibration import greedy, haystacks
        from curate.compression.prefix import window_attention
        from curate.inference.attention import ours
        from curate.inference.prefill import prefilled

        found = haystacks(texts, seed, count=self.trials, context=self.context, needle=self.needle, cue=self.cue)
        credits: Tensor | float = 0.0
        with torch.inference_mode(), ours(model.model):
            for haystack in found:
                prefix, _ = prefilled(model, haystack.tokens[:-1])
                needle = torch.tensor(haystack.tokens[haystack.start : haystack.stop], device=model.device)
                for said in greedy(prefix, haystack.tokens[-1], self.needle - self.cue):
                    last = torch.tensor([said.layers[0].keys.shape[1] - 1], device=model.device)
                    weights = [
                        window_attention(query, store.keys, view.scale, last)[:, 0]
                        for query, store, view in zip(said.queries, said.layers, prefix.layers, strict=True)
                    ]
                    credits = credits + torch.stack(weights)[..., haystack.start : haystack.stop].sum(-1) * (needle == said.token).sum()
            credits = torch.as_tensor(credits / len(found)).cpu()
        if not credits.any():
            raise ModelError(
                f"{self.name}: the model repeated no token of {len(found)} needles, so no head of it is known to retrieve; "
                "give texts of the kind it was trained on or more trials, or use an importance without calibration such as window"
            )
        return {HEADS: credits}
