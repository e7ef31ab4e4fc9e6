"""Power: how many items or seeds a difference needs, and the smallest difference that an experiment could tell from zero."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike

from curate.contrast import Contrast, Parts, sign_test_floor
from curate.errors import ConfigError
from curate.statistics import is_right_or_wrong, scale

_MOST = 10**9  # items or seeds; what needs more is not to be had


class Needed(NamedTuple):
    """Items (with the seeds as they are) or seeds (with the items as they are) that tell `effect` from zero; None: no number does."""

    items: int | None
    seeds: int | None
    effect: float


def needed(
    scores: ArrayLike, baseline: ArrayLike, power: float = 0.8, level: float = 0.95, effect: float | None = None, *, paired_seeds: bool = False
) -> Needed:
    """The smallest number of items, or of seeds of each arm that has several, at which a true difference is told with this power.

    `scores` and `baseline` are (S, n) and (S', n) tables; `effect` is the size of the difference, the observed one by
    default. The components of variance of `paired_difference` are carried over to n' items and S' seeds,
    V = V_item / n' + V_seed / S' + V_rest / (S' n'), and the power is that of its interval: P(T > c), T noncentral t at
    Satterthwaite's freedom with noncentrality effect / sqrt(V), c its weighted t; times the chance that enough items
    differ for the interval to exclude zero at all. For right-or-wrong scores V is no less than a difference of that
    size implies. None where the other source of variance alone is too large, where the effect is zero, and for seeds
    where both arms have one.

    A limit: the components are estimates; of three seeds, V_seed is known to a factor of five or so, and an observed
    difference may itself be luck. Take the numbers for orders of magnitude. ConfigError for a power or level outside (0, 1).
    """
    plan = _Plan.of(scores, baseline, power, level, paired_seeds)
    size = abs(plan.difference if effect is None else effect)
    if size <= plan.rounding:
        return Needed(None, None, 0.0)
    items = _smallest(lambda n: plan.reaches(n, plan.seeds, size))
    seeds = None if max(plan.seeds) == 1 else _smallest(lambda s: plan.reaches(plan.items, (s,) * len(plan.seeds), size))
    return Needed(items, seeds, size)


def detectable(scores: ArrayLike, baseline: ArrayLike, power: float = 0.8, level: float = 0.95, *, paired_seeds: bool = False) -> float:
    """The smallest true difference that these items and seeds would tell from zero with this power, in the unit of the scores.

    The same calculation as `needed`. Infinite where there are too few items or seeds for any claim; NaN where the arms are
    equal on every item and the scores are not right or wrong, so that nothing is known of their variance.
    """
    plan = _Plan.of(scores, baseline, power, level, paired_seeds)
    if plan.largest == 0:
        return float("nan")
    low, high = 0.0, plan.largest
    while not plan.reaches(plan.items, plan.seeds, high):
        low, high = high, 2 * high
        if plan.right_or_wrong or high > 1e6 * plan.largest:
            return float("inf")
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if plan.reaches(plan.items, plan.seeds, middle) else (middle, high)
    return high


def needed_words(
    scores: ArrayLike,
    baseline: ArrayLike,
    metric: str,
    power: float = 0.8,
    level: float = 0.95,
    effect: float | None = None,
    *,
    paired_seeds: bool = False,
) -> str:
    """`needed` and `detectable` in a sentence, in the unit of the metric; from a hundred on, numbers are rounded up to two digits."""
    found = needed(scores, baseline, power, level, effect, paired_seeds=paired_seeds)
    least = detectable(scores, baseline, power, level, paired_seeds=paired_seeds)
    if np.isnan(least):
        return "the arms are equal on every item, so nothing is known of how much they could differ"
    could = (
        f"this experiment could tell {_amount(least, metric)}" if np.isfinite(least) else "this experiment has too few items or seeds to tell any difference"
    )
    if found.effect == 0:
        return f"there is no difference to plan for; {could}"
    several = max(len(np.atleast_2d(scores)), len(np.atleast_2d(baseline))) > 1
    return f"to tell {_amount(found.effect, metric)} from zero with {power:.0%} power: {_numbers(found, several)}; {could}"


@dataclass(frozen=True)
class _Plan:
    """What an experiment tells of the next one."""

    parts: Parts
    items: int
    seeds: tuple[int, ...]  # of each arm
    difference: float
    rounding: float
    differing: float  # share of the items that differ
    largest: float  # difference that one item can show, as far as is known
    right_or_wrong: bool
    power: float
    level: float

    @classmethod
    def of(cls, scores: ArrayLike, baseline: ArrayLike, power: float, level: float, paired_seeds: bool) -> Self:
        if not (0 < power < 1 and 0 < level < 1):
            raise ConfigError(f"power and level lie between 0 and 1: got {power} and {level}; write 0.8 for 80%")
        contrast = Contrast.of(scores, baseline, paired_seeds)
        by_item = np.abs(contrast.by_item)
        binary = is_right_or_wrong(contrast.ours) and is_right_or_wrong(contrast.theirs)
        return cls(
            parts=contrast.parts,
            items=len(by_item),
            seeds=tuple(len(arm) for arm in contrast.arms),
            difference=contrast.difference,
            rounding=contrast.rounding,
            differing=float(np.mean(by_item > 0)),
            largest=1.0 if binary else float(by_item.max()),
            right_or_wrong=binary,
            power=power,
            level=level,
        )

    def reaches(self, items: int, seeds: tuple[int, ...], effect: float) -> bool:
        """Whether an experiment of this size tells the effect with the power that is asked for."""
        from scipy.special import nctdtr

        parts = self.parts.planned(items, seeds)
        if self.right_or_wrong:
            # In one seed, a mean difference of e takes at least a share e of items that differ by one: variance e (1 - e).
            parts = parts._replace(items=max(parts.items, effect * (1 - effect) / (items * max(seeds))))
        enough = self._enough(items, effect)
        if parts.variance <= 0 or enough < self.power:
            return enough >= self.power
        missed = float(nctdtr(parts.freedom, effect / np.sqrt(parts.variance), parts.critical((1 - self.level) / 2, ahead=True)))
        return enough * (1 - missed) >= self.power

    def _enough(self, items: int, effect: float) -> float:
        """The chance that more items differ than a sign test at this level needs."""
        from scipy.special import bdtrc

        least = next(count for count in range(1, 1100) if sign_test_floor(count) < 1 - self.level)
        share = min(1.0, max(self.differing, effect / self.largest))
        return float(bdtrc(least - 1, items, share)) if items >= least else 0.0


def _smallest(reaches: Callable[[int], bool]) -> int | None:
    """The smallest number from two on that reaches, in steps of a quarter and then by halves."""
    low, high = 1, 2
    while not reaches(high):
        low, high = high, high + max(1, high // 4)
        if high > _MOST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return high


def _numbers(found: Needed, several: bool) -> str:
    items = None if found.items is None else f"{_rounded(found.items)} items"
    seeds = None if found.seeds is None else f"{_rounded(found.seeds)} seeds"
    if items and seeds:
        return f"{items}, or {seeds}"
    if items:
        return f"{items} ({'no number of seeds would do with these items' if several else 'one seed says nothing of what more seeds would bring'})"
    if seeds:
        return f"{seeds} (no number of items would do with these seeds)"
    return "neither more items nor more seeds alone would do" if several else "no number of items would do"


def _rounded(count: int) -> str:
    step = 10 ** max(0, len(str(count)) - 2)
    return f"{-(-count // step) * step:,}"


def _amount(size: float, metric: str) -> str:
    factor, digits, unit = scale(metric)
    text = f"{size * factor:.{digits}f}"
    text = text if float(text) > 0 else f"less than {10.0**-digits:.{digits}f}"
    return f"{text} {unit}" if unit else text
