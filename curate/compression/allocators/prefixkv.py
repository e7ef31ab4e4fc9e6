"""PrefixKV's budgets: every layer keeps the tokens that hold the same share of its scores."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curate.compression.calibration import calibrated
from curate.compression.importances.received import Received
from curate.compression.parts import Allocator
from curate.core import Integers
from curate.errors import ConfigError, DataError
from curate.interfaces import State

if TYPE_CHECKING:
    from torch import Tensor

    from curate.compression.prefix import Prefix
    from curate.model import LanguageModel

CURVES = "prefixkv_curves"  # in the state that calibration leaves
POINTS = 257  # of a profiled curve, at even steps of the share of tokens


class Prefixkv(Allocator):
    """Few tokens where scores are concentrated, many where they are spread; all heads of a layer keep the same number.

    F_l(m) is the share of layer l's scores (mean over heads) that its m best tokens hold, m_l(p) the least m with F_l(m) >= p. Layer l keeps
    min(n, m_l(p) + protect), with the largest p of all F_l(m) for which the sum is at most L B; the rest goes in proportion to what the next p would
    add, of equal claims to the lower layer first. More budget never takes a token from a layer. Public code bisects p until the sum is within 5, scales
    what is dropped and rounds it down, so its totals are a little off. Below protect + 1 tokens a layer, all keep the same.
    L n log n comparisons. Scores must not be negative. Wang et al., "PrefixKV: Adaptive Prefix KV Cache is What Vision Instruction-Following Models Need
    for Efficient Generation", 2024.
    """

    name: Literal["prefixkv"] = Field(default="prefixkv", description="The allocator's name.")
    protect: int = Field(5, ge=0, description="Tokens that every layer keeps beyond its share of the scores, for those that the importance protects.")
    curves: Literal["prompt", "profile"] = Field(
        "prompt", description="Whose scores decide: each prompt's own, or the attention received in calibration texts, the same for all prompts and variants."
    )

    def allocate(self, prefix: "Prefix", scores: "Sequence[Tensor]", tokens: int) -> Integers:
        curves = profiled(prefix, len(scores)) if self.curves == "profile" else np.stack([cumulative(layer, i) for i, layer in enumerate(scores)])
        counts = one_threshold(curves, min(tokens, len(prefix)), self.protect)
        return np.repeat(counts[:, None], len(scores[0]), 1)

    def calibrate(self, model: "LanguageModel", texts: Sequence[Sequence[int]], seed: int) -> State | None:
        """The mean over texts of every layer's curve (L, 257) over the share of tokens; each text is prefilled once, and its attention summed."""
        import torch

        if self.curves == "prompt":
            return None
        if not texts or not all(texts):
            raise DataError("allocator prefixkv with curves: profile needs calibration texts of at least one token each; give some, or set curves: prompt")
        return {CURVES: torch.from_numpy(np.mean([_curves_of(model, text) for text in texts], 0))}


def _curves_of(model: "LanguageModel", text: Sequence[int]) -> NDArray[np.float64]:
    import torch

    from curate.inference.attention import ours
    from curate.inference.prefill import prefilled

    with torch.inference_mode(), ours(model.model):
        prefix, _ = prefilled(model, text)
        scores = Received(share="layer").score(prefix)
    steps = np.arange(len(text) + 1) / len(text)
    return np.stack([np.interp(np.linspace(0, 1, POINTS), steps, [0, *cumulative(layer, i)]) for i, layer in enumerate(scores)])


def profiled(prefix: "Prefix", layers: int) -> NDArray[np.float64]:
    """(L, n): the profiled curves, read at every number of tokens of this prefix."""
    curves = calibrated(prefix, CURVES, (layers, POINTS), "allocator prefixkv with curves: profile").cpu().numpy()
    steps = np.arange(1, len(prefix) + 1) / len(prefix)
    return np.stack([np.interp(steps, np.linspace(0, 1, POINTS), curve) for curve in curves])


def cumulative(scores: "Tensor", layer: int) -> NDArray[np.float64]:
    """(n,) the share that the best 1, 2, ... n tokens hold of scores (Hk, n); of scores that are all 0, in even steps."""
    values = -np.sort(-scores.double().mean(0).cpu().numpy())
    if values[-1] < 0:
        raise ConfigError(
            f"allocator prefixkv needs scores that are not negative, but layer {layer} has {values[-1]:.3g}; use an importance of attention, such as received"
        )
    summed = np.cumsum(values)
    return summed / summed[-1] if summed[-1] > 0 else np.arange(1, len(values) + 1) / len(values)


def one_threshold(curves: NDArray[np.float64], tokens: int, protect: int) -> Integers:
    """(L,) whole numbers that sum to L * tokens, of rising curves (L, n): the tokens that it takes each layer to reach one common share."""
    layers, n = curves.shape
    total, levels = layers * tokens, np.unique(curves)

    def kept(level: int) -> Integers:
        if level == len(levels):
            return np.full(layers, n)
        return np.array([min(n, int(np.searchsorted(curve, levels[level])) + 1 + protect) for curve in curves])

    low, high = -1, len(levels)  # the sum is at most the total at `low`, and not at `high`, but for the ends
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if kept(middle).sum() <= total else (low, middle)
    if low < 0:
        return np.full(layers, tokens)
    least, most = kept(low), kept(high)
    return least + _shared(most - least, total - int(least.sum()))


def _shared(room: Integers, amount: int) -> Integers:
    """(L,) that sum to `amount`, in proportion to the room (L,): turn k of a layer comes at (k + 1/2) / room, so that more never takes away."""
    layers = np.repeat(np.arange(len(room)), room)
    turns = np.concatenate([(np.arange(size) + 0.5) / size for size in room]) if len(layers) else np.zeros(0)
    return np.bincount(layers[np.lexsort((layers, turns))[:amount]], minlength=len(room))
