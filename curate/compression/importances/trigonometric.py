"""TriAttention's importance: how much attention a key will get over the distances to come, from what queries are like before their positions."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from curate.compression.calibration import calibrated
from curate.compression.parts import Importance
from curate.compression.rotary import Rotary, check_rotary, paired, rotary_of, unrotate
from curate.errors import DataError
from curate.interfaces import State

if TYPE_CHECKING:
    from torch import Tensor

    from curate.compression.prefix import Prefix
    from curate.model import LanguageModel

MEAN, NORM = "trigonometric_mean", "trigonometric_norm"
_PROBE = 64  # positions at which one token's queries are compared


class Trigonometric(Importance):
    """The mean logit of a key under the model's average query at future distances, and what queries vary beside that average.

    With q_f and k_f the pair of channels f before its position as a complex number, w_f its frequency, a the model's rotary scaling and P the number of
    tokens so far, a key at position j scores, per query head,

        mean over D in {1, 2, 4, ...} of sum_f a^2 |E q_f| |k_f| cos(w_f (P + D - j) + arg(E q_f conj k_f)), plus sum_f a^2 (E|q_f| - |E q_f|) |k_f|.

    It is then normalised over the head's candidate tokens to mean 0 and deviation 1, and the largest of a group's query heads counts. E q_f and E|q_f|
    come from `calibrate`. Channels that are not turned count as frequency 0. Costs one product of the keys with a vector per query head, whatever the
    number of distances (`max` over them: one product for each); reads no query of the prefix, so it serves prefixes whose question is not seen yet.

    `selection: union` is the published code's third mode: of the tokens that are among the B best of some head of some layer, the B with the largest score
    of any head, the same for all layers and heads. A token among these B is among the B best of the head that scores it highest, so that the union takes
    nothing away, and this is one ranking by the largest score. Heads are query heads, or with `group: mean` the key-value heads' means.

    Limit: an average query says little about heads that look for content; and the averages are the base model's, whoever is evaluated.
    Mao et al., "TriAttention: Efficient Long Reasoning with Trigonometric KV Compression", 2026. One published version protects no newest tokens, another
    128; noise that both draw for ties is left out, so that the earlier token wins.
    """

    name: Literal["trigonometric"] = Field(default="trigonometric", description="The importance's name.")
    offsets: int = Field(17, ge=1, le=24, description="How many future distances, in powers of two from 1: 17 reach 65,536 tokens.")
    over_offsets: Literal["mean", "max"] = Field("mean", description="What counts of a key's logits at these distances.")
    group: Literal["max", "mean"] = Field("max", description="What counts of the query heads that share a key-value head.")
    selection: Literal["per_head_over_layers", "per_layer_head", "union"] = Field(
        "per_head_over_layers",
        description="One ranking per key-value head, the mean over layers (the published default), one for every layer and head, or one for all (union).",
    )
    recent: int = Field(32, ge=0, description="Newest tokens that are kept before all others; they are no candidates, and 0 protects none.")

    def score(self, prefix: "Prefix") -> "list[Tensor]":
        import torch

        rotary = rotary_of(prefix.model)
        mean, norm = averages(prefix, rotary)
        layers = [self.ranking(prefix, layer, mean[layer], norm[layer], rotary) for layer in range(len(prefix.layers))]
        if self.selection == "per_layer_head":
            return layers
        together = torch.stack(layers)
        if self.selection == "union":
            return [together.amax((0, 1)).expand_as(layers[0])] * len(layers)
        return [together.mean(0)] * len(layers)

    def protected(self, prefix: "Prefix") -> "Tensor":
        import torch

        return torch.arange(len(prefix)) >= len(prefix) - self.recent

    def ranking(self, prefix: "Prefix", layer: int, mean: "Tensor", norm: "Tensor", rotary: Rotary) -> "Tensor":
        """(Hk, n) float32: one layer's ranking of the prefix."""
        keys = prefix.layers[layer].keys
        return self.standing(keys, len(prefix), mean, norm, rotary, ~self.protected(prefix).to(keys.device))

    def standing(self, keys: "Tensor", seen: int, mean: "Tensor", norm: "Tensor", rotary: Rotary, candidates: "Tensor") -> "Tensor":
        """(Hk, m) float32 of keys (Hk, m, d) with their positions in, after `seen` tokens: normalised over the `candidates` (m,), 0 for the others."""
        import torch

        from curate.compression.prefix import per_head

        first, second = self.terms(keys, seen, mean, norm, rotary)
        if not candidates.any():
            return torch.zeros(keys.shape[:2], device=keys.device)
        values = (first + second)[:, candidates]
        spread = values.std(1, unbiased=False, keepdim=True).clamp(min=1e-6)
        whole = torch.zeros_like(first)
        whole[:, candidates] = (values - values.mean(1, keepdim=True)) / spread
        return per_head(whole, len(mean) // len(keys), self.group)

    def terms(self, keys: "Tensor", seen: int, mean: "Tensor", norm: "Tensor", rotary: Rotary) -> "tuple[Tensor, Tensor]":
        """(Hq, m) each: what the average query gives keys (Hk, m, d), and what queries' spread around it gives; mean (Hq, d), norm (Hq, F).

        A key with its position in is k_f e^{i w_f j}, so that its own position need not be known: the phase is that of the future query alone.
        """
        import torch

        groups = len(mean) // len(keys)
        weights = rotary.weights(keys.shape[-1]).to(keys.device)
        average, turned = paired(mean, rotary), paired(keys, rotary)
        spread = weights * (norm - average.abs())
        second = _product(spread, turned.abs(), groups)
        ahead = self._ahead(seen, len(weights), rotary).to(keys.device)  # (D, F)
        phases = [ahead.mean(0)] if self.over_offsets == "mean" else list(ahead)
        firsts = []
        for phase in phases:
            wanted = weights * average * phase
            firsts.append(_product(torch.cat([wanted.real, wanted.imag], -1), torch.cat([turned.real, turned.imag], -1), groups))
        return torch.stack(firsts).amax(0), second

    def _ahead(self, seen: int, width: int, rotary: Rotary) -> "Tensor":
        """(D, F) complex: e^{i w_f (P + D)} of every future distance; the angles in float64, as 65,536 radians need."""
        import torch

        frequencies = torch.zeros(width, dtype=torch.float64)
        frequencies[: len(rotary.frequencies)] = rotary.frequencies.cpu().double()
        angles = (seen + 2.0 ** torch.arange(self.offsets, dtype=torch.float64)).unsqueeze(-1) * frequencies
        return torch.polar(torch.ones_like(angles), angles).to(torch.complex64)

    def calibrate(self, model: "LanguageModel", texts: Sequence[Sequence[int]], seed: int) -> State | None:
        """E q_f and E|q_f| over all tokens of the texts, per layer and query head, as {name: (L, Hq, d), name: (L, Hq, F)} float32; one pass over them."""
        import torch

        from curate.inference.attention import ours

        texts = [list(text) for text in texts if len(text)]
        if not texts:
            raise DataError("TriAttention averages a model's queries over texts, but was given none with a token in it; give calibration texts")
        rotary = rotary_of(model)
        with torch.inference_mode(), ours(model.model):
            _check(model, texts[0][0], rotary)
            return _averages(model, texts, rotary)


def averages(prefix: "Prefix", rotary: Rotary) -> "tuple[Tensor, Tensor]":
    """((L, Hq, d), (L, Hq, F)) that `calibrate` found; ModelError where they are missing or another model's."""
    heads, _, width = prefix.layers[0].queries.shape
    shape = (len(prefix.layers), heads)
    mean = calibrated(prefix, MEAN, (*shape, width), "triattention")
    return mean, calibrated(prefix, NORM, (*shape, width - len(rotary.frequencies)), "triattention")


def _product(weights: "Tensor", keys: "Tensor", groups: int) -> "Tensor":
    """(Hq, m): weights (Hq, F) times keys (Hk, m, F), each query head with its own key-value head."""
    together: Tensor = weights.reshape(len(keys), groups, -1) @ keys.transpose(-1, -2)
    return together.reshape(len(weights), -1)


def _check(model: "LanguageModel", token: int, rotary: Rotary) -> None:
    from curate.inference.prefill import prefill

    found: list[Tensor] = []
    prefill(model, [token] * _PROBE, watch=lambda layer, query, key, value, scale: found.append(query[0]) if layer == 0 else None)
    check_rotary(model, found[0], rotary)


def _averages(model: "LanguageModel", texts: Sequence[Sequence[int]], rotary: Rotary) -> State:
    import torch

    from curate.inference.prefill import prefill

    means: dict[int, Tensor] = {}
    norms: dict[int, Tensor] = {}
    seen: dict[int, int] = {}

    def watch(layer: int, query: "Tensor", key: "Tensor", value: "Tensor", scale: float) -> None:
        start = seen.get(layer, 0)
        seen[layer] = start + query.shape[2]
        before = unrotate(query[0], torch.arange(start, seen[layer], device=query.device), rotary)
        mean, norm = before.double().sum(1), paired(before, rotary).abs().double().sum(1)
        means[layer] = means[layer] + mean if layer in means else mean
        norms[layer] = norms[layer] + norm if layer in norms else norm

    for text in texts:
        seen.clear()
        prefill(model, text, watch=watch)
    tokens = sum(len(text) for text in texts)
    return {
        MEAN: torch.stack([means[layer] / tokens for layer in sorted(means)]).float().cpu(),
        NORM: torch.stack([norms[layer] / tokens for layer in sorted(norms)]).float().cpu(),
    }
