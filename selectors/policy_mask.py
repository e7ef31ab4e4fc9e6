"""A mask over the pool learnt by policy gradient, for good rows that differ from one another."""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from curate.certificate import gap_to_bound
from curate.core import Budget, Certificate, Features, Integers, Selection
from curate.interfaces import Context, Selector
from curate.mask_objective import MaskObjective, Wide, marginal_gradient, shared_gradient
from curate.order import best_first, by_id, oriented_scores
from curate.randomness import draw, row_keys
from curate.similarity import unit_rows

_RANDOM_MASKS = 64
_GREEDY_WORK = 10**11  # multiply-adds that the comparison with greedy may take; beyond, it is left out


class PolicyMask(Selector):
    """DATAMASK (2026): maximise J(S) = w Q(S) / sigma_Q + (1 - w) D(S) / sigma_D over masks by policy gradient.

    Q is the mean score and D minus the mean pairwise cosine of the kept rows; the sigmas are their deviations over
    random masks. Each row is kept with probability sigmoid(s_i + b), b set so that the expected cost is the budget;
    s climbs the natural policy gradient from groups of sampled masks, and the rows of largest s are kept. `credit`
    `marginal` integrates each row's own draw out, `shared` is the plain group reward with a leave-one-out baseline.
    The certificate reports J, a bound, a random mask's mean J and, where affordable, the J of greedy on the same
    objective, which may be the better one. O(steps samples N D).
    """

    name: Literal["policy_mask"] = Field(default="policy_mask", description="The selector's name in a recipe.")
    needs: ClassVar[frozenset[str]] = frozenset({"vectors", "scores"})
    quality_weight: float = Field(default=0.5, ge=0, le=1, description="w: the weight of quality; diversity has the rest.")
    largest: bool = Field(default=True, description="Whether large scores are good.")
    credit: Literal["marginal", "shared"] = Field(default="marginal", description="What a row is credited with: its own effect, or its mask's reward.")
    steps: int = Field(default=100, ge=1, description="How many times the policy is updated.")
    samples: int = Field(default=8, ge=2, description="How many masks are sampled for an update.")
    learning_rate: float = Field(default=1.0, gt=0, description="The first step in logits, per standard deviation of the gradient; falls to 0.")
    temperature: float = Field(default=1.0, gt=0, description="Divides the first logits, w times the standardised score: larger starts closer to uniform.")

    def select(self, pool: Features, budget: Budget, *, target: Features | None = None, context: Context = Context()) -> Selection:
        order, rows = by_id(pool)
        quality, vectors = oriented_scores(rows, self.largest), unit_rows(rows)
        keys = row_keys(0, "random masks", rows.ids)
        controls = [budget.fill(best_first(draw(keys, i)), rows) for i in range(_RANDOM_MASKS)]
        size = round(float(np.mean([len(control) for control in controls])))
        if min(len(control) for control in controls) == 0:
            return Selection.of(budget.fill(order, pool), prefix_consistent=False)
        objective = MaskObjective(quality, vectors, self.quality_weight, size).scaled_by(controls)
        costs, capacity = budget.costs(rows)
        kept = budget.fill(best_first(self._learn(objective, rows, costs, capacity, context.seed)), rows)
        certificate = _certificate(objective, kept, controls, costs, capacity)
        return Selection.of(order[kept], certificate=certificate, prefix_consistent=False)

    def _learn(self, objective: MaskObjective, pool: Features, costs: Integers, capacity: int, seed: int) -> Wide:
        """(N,) logits."""
        deviation = float(objective.quality.std())
        logits: Wide = self.quality_weight * (objective.quality - objective.quality.mean()) / (deviation or 1.0) / self.temperature
        if costs.sum() <= capacity:
            return logits
        keys = row_keys(seed, "policy_mask", pool.ids)
        estimate = marginal_gradient if self.credit == "marginal" else shared_gradient
        for step in range(self.steps):
            chances = _on_budget(logits, costs, capacity)
            masks = np.stack([draw(keys, step * self.samples + g) < chances for g in range(self.samples)])
            natural = estimate(objective, masks, chances) / (chances * (1 - chances))
            spread = float(natural.std())
            if spread > 0:
                logits = logits + self.learning_rate * (1 - step / self.steps) * (natural - natural.mean()) / spread
        return logits


def _on_budget(logits: Wide, costs: Integers, capacity: int) -> Wide:
    """(N,) sigmoid(logits + b), away from 0 and 1, with b found by bisection so that the expected cost is the capacity."""
    low, high = -40.0 - float(logits.max()), 40.0 - float(logits.min())
    for _ in range(50):
        middle = (low + high) / 2
        chances = 1 / (1 + np.exp(-np.clip(logits + middle, -40, 40)))
        low, high = (low, middle) if costs @ chances > capacity else (middle, high)
    return np.asarray(np.clip(chances, 1e-9, 1 - 1e-9))


def _sizes(costs: Integers, capacity: int) -> tuple[int, int]:
    """The fewest and the most rows of a mask within the budget that no further row fits into."""
    cheap = np.cumsum(np.sort(costs))
    dear = np.cumsum(-np.sort(-costs))
    most = int(np.searchsorted(cheap, capacity, side="right"))
    return min(max(int(np.searchsorted(dear, capacity - costs.max(), side="right")) + 1, 1), most), most


def _certificate(objective: MaskObjective, kept: Integers, controls: list[Integers], costs: Integers, capacity: int) -> Certificate:
    value, bound = objective.value(kept), objective.bound(*_sizes(costs, capacity))
    random = float(np.mean([objective.value(control) for control in controls]))
    quality, diversity = objective.terms(kept)
    details = {"random": random, "quality": quality, "diversity": diversity}
    details |= {"sigma_quality": objective.sigma_quality, "sigma_diversity": objective.sigma_diversity}
    if len(kept) * objective.vectors.size <= _GREEDY_WORK:
        details["greedy"] = objective.value(objective.greedy(costs, capacity))
    return Certificate("mask_objective", "max", value, bound, gap_to_bound(value, bound, random), details)
