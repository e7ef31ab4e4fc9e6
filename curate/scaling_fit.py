"""The scaling law for data filtering, fitted to a few small runs, with what the runs leave open.

Errors are taken in log loss, for the luck of a training run is about proportional to the loss that it leaves. Intervals
come from a parametric bootstrap: noise as large as the residuals (its own size drawn too, RSS / chi^2, for few runs tell
little of it) is added to the fitted losses, and the law is fitted again. Runs drawn with replacement would not do: with
as few runs as these a draw leaves out a bucket, and then its utility is open.

They speak of noise about a law that holds. How far it holds is told by the residuals alone.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from curate.errors import DataError, NumericError
from curate.scaling_law import Law, Wide, fading, pass_ends, position

REPEATS = 1.1  # passes above which a run says something of repetition
_STARTS = 12
_STEPS = 200
SHORTEST, LONGEST = 0.05, 1000.0  # passes of a half-life: beyond these one looks like the next
_HARM, _USE = -3.0, 25.0  # log of what a bucket does to the loss above d, in as many tokens as runs have in the middle


class Run(NamedTuple):
    """A training run: the buckets it saw, the tokens that are in them, the tokens it saw, and the loss it left."""

    kept: tuple[int, ...]
    pool: float
    seen: float
    loss: float


class Estimate(NamedTuple):
    """A number and the ends of its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Fitted:
    """The law of some runs, and the laws of its bootstrap draws."""

    law: Law
    draws: tuple[Law, ...]
    noise: float  # standard deviation of a run's log loss about the law
    spare: int  # runs beyond the numbers that were fitted
    residuals: Wide  # (R,) log of measured over fitted loss

    @property
    def fades(self) -> bool:
        """Whether a half-life was fitted."""
        return bool(np.isfinite(self.law.tau))

    def estimate(self, number: Callable[[Law], float]) -> Estimate:
        """What a number of the law is, and the middle 95% of the draws."""
        low, high = np.quantile([number(law) for law in self.draws], [0.025, 0.975])
        return Estimate(number(self.law), float(low), float(high))

    def answers(self, compute: float) -> Wide:
        """(B,) the share of draws in which keeping the first 1, 2, ..., B buckets is best."""
        counts = np.bincount([law.best(compute).buckets for law in self.draws], minlength=len(self.law.b) + 1)[1:]
        shares: Wide = counts / len(self.draws)
        return shares


def fit(runs: Sequence[Run], buckets: int, bucket: float, *, base: float | None = None, seed: int = 0, draws: int = 200) -> Fitted:
    """The law of `buckets` buckets of `bucket` tokens by least squares in log loss, from several starts.

    `base` is the loss before training: with it the law has a start and a = base - d, without it it is the plain power law.
    Where no run passes over its rows twice, the half-life is infinite, which is good up to one pass only. DataError where the
    runs cannot determine the numbers.
    """
    problem = _Problem.of(runs, buckets, bucket, base)
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, zlib.crc32(b"scaling law")))))
    logs = np.log([run.loss for run in runs])
    found = min((problem.solve(problem.guess(generator), logs) for _ in range(_STARTS)), key=lambda solution: float(solution[1]))
    best = found[0]
    fitted = problem.predict(best)
    spare = len(runs) - problem.size
    square = float(np.sum((logs - fitted) ** 2))
    laws = []
    for _ in range(draws):
        spread = np.sqrt(square / generator.chisquare(spare))
        laws.append(problem.law(problem.solve(best, fitted + spread * generator.normal(size=len(runs)))[0]))
    return Fitted(problem.law(best), tuple(laws), float(np.sqrt(square / spare)), spare, logs - fitted)


@dataclass(frozen=True)
class _Problem:
    """The numbers to fit: log start (log a without a base), log d, log tau where runs repeat, and each bucket's pull.

    The pull is what a bucket takes off log(y - d) in `middle` tokens of a first pass; unlike b it does not depend on the start.
    """

    losses: Wide  # (R,)
    mixed: Wide  # (R, B) share of each bucket in each run
    ends: Wide  # (R, K + 1) tokens seen at the ends of passes
    buckets: Wide  # (R,) pool of each run over N
    bucket: float
    base: float | None
    fades: bool
    middle: float

    @classmethod
    def of(cls, runs: Sequence[Run], buckets: int, bucket: float, base: float | None) -> "_Problem":
        """DataError where the runs cannot determine the numbers."""
        _check(runs, base)
        pool, seen, losses = (np.array(column, np.float64) for column in zip(*(run[1:] for run in runs), strict=True))
        mixed: Wide = np.array([[(number in run.kept) / len(run.kept) for number in range(buckets)] for run in runs])
        fades = bool((seen > REPEATS * pool).any())
        ends = pass_ends(seen, pool, LONGEST if fades else np.inf)
        problem = cls(losses, mixed, ends, pool / bucket, bucket, base, fades, float(np.exp(np.log(seen).mean())))
        _check_count(problem, len({run[:3] for run in runs}))
        return problem

    @property
    def size(self) -> int:
        return int(self.mixed.shape[1]) + 2 + self.fades

    @cached_property
    def bounds(self) -> tuple[Wide, Wide]:
        """Of the numbers, in their order."""
        seen, lowest = self.ends[:, -1], float(self.losses.min())
        first = np.array([-20.0, 40.0]) if self.base is None else np.log([seen.min() / 1e3, seen.max() * 10])
        floor = np.log([lowest / 1e3, lowest if self.base is None else min(lowest, 0.99 * self.base)])
        tau = [np.log([SHORTEST, LONGEST])] if self.fades else []
        table = np.array([first, floor, *tau, *([(_HARM, _USE)] * self.mixed.shape[1])])
        return table[:, 0], table[:, 1]

    def guess(self, generator: np.random.Generator) -> Wide:
        """Where a search begins."""
        pulls: Wide = generator.uniform(0, 2, size=(self.mixed.shape[1],))
        first = np.log(self.middle) + 2 * generator.normal() if self.base is not None else np.log(self.losses.mean()) + pulls.mean()
        floor = np.log(self.losses.min() * generator.uniform(0.05, 0.95))
        return np.array([first, floor, *([1 + generator.normal()] if self.fades else []), *pulls])

    def law(self, numbers: Wide) -> Law:
        """The law of these numbers."""
        first, d = (float(value) for value in np.exp(numbers[:2]))
        start = 0.0 if self.base is None else first
        b = numbers[2 + self.fades :] / position(self.middle, start)
        tau = float(np.exp(numbers[2])) if self.fades else float("inf")
        return Law(first if self.base is None else self.base - d, tuple(float(value) for value in b), tau, d, self.bucket, start)

    def predict(self, numbers: Wide) -> Wide:
        """(R,) log losses."""
        law = self.law(numbers)
        logs: Wide = np.log(law.d + law.a * np.exp(-(self.mixed @ np.array(law.b)) * self._weighed(law).sum(1)))
        return logs

    def slopes(self, numbers: Wide) -> Wide:
        """(R, P) derivatives of the log losses."""
        law = self.law(numbers)
        utility, weighed, reach = self.mixed @ np.array(law.b), self._weighed(law), float(position(self.middle, law.start))
        grown: Wide = weighed.sum(1)
        left: Wide = law.a * np.exp(-utility * grown)
        by_growth = -left * utility
        first, floor = left, np.full_like(left, law.d)
        if self.base is not None:
            moved = np.diff(-self.ends / (law.start + self.ends), axis=1)
            late = (self._fading(law) * moved).sum(1) + grown * self.middle / (law.start + self.middle) / reach  # b gives way as the start moves
            first, floor = by_growth * late, law.d * (1 - left / law.a)
        by_tau = by_growth * (weighed * np.arange(weighed.shape[1])).sum(1) * np.log(2) / (law.tau * self.buckets)
        columns = [first, floor, *([by_tau] if self.fades else []), *(-left * grown / reach * self.mixed.T)]
        slopes: Wide = np.stack(columns, 1) / (law.d + left)[:, None]
        return slopes

    def _fading(self, law: Law) -> Wide:
        return fading(law.tau * self.buckets, self.ends.shape[1] - 1)

    def _weighed(self, law: Law) -> Wide:
        """(R, K) what each pass adds to G."""
        weighed: Wide = self._fading(law) * np.diff(position(self.ends, law.start), axis=1)
        return weighed

    def solve(self, start: Wide, logs: Wide) -> tuple[Wide, float]:
        """The numbers nearest to these log losses, from one start, and half the sum of squares that is left."""
        from scipy.optimize import least_squares

        low, high = self.bounds
        inside = np.clip(start, low + 1e-6 * (high - low), high - 1e-6 * (high - low))
        found = least_squares(lambda numbers: self.predict(numbers) - logs, inside, jac=self.slopes, bounds=self.bounds, max_nfev=_STEPS)
        return np.asarray(found.x, np.float64), float(found.cost)


def _check(runs: Sequence[Run], base: float | None) -> None:
    for number, run in enumerate(runs):
        if not (np.isfinite(run.loss) and run.loss > 0 and run.seen > 0 and run.pool > 0):
            raise NumericError(f"run {number} saw {run.seen:g} of {run.pool:g} tokens and left a loss of {run.loss:g}; all three must be positive and finite")
    if base is not None and not (np.isfinite(base) and base > 0):
        raise NumericError(f"the loss before training is {base:g}; it must be positive and finite")


def _check_count(problem: _Problem, kinds: int) -> None:
    """Refuse runs that leave a number open, with what to add."""
    unseen = [str(number + 1) for number in np.flatnonzero(~problem.mixed.any(0))]
    if unseen:
        raise DataError(f"no run trains on bucket {', '.join(unseen)}, so nothing is known of its utility; add a run on it")
    if np.linalg.matrix_rank(problem.mixed) < problem.mixed.shape[1]:
        raise DataError("some buckets are only seen together, so their utilities cannot be told apart; add a run on each of them alone")
    missing = max(problem.size - kinds, problem.size + 1 - len(problem.losses))
    if missing > 0:
        wanted = f"{problem.size} numbers ({'a' if problem.base is None else 'start'}, d, {'tau, ' if problem.fades else ''}{problem.mixed.shape[1]} utilities)"
        message = f"{len(problem.losses)} runs of {kinds} kinds cannot determine {wanted} and how sure they are"
        raise DataError(f"{message}; add {missing} or more runs of other sizes or on other buckets")
