"""Quality and diversity of a mask, J(S) = w Q(S) / sigma_Q + (1 - w) D(S) / sigma_D, and what is known about the largest J.

Q is the mean quality of the kept rows, D one of the forms of curate/masks/diversity.py. The sigmas are the standard deviations of Q
and D over random masks of the budget (of 4,096 rows, if it holds more): without them the weight w between two unrelated units
would mean nothing. J depends on pool, budget, w and D alone, so every method that climbs it is measured in the same unit.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from curate.certificate import gap_to_bound
from curate.core import Budget, Certificate, Features, Integers
from curate.errors import NumericError
from curate.masks.bound import largest
from curate.masks.diversity import Anchors, Diversity, Form, Pairs, Wide
from curate.masks.effects import effects_of
from curate.masks.partitions import part, unit_blocks
from curate.masks.policy import Reward
from curate.masks.search import greedy_mask, mmr_mask
from curate.order import best_first
from curate.randomness import uniform
from curate.similarity import unit_rows

_MASKS = 64
_MASK_ROWS = 4096
_LARGEST = 1e150  # whose square a float holds
_RIVAL_WORK = 10**10  # multiply-adds that one of the rivals may take


@dataclass(frozen=True)
class MaskObjective:
    """J over the rows of a pool in the order of their ids, whose vectors are read in blocks."""

    pool: Features
    quality: Wide  # (N,) larger is better
    form: Diversity
    weight: float
    sigma_quality: float = 1.0
    sigma_diversity: float = 1.0
    random: float = 0.0  # the mean J of random masks

    @classmethod
    def of(cls, pool: Features, budget: Budget, quality: Wide, weight: float, form: Form, anchors: int) -> Self | None:
        """The objective with the sigmas of random masks of the budget; None if not even one row fits into it."""
        if len(quality) and np.abs(quality).max() > _LARGEST:
            raise NumericError(f"a score of {np.abs(quality).max():.3g} is too large to be averaged; scale the scores below {_LARGEST:g}")
        bare = cls(pool, quality, diversity(pool, form, anchors), weight)
        generator = np.random.Generator(np.random.Philox(0))
        masks = [budget.fill(generator.choice(len(pool), min(_MASK_ROWS, len(pool)), replace=False), pool) for _ in range(_MASKS)]
        masks = [mask for mask in masks if len(mask)]
        if not masks:
            return None
        terms = np.asarray([bare.terms(mask) for mask in masks])
        sigmas = terms.std(axis=0)
        sigmas[sigmas <= 1e-7 * np.abs(terms).max(axis=0)] = 1.0  # a term that does not vary keeps its unit
        if max(map(len, masks)) == _MASK_ROWS < len(pool):
            terms = np.asarray([bare.terms(budget.fill(generator.permutation(len(pool)), pool))])
        random = weight * terms[:, 0] / sigmas[0] + (1 - weight) * terms[:, 1] / sigmas[1]
        return cls(pool, quality, bare.form, weight, float(sigmas[0]), float(sigmas[1]), float(random.mean()))

    def terms(self, rows: Integers) -> tuple[float, float]:
        """(Q, D) of the kept rows; O(K D) for `pairwise`, in bounded memory."""
        rows = np.sort(rows)
        return float(self.quality[rows].mean()), self.form.value(self.form.summary(unit_blocks(self.pool, rows)), len(rows))

    @property
    def scales(self) -> tuple[float, float]:
        """What a unit of Q and a unit of D are worth."""
        return self.weight / self.sigma_quality, (1 - self.weight) / self.sigma_diversity

    def value(self, rows: Integers) -> float:
        """J of the kept rows."""
        return float(np.dot(self.scales, self.terms(rows)))

    def reward(self, size: int) -> Reward:
        """J of masks of about `size` rows over the whole pool in memory, row by row."""
        return Reward(self.scales[0] * self.quality / size, effects_of(self.form, unit_rows(self.pool), size, self.scales[1]))

    def certificate(self, kept: Integers, budget: Budget) -> Certificate:
        """J of the kept rows, a bound on every mask within the budget, and the gap on the scale where random masks are 1."""
        terms = self.terms(kept)
        value = float(np.dot(self.scales, terms))
        bound = largest(self.pool, self.form, self.quality, self.scales, kept, sizes(*budget.costs(self.pool)))
        details = {"random": self.random, "quality": terms[0], "diversity": terms[1]}
        details |= {"sigma_quality": self.sigma_quality, "sigma_diversity": self.sigma_diversity}
        return Certificate("mask_objective", "max", value, bound, gap_to_bound(value, bound, self.random), details)

    def rivals(self, budget: Budget) -> dict[str, float]:
        """J of the masks that greedy on J and maximal marginal relevance find; nothing where that takes too long. O(K N D)."""
        costs, capacity = budget.costs(self.pool)
        size = typical_size(costs, capacity)
        if size * len(costs) * np.shape(self.pool.vectors)[1] > _RIVAL_WORK:
            return {}
        masks = {
            "greedy": greedy_mask(self.reward(size), costs, capacity)[0],
            "mmr": mmr_mask(unit_rows(self.pool), self.quality, self.weight, costs, capacity)[0],
        }
        return {name: self.value(mask) for name, mask in masks.items()}


def diversity(pool: Features, form: Form, anchors: int) -> Diversity:
    """The form by name; the anchors of `facility` are rows of the pool, the same for every seed."""
    if form != "facility":
        return Pairs(1 if form == "pairwise" else 2)
    return Anchors(unit_rows(part(pool, np.sort(best_first(uniform(0, "anchors", pool.ids), anchors)))))


def sizes(costs: Integers, capacity: int) -> tuple[int, int]:
    """The fewest and the most rows of a mask within the budget that no further row fits into."""
    ordered = np.sort(costs)
    most = int(np.searchsorted(np.cumsum(ordered), capacity, side="right"))
    dear = int(np.searchsorted(np.cumsum(ordered[::-1]), capacity - ordered[-1], side="right"))
    return min(max(dear + 1, 1), most), most


def typical_size(costs: Integers, capacity: int) -> int:
    """How many rows of average cost the capacity holds; at least one if it holds anything, and all only if all fit."""
    total = int(costs.sum())
    if total <= capacity:
        return len(costs)
    return min(max(round(capacity * len(costs) / total), min(capacity, 1)), len(costs) - 1)
