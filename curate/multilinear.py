"""What a ranked list is worth when each of its rows is there only with some probability: the multilinear extension, exactly.

Row i is there with probability w_i, independently, and the first K rows of a list that are there are worth the sum of their u_i / K:

    U(w) = E[(1 / K) sum of u over the first K rows that are there]

U is linear in each w_i. With P_i(c) = Pr[c of the rows before place i are there] and V_i(r) = E[sum of u over the first r rows
there from place i on], V_i(r) = (1 - w_i) V_{i+1}(r) + w_i (u_i + V_{i+1}(r - 1)), and

    dU/dw_i = (1 / K) sum_{c < K} P_i(c) (u_i + V_{i+1}(K - c - 1) - V_{i+1}(K - c)),

which also counts the event that fewer than K rows are there. O(L K) for a list of L (after Lyu et al., 2023, whose sum leaves that
event out and needs utilities on a grid).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.core import Floats, Integers

_TABLE = 2**22  # numbers in the table of P, 32 MiB


@dataclass(frozen=True)
class Extension:
    """U of each list (M,), its gradient (M, L) by place, and the chance (M,) that the list ends before K rows were there."""

    value: NDArray[np.float64]
    gradient: NDArray[np.float64]
    short: NDArray[np.float64]


def multilinear(present: Floats, utilities: Floats, neighbours: int) -> Extension:
    """U and its gradient for M lists of L places, float64; O(M L K) time, and tables of a fixed size.

    Args:
        present: (M, L) the probability w that the row at each place is there.
        utilities: (M, L) what it is worth.
        neighbours: K, how many rows count.
    """
    lists, length = present.shape
    size = max(1, _TABLE // max(1, (length + 1) * neighbours))
    parts = [_block(present[start : start + size], utilities[start : start + size], neighbours) for start in range(0, max(lists, 1), size)]
    return Extension(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("value", "gradient", "short")))


def _block(present: Floats, utilities: Floats, neighbours: int) -> Extension:
    before = _counts_before(present, neighbours)
    rest = np.zeros((len(present), neighbours + 1))
    gradient = np.empty(present.shape)
    for place in range(present.shape[1] - 1, -1, -1):
        w, u = present[:, place, None], utilities[:, place, None]
        step = u + rest[:, :-1] - rest[:, 1:]  # what one more row adds where r + 1 rows are wanted
        gradient[:, place] = np.einsum("mc,mc->m", before[place], step[:, ::-1])
        rest[:, 1:] += w * step
    return Extension(rest[:, neighbours] / neighbours, gradient / neighbours, before[-1].sum(axis=1))


def _counts_before(present: Floats, neighbours: int) -> NDArray[np.float64]:
    """(L + 1, M, K) the chance that c < K of the rows before each place are there."""
    lists, length = present.shape
    before = np.zeros((length + 1, lists, neighbours))
    before[0, :, 0] = 1
    for place in range(length):
        w = present[:, place, None]
        before[place + 1] = before[place] * (1 - w)
        before[place + 1, :, 1:] += before[place, :, :-1] * w
    return before


def mean_over_lists(order: Integers, gradient: Floats, rows: int) -> NDArray[np.float64]:
    """(rows,) the mean over the lists of a gradient by place, at the row that holds each place (M, L)."""
    return np.bincount(order.ravel(), gradient.ravel(), rows) / len(order)
