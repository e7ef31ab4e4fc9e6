"""A mask over the pool learnt by policy gradient, for good rows that differ from one another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curate.core import Budget, Features, Floats, Integers, Selection
from curate.interfaces import Context
from curate.masks.diversity import Diversity, Wide
from curate.masks.effects import effects_of
from curate.masks.objective import MaskObjective, typical_size
from curate.masks.partitions import part, shares, shuffled_parts
from curate.masks.policy import Climb, Credit, Policy, Reward, learn
from curate.masks.selector import MaskSelector
from curate.order import best_first, by_id, counts_rows
from curate.similarity import unit_rows


class PolicyMask(MaskSelector):
    """DATAMASK (2026): maximise J(S) = w Q(S) / sigma_Q + (1 - w) D(S) / sigma_D over masks by policy gradient.

    Q is the mean score, D one of three closed forms (curate/masks/diversity.py), the sigmas their deviations over random masks. Rows
    have logits s, from which masks of exactly K rows (Plackett-Luce) or of the budget in expectation (Bernoulli) are
    drawn; s climbs an unbiased gradient of E[J] (curate/masks/policy.py), and the best mask seen is kept. The pool is cut by
    the hash of ids into partitions that are learnt apart, each with its share of the budget. `restarts` repeat it with
    other seeds: the best is kept, and the curve `spread` holds the J of each. No guarantee, but a certificate: J, a bound on every mask,
    and where affordable the J of greedy and of MMR, which may be the better ones.
    O(restarts steps samples N D) time for `pairwise`; memory is a partition and a few numbers per row.
    """

    name: Literal["policy_mask"] = Field(default="policy_mask", description="The selector's name in a recipe.")
    heeds_target: ClassVar[bool] = False
    version: ClassVar[int] = 2
    policy: Policy = Field(default="plackett_luce", description="Masks of exactly K rows, or of independent rows.")
    credit: Credit = Field(default="marginal", description="What a row is credited with: its own effect, or its mask's reward.")
    steps: int = Field(default=50, ge=1, le=100_000, description="How many times the policy is updated.")
    samples: int = Field(default=4, ge=2, le=10_000, description="How many masks are sampled for an update.")
    learning_rate: float = Field(default=1.0, gt=0, le=1000, description="The first step in logits, per standard deviation of the gradient; falls to 0.")
    temperature: float = Field(default=1.0, ge=1e-3, le=1e6, description="Divides the first logits, w times the standardised score: larger is nearer uniform.")
    restarts: int = Field(default=3, ge=1, le=1000, description="How many times it is learnt with another seed; the best is kept.")
    partition_rows: int = Field(default=20_000, ge=2, le=10_000_000, description="The most rows that are learnt together.")

    def select(self, pool: Features, budget: Budget, *, target: Features | None = None, context: Context = Context()) -> Selection:
        order, rows = by_id(pool)
        objective = self.objective(rows, budget)
        if objective is None:
            return Selection.of(budget.fill(order, pool), prefix_consistent=False)
        costs, capacity = budget.costs(rows)
        parts = shuffled_parts(rows, self.partition_rows, context.seed, "policy_mask partitions")
        budgets = [_share(budget, capacity) for capacity in shares(capacity, costs, parts)]
        logits, curves = np.empty((self.restarts, len(rows)), np.float32), []
        learn_part = partial(_learn, self, objective.form, objective.scales, context.seed)
        learnt = context.cluster.map(learn_part, _Work(rows, objective.quality, parts, budgets), label="policy_mask")
        for own, (found, curve) in zip(parts, learnt, strict=True):
            logits[:, own] = found
            curves += [curve] if curve is not None else []
        masks = [_merged(rows, budget, parts, budgets, restart) for restart in logits]
        values = np.asarray([objective.value(mask) for mask in masks])
        best = int(np.argmax(values))
        certificate, rivals = objective.certificate(masks[best], budget), self.beside(objective, budget)
        details = {**certificate.details, **rivals, **_spread(values, rivals.get("greedy"))}
        climbs = dict(zip(("objective", "best"), np.mean([curve[best] for curve in curves], axis=0), strict=True)) if curves else {}
        return Selection.of(
            order[masks[best]],
            certificate=replace(certificate, details=details),
            prefix_consistent=False,
            curves={**climbs, "spread": values},
        )

    def beside(self, objective: MaskObjective, budget: Budget) -> Mapping[str, float]:
        return objective.rivals(budget)


@dataclass(frozen=True)
class _Part:
    """Rows that are learnt together, and their share of the budget."""

    number: int
    pool: Features
    quality: Wide
    budget: Budget


@dataclass(frozen=True)
class _Work(Sequence[_Part]):
    """The parts, each made when it is asked for, so that they are not all held at once."""

    rows: Features
    quality: Wide
    parts: list[Integers]
    budgets: list[Budget]

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: Any) -> Any:
        own = range(len(self))[number]
        return _Part(own, part(self.rows, self.parts[own]), self.quality[self.parts[own]], self.budgets[own])


def _share(budget: Budget, capacity: int) -> Budget:
    return Budget(amount=float(capacity), unit="rows" if budget.unit == "fraction" else budget.unit)


def _learn(fields: PolicyMask, form: Diversity, scales: tuple[float, float], seed: int, own: _Part) -> tuple[NDArray[np.float32], Floats | None]:
    """The logits of every restart (R, n), and (R, 2, steps) the mean J of the sampled masks and that of the best so far; none where all or nothing is kept."""
    deviation = float(own.quality.std()) or 1.0
    first = fields.quality_weight * (own.quality - own.quality.mean()) / deviation / fields.temperature
    costs, capacity = own.budget.costs(own.pool)
    size = typical_size(costs, capacity)
    if not 0 < size < len(costs):
        return np.tile(first.astype(np.float32), (fields.restarts, 1)), None
    reward = Reward(scales[0] * own.quality / size, effects_of(form, unit_rows(own.pool), size, scales[1]))
    climb = Climb(fields.policy, fields.credit, fields.steps, fields.samples, fields.learning_rate)
    logits, curves = [], []
    for restart in range(fields.restarts):
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed % 2**64, restart, own.number])))
        found = learn(reward, first, costs, capacity, size, climb, generator)
        logits.append(found.logits.astype(np.float32))
        curves.append([found.sampled, found.best])
    return np.stack(logits), np.asarray(curves)


def _merged(rows: Features, budget: Budget, parts: list[Integers], budgets: list[Budget], logits: NDArray[np.float32]) -> Integers:
    """Every part's rows of largest logit within its share, best first; then, if tokens are left over, any that fit."""
    picks = [own[share.fill(best_first(logits[own]), part(rows, own))] for own, share in zip(parts, budgets, strict=True)]
    kept = np.sort(np.concatenate(picks))
    kept = kept[best_first(logits[kept])]
    if counts_rows(budget):
        return kept
    others = np.ones(len(rows), np.bool_)
    others[kept] = False
    rest = np.flatnonzero(others)
    return budget.fill(np.concatenate([kept, rest[best_first(logits[rest])]]), rows)


def _spread(values: Floats, greedy: float | None) -> dict[str, float]:
    """Mean and standard deviation of J over restarts, and where greedy is known the 95% interval of the mean's lead over it."""
    count, mean = len(values), float(values.mean())
    details = {"restarts": float(count), "mean": mean}
    if count > 1:
        details["deviation"] = float(values.std(ddof=1))
    if count > 1 and greedy is not None:
        from scipy.stats import t

        reach = float(t.ppf(0.975, count - 1)) * details["deviation"] / count**0.5
        details |= {"lead": mean - greedy, "lead_low": mean - greedy - reach, "lead_high": mean - greedy + reach}
    return details
