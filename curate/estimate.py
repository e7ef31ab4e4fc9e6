"""Estimates: what something large will take, from what a few small pieces of it took."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from curate.report.wording import duration

MARGIN = 1.5  # what else a machine does while one measures, and while one runs
STEEPEST = 2.0  # all pairs of rows


@dataclass(frozen=True)
class Span:
    """A forecast, and the two ends that it is meant to lie between."""

    middle: float = 0.0
    low: float = 0.0
    high: float = 0.0

    def __add__(self, other: Self) -> "Span":
        return Span(self.middle + other.middle, self.low + other.low, self.high + other.high)

    def times(self, factor: float) -> "Span":
        """The forecast of `factor` such things."""
        return Span(self.middle * factor, self.low * factor, self.high * factor)


@dataclass(frozen=True)
class Point:
    """One measurement: a piece of this size (rows, tokens or items) took so many seconds, or bytes."""

    size: float
    cost: float


@dataclass(frozen=True)
class Line:
    """cost(size) = first + fixed + rate * size; `first` is paid once by every process, `steady` is cost over size of the largest piece."""

    first: float
    fixed: float
    rate: float
    steady: float

    @classmethod
    def through(cls, points: Sequence[Point], *, cold: bool = True) -> Self:
        """The line through the two largest pieces, in the order they were measured, smallest first.

        If `cold`, the first piece also paid for what a process loads once: it is then no part of the line, and what it took beyond is
        `first`. One piece stands for its proportion. A line that falls, or starts below zero, is replaced by proportion too.
        """
        if not points:
            raise ValueError("a line needs at least one measurement")
        last, warm = points[-1], points[1:] if cold and len(points) > 1 else points
        steady = last.cost / max(last.size, 1e-12)
        before = warm[-2] if len(warm) > 1 else Point(0.0, 0.0)
        rate = (last.cost - before.cost) / (last.size - before.size) if last.size > before.size else 0.0
        fixed = last.cost - rate * last.size
        if rate < 0 or fixed < 0 or last.size == before.size:
            rate, fixed = steady, 0.0
        first = max(0.0, points[0].cost - fixed - rate * points[0].size) if len(warm) < len(points) else 0.0
        return cls(first, fixed, rate, steady)

    def at(self, size: float, processes: int = 1) -> Span:
        """The cost of this size, its growing part spread over processes that each pay the rest.

        The ends are the two ways to read the measurements, by the line and by proportion, each with half as much again for the machine.
        """
        ways = (self.first + self.fixed + self.rate * size / processes, self.first + self.steady * size / processes)
        return Span(ways[0], min(ways) / MARGIN, max(ways) * MARGIN)


def growth(points: Sequence[Point], size: float) -> Span:
    """The cost of this size where it may grow faster than in proportion: cost * (size / largest) ** exponent, a rough forecast.

    The exponent is read off the two largest pieces and clipped to [1, 2]; below one there is a fixed part, and a line through them takes
    its place. The ends are those of exponents 1 and 2, for the growth between small pieces need not last. The first of three or more
    pieces also loaded libraries: what it took beyond is added once.
    """
    if not points:
        raise ValueError("growth needs at least one measurement")
    warm = points[1:] if len(points) > 2 else points
    power = exponent(warm)

    def cost(at: float, slope: float) -> float:
        return float(warm[-1].cost * (at / warm[-1].size) ** slope)

    middle = cost(size, power)
    low, high = cost(size, 1.0), cost(size, STEEPEST)
    if power == 1.0 and len(warm) > 1:
        line = Line.through(warm, cold=False)
        middle = low = line.fixed + line.rate * size
    first = max(0.0, points[0].cost - cost(points[0].size, power)) if len(points) > 2 else 0.0
    return Span(first + middle, (first + min(low, middle, high)) / MARGIN, (first + max(low, middle, high)) * MARGIN)


def exponent(points: Sequence[Point]) -> float:
    """log(c2 / c1) / log(n2 / n1) of the two largest pieces, within [1, 2]; 1 where there are no two that took any time."""
    if len(points) < 2 or min(points[-1].cost, points[-2].cost) <= 0 or points[-1].size <= points[-2].size:
        return 1.0
    found = math.log(points[-1].cost / points[-2].cost) / math.log(points[-1].size / points[-2].size)
    return min(max(found, 1.0), STEEPEST)


def break_even(selecting_seconds: float, full_seconds: float, subset_seconds: float) -> int | None:
    """How many models must be trained before a selection has paid for itself: ceil(selecting / (full - subset)), at least one.

    None where training on the selection saves nothing, so that it never pays in time: then only a better model can justify it.
    """
    saved = full_seconds - subset_seconds
    if saved <= 0:
        return None
    return max(1, math.ceil(selecting_seconds / saved))


def break_even_sentence(name: str, selecting_seconds: float, full_seconds: float, subset_seconds: float) -> str:
    """`less-rr at 5%: selecting costs 12 min 00 s and saves 40 min 00 s per model trained: pays from the first model`."""
    costs = f"{name}: selecting costs {duration(selecting_seconds)}"
    models = break_even(selecting_seconds, full_seconds, subset_seconds)
    if models is None:
        return f"{costs} and never pays in time: a model takes {duration(subset_seconds)} on the selection, {duration(full_seconds)} on the whole pool"
    when = "the first model" if models == 1 else f"model {models:,} on"
    return f"{costs} and saves {duration(full_seconds - subset_seconds)} per model trained: pays from {when}"
