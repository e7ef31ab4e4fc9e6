"""Keep the best tokens, and fold what the others say into those that look like them (EMS)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from curate.compression.parts import Action

if TYPE_CHECKING:
    from torch import Tensor

    from curate.compression.prefix import Prefix
    from curate.inference.stores import LayerStore

_BLOCK = 512  # evicted tokens that are compared at a time


class Merge(Action):
    """Stores the kept tokens, with the values of evicted ones merged into the kept token c whose key is most similar, if cos(k_j, k_c) > tau; others are gone.

    v_c <- (s_c v_c + sum s_j v_j) / (s_c + sum s_j) with scores s (a negative one counts as 0; where all are 0, v_c stays). Keys keep their place and length;
    with `merge_keys` their directions are averaged by the same weights, and rescaled to the average length. A merged token is attended to once: of two equal
    tokens half of the mass is lost, unless `count_weight` adds the log of how many tokens it stands for to its logits. Bytes: those of eviction, and 4 per
    kept token and head with `count_weight`. Time: n m d multiplications per head to store. Scores must be weights, such as attention that was received.
    Li et al., "EMS: Adaptive Evict-then-Merge Strategy for Head-wise KV Cache Compression Based on Global-Local Importance", 2024; no code is published, so
    that weights and candidates (by default all evicted tokens) are this project's reading.
    """

    name: Literal["merge"] = Field(default="merge", description="The action's name.")
    tau: float = Field(0.6, ge=-1, le=2, description="Cosine of two keys above which they merge; above 1, nothing does.")
    candidates: int | None = Field(None, ge=1, description="Evicted tokens of a head, the best by their scores, that may merge; null for all of them.")
    merge_keys: bool = Field(False, description="Whether keys are averaged too; their positions are mixed then.")
    count_weight: bool = Field(False, description="Whether a kept token is attended to as many times as it stands for.")

    def store(self, prefix: "Prefix", layer: int, kept: "Sequence[Tensor]", scores: "Tensor") -> "LayerStore":
        from curate.compression.quantised import stored, taken
        from curate.inference.stores import Plain

        view = prefix.layers[layer]

        def of(heads: slice, tokens: "Tensor") -> "LayerStore":
            keys, values, weights = view.keys[heads], view.values[heads], scores[heads].float().clamp(min=0)
            plain = Plain(taken(keys, tokens), taken(values, tokens))
            if tokens.shape[1] in (0, len(prefix)):
                return plain
            sums = _gathered(keys, values, weights, tokens, self.tau, self._open(scores[heads], tokens))
            return Plain(sums.keys(plain.keys) if self.merge_keys else plain.keys, sums.values(plain.values), sums.counts.log() if self.count_weight else None)

        return stored(kept, of)

    def _open(self, scores: "Tensor", kept: "Tensor") -> "Tensor":
        """(Hk, T) the evicted tokens that may merge, ascending, of scores (Hk, n) and kept tokens (Hk, m); of equal scores the earlier."""
        import torch

        free = scores.float().scatter(1, kept, float("-inf"))
        count = scores.shape[1] - kept.shape[1]
        best = torch.argsort(free, dim=1, descending=True, stable=True)[:, : min(count, self.candidates or count)]
        return best.sort(1).values


@dataclass(frozen=True)
class _Sums:
    """What every kept token and those that merge into it come to, weighted by their scores."""

    weights: "Tensor"  # (Hk, m)
    counts: "Tensor"  # (Hk, m) tokens
    summed: "Tensor"  # (Hk, m, 2 d + 1): values, unit keys, and their lengths

    def values(self, own: "Tensor") -> "Tensor":
        """(Hk, m, d) averages; those that nothing merged into are their own, to the bit."""
        return self._where_merged(self.summed[..., : own.shape[-1]] / self._divisor, own)

    def keys(self, own: "Tensor") -> "Tensor":
        """(Hk, m, d) average directions of average lengths, likewise."""
        from torch.nn.functional import normalize

        width = own.shape[-1]
        return self._where_merged(normalize(self.summed[..., width:-1], dim=-1) * self.summed[..., -1:] / self._divisor, own)

    @property
    def _divisor(self) -> "Tensor":
        return self.weights.unsqueeze(-1).where(self.weights.unsqueeze(-1) > 0, 1)

    def _where_merged(self, average: "Tensor", own: "Tensor") -> "Tensor":
        merged = (self.counts > 1) & (self.weights > 0)
        return average.to(own.dtype).where(merged.unsqueeze(-1), own)


def _gathered(keys: "Tensor", values: "Tensor", weights: "Tensor", kept: "Tensor", tau: float, gone: "Tensor") -> _Sums:
    """Sums over the kept tokens (Hk, m) and those of `gone` (Hk, T), each of these in the most similar kept one (ties to the earlier) if it is above tau."""
    import torch

    from curate.compression.quantised import taken

    lengths = keys.float().norm(dim=-1, keepdim=True)
    units = keys.float() / lengths.clamp(min=torch.finfo(torch.float32).tiny)
    carried = torch.cat([values.float(), units, lengths], -1) * weights.unsqueeze(-1)
    centres, total = taken(units, kept), taken(carried, kept)
    mass, counts = weights.gather(1, kept), torch.ones_like(kept, dtype=torch.float32)
    for block in gone.split(_BLOCK, 1):
        cosine, nearest = (taken(units, block) @ centres.transpose(1, 2)).max(-1)
        goes = torch.zeros(*block.shape, kept.shape[1], device=keys.device).scatter_(-1, nearest.unsqueeze(-1), (cosine > tau).float().unsqueeze(-1))
        total += goes.transpose(1, 2) @ taken(carried, block)
        mass += (goes * weights.gather(1, block).unsqueeze(-1)).sum(1)
        counts += goes.sum(1)
    return _Sums(mass, counts, total)
