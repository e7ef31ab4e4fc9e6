"""Exact k-means of numbers on a line, by dynamic programming."""

import numpy as np
from numpy.typing import NDArray

from curate.core import Floats, Integers
from curate.errors import DataError, NumericError


def groups_1d(values: Floats, groups: int) -> Integers:
    """(N,) the group of every value, 0 for the smallest: the partition with the least sum of squared distances from the group means.

    On a line every optimal group is an interval (Fisher, 1958), so that with the distinct values x_1 < ... < x_M the cost of the best k
    groups of the first j is D_k(j) = min_i D_{k-1}(i) + SS(x_{i+1} ... x_j). The best i never falls as j grows, hence divide and conquer
    (Wang and Song, 2011, and their later log-linear method): O(N log N + G M log M) time, O(G M) integers of memory.

    Equal values share a group, and no group is empty: there are min(groups, M) of them. Of equally good partitions, the one whose upper
    groups reach lowest. The order of the values changes nothing. Sums are float64 about the mean, so a partition counts as equally good
    where it differs from the optimum by rounding, about 1e-13 of the sum of squares of all values.

    Raises:
        DataError: `groups` is below one.
        NumericError: a value is not finite.
    """
    if groups < 1:
        raise DataError(f"groups_1d: {groups} groups; ask for at least one")
    if not np.isfinite(values).all():
        raise NumericError(f"groups_1d: value {int(np.argmin(np.isfinite(values)))} is not finite; leave such values out")
    distinct, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    edges = _edges(distinct.astype(np.float64), counts.astype(np.float64), min(groups, len(distinct)))
    labels = np.searchsorted(edges, np.arange(len(distinct)), side="right")
    return labels.astype(np.int64)[inverse]


def _edges(values: NDArray[np.float64], counts: NDArray[np.float64], groups: int) -> Integers:
    """(groups - 1,) where each group after the first begins, for ascending distinct values."""
    if groups < 2:
        return np.zeros(0, np.int64)
    scaled = np.ldexp(values, -np.frexp(np.abs(values).max())[1])  # by a power of two, which rounds nothing and lets no square overflow
    centred = scaled - (scaled * counts).sum() / counts.sum()
    mass = np.concatenate([[0.0], np.cumsum(counts)])
    moment = np.concatenate([[0.0], np.cumsum(counts * centred)])
    # The squares of the values are the same for all partitions, so -moment^2 / mass of the groups is all there is to compare.
    best = np.full(len(mass), np.inf)
    best[1:] = -(moment[1:] ** 2) / mass[1:]
    choices = []
    for number in range(2, groups):
        best, choice = _layer(best, mass, moment, number)
        choices.append(choice)
    last = np.arange(groups - 1, len(values))
    edges = [int(last[np.argmin(best[last] - (moment[-1] - moment[last]) ** 2 / (mass[-1] - mass[last]))])]
    for choice in reversed(choices):
        edges.append(int(choice[edges[-1]]))
    return np.array(edges[::-1], np.int64)


def _layer(
    before: NDArray[np.float64], mass: NDArray[np.float64], moment: NDArray[np.float64], number: int
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """(M + 1,) the cost of the best `number` groups of every prefix, and where the last of these groups begins."""
    size = len(mass) - 1
    best, choice = np.full(size + 1, np.inf), np.full(size + 1, number - 1, np.int32)
    stride = 1 << (size - number + 1).bit_length()
    while stride := stride >> 1:
        # Every second multiple of the stride; its neighbours on both sides are known from the strides before, and bound its choice.
        ends = np.arange(number - 1 + stride, size + 1, 2 * stride)
        low = choice[ends - stride].astype(np.int64)
        beyond = ends + stride
        high = np.where(beyond <= size, choice[np.minimum(beyond, size)], size).astype(np.int64)
        best[ends], choice[ends] = _least(before, mass, moment, ends, low, np.minimum(high, ends - 1))
    return best, choice


def _least(
    before: NDArray[np.float64], mass: NDArray[np.float64], moment: NDArray[np.float64], ends: Integers, low: Integers, high: Integers
) -> tuple[NDArray[np.float64], Integers]:
    """For every end, the least cost over the starts low ... high of its last group, and the first start that has it."""
    widths = high - low + 1
    firsts = np.concatenate([[0], np.cumsum(widths)[:-1]])
    starts = np.arange(int(widths.sum())) + np.repeat(low - firsts, widths)
    costs = np.repeat(moment[ends], widths) - moment[starts]
    costs *= costs
    costs /= np.repeat(mass[ends], widths) - mass[starts]
    np.subtract(before[starts], costs, out=costs)
    least = np.minimum.reduceat(costs, firsts)
    hits = np.flatnonzero(costs == np.repeat(least, widths))
    return least, starts[hits[np.searchsorted(hits, firsts)]]
