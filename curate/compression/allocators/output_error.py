"""CompressKV's allocator: more tokens for layers whose output suffers more."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from curate.compression.importances.retrieval_heads import RetrievalHeads
from curate.compression.parts import Allocator, AnyImportance
from curate.compression.totals import exact_total
from curate.core import Integers
from curate.errors import DataError, ModelError
from curate.interfaces import State
from curate.randomness import uniform

if TYPE_CHECKING:
    from torch import Tensor

    from curate.compression.calibration import Said
    from curate.compression.prefix import Prefix
    from curate.model import LanguageModel

SHARES = "output_error"


class OutputError(Allocator):
    """Each layer has 32 tokens, and of the rest a share in proportion to the error that its output had with 32; none has more than three times the mean.

    B_l = 32 + a_l (L B - 32 L) in whole numbers, a_l = e_l / sum e, e_l the sum over decoding steps of ||O_32 - O|| / (||O|| + 1e-5) for the attention's
    output after its projection; the model itself goes on with the full cache. The total is exact, also where the prefix is shorter than a layer's part.
    Measured once per base model: a prefill of `context` tokens and `steps` decoding steps per sample, after the importance's own calibration.
    Lin et al., "CompressKV: Semantic Retrieval Heads Know What Tokens are Not Important Before Generation", 2025.
    """

    name: Literal["output_error"] = Field(default="output_error", description="The allocator's name.")
    importance: AnyImportance = Field(default=RetrievalHeads(), description="Calibration: which tokens a layer keeps; give the press's own here too.")
    lowest: int = Field(32, ge=1, description="Tokens that every layer has, or the budget where that is less; the calibration cuts to so many.")
    most: float = Field(3.0, ge=1, description="A layer has at most so many times the budget.")
    samples: int = Field(8, ge=1, description="Calibration: how many texts are read, drawn by the seed.")
    context: int = Field(1024, ge=2, description="Calibration: tokens of a text that are read.")
    steps: int = Field(16, ge=1, description="Calibration: tokens that are decoded after each text.")

    def allocate(self, prefix: "Prefix", scores: "Sequence[Tensor]", tokens: int) -> Integers:
        from curate.compression.calibration import calibrated

        layers, n = len(scores), len(prefix)
        shares = calibrated(prefix, SHARES, (layers,), self.name).double().cpu().numpy()
        mean = min(tokens, n)
        least = min(self.lowest, mean)
        budgets = least + exact_total(shares, layers * (mean - least), 0, min(int(self.most * mean), n) - least)
        return np.repeat(budgets[:, None], len(scores[0]), 1)

    def calibrate(self, model: "LanguageModel", texts: Sequence[Sequence[int]], seed: int) -> State:
        import torch

        from curate.compression.calibration import greedy
        from curate.compression.token_press import best
        from curate.inference.attention import ours
        from curate.inference.passes import attention_modules
        from curate.inference.prefill import prefilled

        chosen = self._samples(texts, seed)
        known = self.importance.calibrate(model, texts, seed)
        projections = [output_projection(module) for module in attention_modules(model)]
        errors: Tensor | float = 0.0
        with torch.inference_mode(), ours(model.model):
            for text in chosen:
                prefix, _ = prefilled(model, text[:-1], state=known, seed=seed)
                protected = self.importance.protected(prefix)
                kept = [torch.stack([best(head, protected, self.lowest) for head in layer]) for layer in self.importance.score(prefix)]
                for said in greedy(prefix, text[-1], self.steps):
                    errors = errors + torch.stack(step_errors(prefix, said, kept, projections))
            errors = torch.as_tensor(errors)
            return {SHARES: (errors / errors.sum().clamp_min(1e-30)).float().cpu()}

    def _samples(self, texts: Sequence[Sequence[int]], seed: int) -> list[Sequence[int]]:
        """Texts, cut to `context`, that are longer than what a layer keeps."""
        order = np.argsort(uniform(seed, SHARES, map(str, range(len(texts)))), kind="stable")
        cut = [texts[int(i)][: self.context] for i in order]
        long = [text for text in cut if len(text) > self.lowest + 1]
        if not long:
            raise DataError(f"{self.name}: no text of the calibration is longer than {self.lowest + 1} tokens, so that nothing would be cut; give longer ones")
        return long[: self.samples]


def output_projection(module: Any) -> Any:
    """The linear layer that an attention layer's output goes through last."""
    for name in ("o_proj", "dense", "out_proj", "c_proj"):
        if hasattr(module, name):
            return getattr(module, name)
    raise ModelError(f"{type(module).__name__} has no output projection by a name that is known (o_proj, dense, out_proj, c_proj); use another allocator")


def step_errors(prefix: "Prefix", said: "Said", kept: "Sequence[Tensor]", projections: Sequence[Any]) -> "list[Tensor]":
    """Per layer () float32: ||O_kept - O|| / (||O|| + 1e-5) of one decoded token, with all tokens and with `kept` (Hk, B) of the prefix and all after it."""
    import torch

    from curate.inference.stores import Plain

    found = []
    for layer, (query, whole) in enumerate(zip(said.queries, said.layers, strict=True)):
        heads, length, width = whole.keys.shape
        after = torch.arange(len(prefix), length, device=whole.keys.device).expand(heads, -1)
        rows = torch.cat([kept[layer], after], 1).unsqueeze(-1).expand(-1, -1, width)
        cut = Plain(whole.keys.gather(1, rows), whole.values.gather(1, rows))
        grouped, scale = query.reshape(heads, -1, width), prefix.layers[layer].scale
        full, less = (projections[layer](store.attend(grouped, scale)[0].reshape(1, -1)).float() for store in (whole, cut))
        found.append((less - full).norm() / (full.norm() + 1e-5))
    return found
