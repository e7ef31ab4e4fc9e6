"""Controls that copy one property of an arm's rows and leave the rest to chance: the same lengths, or the same sources.

An arm that is better than random but not better than these has found long rows, or a good source, and nothing more.
"""

import numpy as np
from numpy.typing import NDArray

from curate.core import Budget, Features, Integers, Selection
from curate.order import by_id
from curate.randomness import uniform

BINS = 50  # of length: two rows in a hundred of the pool each, rows of equal length together


def length_matched(pool: Features, rows: Integers, budget: Budget, seed: int) -> Selection:
    """As many random rows of every length as `rows` hold, whether or not they are among them.

    Lengths count as equal within one of 50 bins that hold equal shares of the pool. Within a bin the draw is uniform without
    replacement. What the arm spent is the most that is spent: in rows, exactly as many of every bin; in tokens, bins are drawn in the arm's
    proportions until no row of them fits, so that counts differ where the arm took the short rows of a bin. An arm that takes a
    whole bin leaves nothing to draw there: of the longest rows of a pool there is only one set. O(N log N).

    Args:
        pool: ids and lengths are read, and `supervised` for a budget of those tokens.
        rows: (K,) distinct rows of the pool that the arm took.
        budget: whose unit the arm spent.
        seed: of the draw, which is a function of it and of the rows' ids.
    """
    order = np.sort(pool.lengths)
    return _matched(pool, rows, budget, seed, "length_matched_random", np.searchsorted(order, pool.lengths) * BINS // max(1, len(pool)))


def source_matched(pool: Features, rows: Integers, budget: Budget, seed: int) -> Selection:
    """As many random rows of every group as `rows` hold, whether or not they are among them; all else as in `length_matched`."""
    return _matched(pool, rows, budget, seed, "source_matched_random", np.unique(pool.groups, return_inverse=True)[1])


def _matched(pool: Features, rows: Integers, budget: Budget, seed: int, purpose: str, cells: Integers) -> Selection:
    """Rows of the cells that `rows` lie in, in an order of which every part holds the cells in the proportions of `rows`, as far as the budget reaches."""
    sorted_rows, sorted_pool = by_id(pool)
    cell, wanted = cells[sorted_rows], np.bincount(cells[rows], minlength=int(cells.max(initial=0)) + 1)
    open_to = np.flatnonzero(wanted[cell])
    drawn = uniform(seed, purpose, sorted_pool.ids[open_to])
    level = (_ranks(cell[open_to], drawn) + 0.5) / wanted[cell[open_to]]
    spent = int(budget.costs(pool)[0][rows].sum())
    spend = Budget(amount=float(spent), unit="rows" if budget.unit == "fraction" else budget.unit)
    kept = spend.fill(open_to[np.lexsort((drawn, level))], sorted_pool)
    return Selection.of(sorted_rows[kept], prefix_consistent=False)


def _ranks(cell: Integers, drawn: NDArray[np.float64]) -> Integers:
    """(R,) the place of each row among those of its cell, by increasing draw, ties by row."""
    order = np.lexsort((drawn, cell))
    starts = np.concatenate([[True], np.diff(cell[order]) > 0])[: len(order)]
    first = np.flatnonzero(starts)
    found = np.empty(len(order), np.int64)
    found[order] = np.arange(len(order)) - np.repeat(first, np.diff(np.append(first, len(order))))
    return found
