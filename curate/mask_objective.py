"""Quality and diversity of a mask, J(S) = w Q(S) / sigma_Q + (1 - w) D(S) / sigma_D, over rows with a quality and a unit vector.

Q is the mean quality of the kept rows and D minus their mean pairwise cosine, taken in O(K D) from
sum_{i != j} x_i . x_j = |sum_i x_i|^2 - sum_i |x_i|^2. The sigmas are the standard deviations of Q and D over random masks of the same
budget: without them the weight w between two unrelated units would mean nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from curate.core import Integers

_BLOCK = 2048

Wide = NDArray[np.float64]


@dataclass(frozen=True)
class MaskObjective:
    """J for masks of about `size` rows; `quality` (N,), unit `vectors` (N, D)."""

    quality: Wide
    vectors: NDArray[np.float32]
    weight: float
    size: int
    sigma_quality: float = 1.0
    sigma_diversity: float = 1.0

    def scaled_by(self, masks: Sequence[Integers]) -> Self:
        """The same objective with the sigmas of these masks; a term that does not vary over them keeps its unit."""
        terms = np.asarray([self.terms(rows) for rows in masks])
        spread = terms.std(axis=0)
        spread[spread <= 1e-9 * np.abs(terms).max(axis=0, initial=1e-300)] = 1.0
        return replace(self, sigma_quality=float(spread[0]), sigma_diversity=float(spread[1]))

    def terms(self, rows: Integers) -> tuple[float, float]:
        """(Q, D) of the kept rows; D is 0 below two rows."""
        count = len(rows)
        kept = self.vectors[rows].astype(np.float64)
        total = kept.sum(axis=0)
        pairs = float(total @ total - np.einsum("kd,kd->", kept, kept))
        return float(self.quality[rows].mean()), -pairs / (count * (count - 1)) if count > 1 else 0.0

    def value(self, rows: Integers) -> float:
        quality, diversity = self.terms(rows)
        return self.weight * quality / self.sigma_quality + (1 - self.weight) * diversity / self.sigma_diversity

    @property
    def per_row(self) -> Wide:
        """(N,) what a row's quality adds to the relaxed reward."""
        return np.asarray(self.weight * self.quality / (self.size * self.sigma_quality))

    @property
    def per_pair(self) -> float:
        """What a unit of cosine between two kept rows, counted in both orders, takes from the relaxed reward."""
        return (1 - self.weight) / (self.sigma_diversity * self.size * (self.size - 1)) if self.size > 1 else 0.0

    @property
    def norms(self) -> Wide:
        """(N,) squared lengths of the vectors: one, but for rounding."""
        return np.asarray(np.einsum("nd,nd->n", self.vectors, self.vectors, dtype=np.float64))

    def sums(self, masks: NDArray[np.bool_]) -> Wide:
        """(G, D) sums of the kept vectors of masks (G, N), in float64."""
        total = np.zeros((len(masks), self.vectors.shape[1]))
        for start in range(0, len(self.vectors), _BLOCK):
            total += masks[:, start : start + _BLOCK].astype(np.float64) @ self.vectors[start : start + _BLOCK].astype(np.float64)
        return total

    def products(self, sums: Wide) -> Wide:
        """(G, N) inner products of every row with each of the sums (G, D), in float64."""
        blocks = [sums @ self.vectors[start : start + _BLOCK].astype(np.float64).T for start in range(0, len(self.vectors), _BLOCK)]
        return np.concatenate(blocks, axis=1)

    def bound(self, fewest: int, most: int) -> float:
        """A number that J exceeds for no mask of `fewest` to `most` rows.

        For K rows: the best mean quality, and with u the mean direction |sum_S x|^2 >= (sum of the K smallest x . u)^2
        where that sum is positive, and >= 0 anyway; then the largest over K.
        """
        counts = np.arange(1, most + 1)
        best = np.cumsum(-np.sort(-self.quality)[:most]) / counts
        total = self.sums(np.ones((1, len(self.vectors)), np.bool_))
        along = np.sort(self.products(total / max(float(np.linalg.norm(total)), 1e-300))[0])
        floor = np.maximum(np.cumsum(along[:most]), 0.0)
        diversity = (counts * float(self.norms.max()) - floor**2) / (counts * np.maximum(counts - 1, 1))
        diversity[0] = 0.0
        bounds = self.weight * best / self.sigma_quality + (1 - self.weight) * diversity / self.sigma_diversity
        return float(bounds[fewest - 1 :].max())

    def greedy(self, costs: Integers, capacity: int) -> Integers:
        """Maximal marginal relevance on the relaxed reward: the row of the best marginal value until nothing fits; O(K N D)."""
        alike, free, left = np.zeros(len(self.quality)), np.ones(len(self.quality), np.bool_), capacity
        kept: list[int] = []
        while (fits := free & (costs <= left)).any():
            row = int(np.argmax(np.where(fits, self.per_row - 2 * self.per_pair * alike, -np.inf)))
            kept.append(row)
            free[row] = False
            left -= int(costs[row])
            alike += self.vectors @ self.vectors[row]
        return np.asarray(kept, np.int64)


def marginal_gradient(objective: MaskObjective, masks: NDArray[np.bool_], chances: Wide) -> Wide:
    """(N,) unbiased gradient of E[R] by the logits of independent Bernoulli rows, each row's own draw integrated out.

    d/ds_i E[R] = E[p_i (1 - p_i) (R(m, m_i = 1) - R(m, m_i = 0))], where the difference is known in closed form for the
    pairwise term and exact for the quality term, so a row is credited with its own effect and not with the mask's.
    """
    others = objective.products(objective.sums(masks)).mean(axis=0)
    own = objective.norms * masks.mean(axis=0)
    return np.asarray(chances * (1 - chances) * (objective.per_row - 2 * objective.per_pair * (others - own)))


def shared_gradient(objective: MaskObjective, masks: NDArray[np.bool_], chances: Wide) -> Wide:
    """(N,) the same gradient by REINFORCE: every row is credited with the mask's diversity, less the other masks' mean.

    mean_g (D_g - mean_{h != g} D_h) (m_g - p), unbiased; the quality term is exact, p (1 - p) w q / (K sigma_Q).
    Its noise grows with N, since one number tells N rows how they did.
    """
    sums = objective.sums(masks)
    rewards = -objective.per_pair * (np.einsum("gd,gd->g", sums, sums) - masks @ objective.norms)
    advantages = (rewards - rewards.mean()) * len(masks) / (len(masks) - 1)
    return np.asarray(chances * (1 - chances) * objective.per_row + advantages @ (masks - chances) / len(masks))
