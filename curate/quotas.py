"""Sharing a budget between parts of the pool: what every part has spent after each of its rows, and the fairest level there is."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.core import Floats, Integers


def spending(part: NDArray[np.integer[Any]], costs: Integers, priority: Floats) -> Integers:
    """(R,) what a row's part has spent once the row is taken, its rows going by increasing priority, ties by row; O(R log R)."""
    order = np.lexsort((priority, part))
    paid, parts = costs[order], part[order]
    spent = np.cumsum(paid)
    starts = np.flatnonzero(np.concatenate([[True], parts[1:] != parts[:-1]])) if len(parts) else np.zeros(0, np.int64)
    before = np.repeat((spent - paid)[starts], np.diff(np.append(starts, len(parts))))
    level = np.empty(len(order), np.int64)
    level[order] = spent - before
    return level


def water_level(total: NDArray[Any], capacity: float, *, weights: NDArray[Any] | None = None, whole: bool = False) -> float:
    """The largest L with sum_b min(total_b, L w_b) <= capacity, the largest total_b / w_b if all fit; rounded down if whole.

    No way to spend the capacity gives every part that is not exhausted more than L w_b (max-min fairness): any that
    did would spend at least sum_b min(total_b, L' w_b) for an L' above L.
    """
    weights = np.ones(len(total)) if weights is None else weights
    full = total / weights
    order = np.argsort(full, kind="stable")
    held = np.cumsum(total[order]) - total[order]
    levels = (capacity - held) / np.cumsum(weights[order][::-1])[::-1]
    short = np.flatnonzero(levels < full[order])
    level = float(levels[short[0]]) if len(short) else float(full.max(initial=0.0))
    return float(np.floor(level)) if whole else level
