"""Which K rows of a pool serve the target at least cost: transport in which each row may carry at most 1/K, solved in M dual variables."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.core import Floats, Integers
from curate.errors import NumericError
from curate.order import best_first
from curate.randomness import draw
from curate.transport.optimal_transport import blur_of
from curate.transport.sinkhorn import sinkhorn
from curate.transport.target_layers import Distances, Nearest

_SPARE = 4  # candidates for each row that is to be kept
_ROUNDS = 12
_ASCENTS = 8
_MISPLACED = 1e-2  # the share of the target's mass that streaming may leave at wrong target rows
_CLOSE = 1e-9
_BLOCK = 2048

Wide = NDArray[np.float64]


@dataclass(frozen=True)
class Capacity:
    """All rows of the pool, those worth keeping first; the duals, and the bound that they prove."""

    order: Integers  # (N,)
    columns: Wide  # (M,)
    bound: float


def choose_by_capacity(distances: Distances, kept: int, *, exact_limit: int, hold: int) -> Capacity:
    """min <P, c> over plans with column sums 1/M and row sums at most 1/K: any K rows, each carrying 1/K, are such a plan.

    Its dual has one variable a target row: D(v) = mean_j v_j + mean of the K least r_i(v), r_i(v) = min_j (c_ij - v_j). Every v bounds the
    transport cost of any K rows from below, and at the best v the rows of least r are those worth keeping. Where M divides K an optimal
    plan uses whole rows, and they are the best K rows there are; otherwise fewer than M rows are used in part.

    The duals are fitted to candidates, the nearest rows of every target row, about 4 K together: by the network simplex up to
    `exact_limit` entries, else by capped Sinkhorn. A pass over the pool then prices all rows, and those that belong among the
    K least join the candidates, until there are none. Where even the candidates exceed `hold` entries and K is many times M, the duals are
    fitted to a thinner pool and then climb the entropic dual of the whole pool, one full gradient a pass. O(N M) time a pass, O(N + M^2 + hold) memory.

    Args:
        distances: of the pool (N) to the target (M).
        kept: how many rows are to be chosen, at least one.
        exact_limit: entries up to which transport is solved exactly.
        hold: entries that may be held in memory.
    """
    n, m = distances.shape
    kept = min(kept, n)
    thin = min(-(-_SPARE * kept * m // max(hold, 1)), max(1, kept // (_SPARE * m)))
    if thin == 1:
        return _generated(distances, kept, exact_limit)
    sample = _Part(distances, np.flatnonzero(draw(np.arange(n, dtype=np.uint64)) < 1 / thin))
    fewer = max(1, min(kept // thin, sample.shape[0]))
    return _streamed(distances, kept, _generated(sample, fewer, exact_limit).columns)


def price(distances: Distances, columns: Wide, kept: int) -> tuple[Wide, float]:
    """r_i(v) of every row, and D(v), below which no K rows cost; one pass."""
    reduced = np.empty(distances.shape[0])
    for start, block in distances.blocks():
        reduced[start : start + len(block)] = (block - columns).min(axis=1)
    least = np.sort(np.partition(reduced, kept - 1)[:kept])
    return reduced, float(columns.mean() + least.mean())


def _generated(distances: Distances, kept: int, exact_limit: int) -> Capacity:
    candidates = _candidates(distances, kept)
    start: Wide | None = None
    bound = -np.inf
    for left in reversed(range(_ROUNDS)):
        costs = distances.of(candidates)
        share, columns = _by_simplex(costs, kept) if costs.size <= exact_limit else _by_sinkhorn(costs, kept, start)
        reduced, value = price(distances, columns, kept)
        bound = max(bound, value)
        least = best_first(-reduced, kept)
        missed = np.setdiff1d(least, candidates)
        if left == 0 or len(missed) == 0 or float(reduced[least[-1]] - reduced[missed].min()) <= _CLOSE:
            break
        candidates, start = np.union1d(candidates, missed), columns
    carried = np.zeros(distances.shape[0])
    carried[candidates] = np.round(share, 6)
    return Capacity(np.lexsort((reduced, -carried)), columns, bound)


def _candidates(distances: Distances, kept: int) -> Integers:
    n, m = distances.shape
    listed = Nearest(distances).upto(-(-_SPARE * kept // m))[0]
    candidates = np.unique(listed)
    if len(candidates) >= min(n, 2 * kept):
        return candidates
    return np.union1d(candidates, best_first(-price(distances, np.zeros(m), kept)[0], 2 * kept))


def _by_simplex(costs: Floats, kept: int) -> tuple[Wide, Wide]:
    """(R,) the share of 1/K that each row carries and (M,) optimal duals; what rows do not carry goes to a column that costs nothing."""
    import ot

    rows, m = costs.shape
    spare = rows - kept
    wide = np.zeros((rows, m + 1 if spare else m))
    wide[:, :m] = costs
    demand = np.full(wide.shape[1], float(kept))
    demand[m:] = float(spare * m)
    plan, log = ot.emd(np.full(rows, float(m)), demand, wide, numItermax=100_000_000, log=True)
    if log["warning"]:
        raise NumericError(f"transport from {kept} of {rows} rows to {m} target rows was not solved: {log['warning']}")
    columns = np.asarray(log["v"])
    return plan[:, :m].sum(axis=1) / m, columns[:m] - columns[m] if spare else columns


def _by_sinkhorn(costs: Floats, kept: int, start: Wide | None) -> tuple[Wide, Wide]:
    blur = blur_of(costs)
    columns = sinkhorn(costs, blur, mass=1 / kept, start=start).columns
    soft = np.concatenate([_soft(costs[at : at + _BLOCK], columns, blur, kept) for at in range(0, len(costs), _BLOCK)])
    return np.exp(-np.maximum(soft, 0.0) / blur), columns


def _soft(costs: Floats, columns: Wide, blur: float, kept: int) -> Wide:
    """(R,) the entropic r_i(v): at 0 a row would carry just 1/K, above it less."""
    power = (columns - costs) / blur
    top = power.max(axis=1)
    return np.asarray(-blur * (top + np.log(np.exp(power - top[:, None]).sum(axis=1)) + np.log(kept)))


def _streamed(distances: Distances, kept: int, columns: Wide) -> Capacity:
    """Climbs from the duals of a thinner pool: as in Sinkhorn, v_j grows by blur times the log of what target row j should receive over what it does."""
    share = 1 / distances.shape[1]
    blur = blur_of(next(distances.blocks())[1])
    for left in reversed(range(_ASCENTS)):
        soft, received = _gradient(distances, columns, blur, kept)
        if left == 0 or float(np.abs(received - share).sum()) <= _MISPLACED:
            break
        columns = columns + blur * np.log(share / np.maximum(received, 1e-300))
    return Capacity(best_first(-soft), columns, price(distances, columns, kept)[1])


def _gradient(distances: Distances, columns: Wide, blur: float, kept: int) -> tuple[Wide, Wide]:
    """(N,) the entropic r_i(v) of all rows, and (M,) what each target row receives, whose lack is the gradient of the entropic dual; one pass."""
    soft, received = np.empty(distances.shape[0]), np.zeros(len(columns))
    for start, block in distances.blocks():
        rows = _soft(block, columns, blur, kept)
        soft[start : start + len(block)] = rows
        received += np.exp((np.minimum(rows, 0.0)[:, None] + columns - block) / blur).sum(axis=0)
    return soft, received


class _Part:
    """The distances of some rows of a pool."""

    def __init__(self, distances: Distances, rows: Integers) -> None:
        self._distances, self._rows = distances, rows
        self.shape = len(rows), distances.shape[1]

    def blocks(self, size: int = _BLOCK) -> Iterator[tuple[int, NDArray[np.float32]]]:
        for start in range(0, len(self._rows), size):
            yield start, self._distances.of(self._rows[start : start + size])

    def of(self, rows: Integers) -> NDArray[np.float32]:
        return self._distances.of(self._rows[rows])
