"""The orders that choices are made in: rows by their ids, and values best first, so that ties never hang on chance.

Every selector works on the pool sorted by id; a pool whose rows come in another order then gives the same rows, bit for bit.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.core import Budget, Features, Floats, Integers, Strings
from curate.errors import DataError, NumericError


def by_id(features: Features) -> tuple[Integers, Features]:
    """(order, features with row i = row order[i] of the given ones), sorted by id; nothing is copied if they are sorted."""
    ids = features.ids
    if len(ids) < 2 or bool((ids[:-1] < ids[1:]).all()):
        return np.arange(len(ids)), features
    order = np.argsort(ids, kind="stable")
    return order, subset(features, order)


def subset(features: Features, rows: Integers) -> Features:
    """The features of these rows, in this order; rows on disk are read when they are asked for."""
    return replace(features, content=_of(features.content, rows), **{name: _at(getattr(features, name), rows) for name in _ALIGNED})


_ALIGNED = ("ids", "lengths", "vectors", "scores", "similarity", "groups", "supervised")


def _of(content: Any, rows: Integers) -> Any:
    if content is None:
        return None
    return content.take(rows) if hasattr(content, "take") else [content[row] for row in rows]


def _at(values: Any, rows: Integers) -> Any:
    if values is None or len(values) == 0:
        return values
    return values.take(rows) if hasattr(values, "take") and not isinstance(values, np.ndarray) else np.asarray(values)[rows]


def best_first(values: Floats, count: int | None = None) -> Integers:
    """The positions of the `count` largest values, largest first, ties by the lower position; O(N + K log K)."""
    n = len(values)
    count = n if count is None else min(count, n)
    if count <= 0:
        return np.zeros(0, np.int64)
    held = np.arange(n)
    if count < n:
        held = np.flatnonzero(values >= np.partition(values, n - count)[n - count])
    return held[np.argsort(-values[held], kind="stable")][:count]


def oriented_scores(pool: Features, largest: bool) -> NDArray[np.float64]:
    """The scores as float64, turned so that larger is better; an error if there are none or one is not finite."""
    if pool.scores is None:
        raise DataError("this selector needs scores, but the features carry none; score the pool with a scorer whose output is scores")
    scores = np.asarray(pool.scores, np.float64)
    if not np.isfinite(scores).all():
        raise NumericError(f"the score of row {pool.ids[np.argmin(np.isfinite(scores))]} is not finite; drop the row or score it again")
    return scores if largest else -scores


def counts_rows(budget: Budget) -> bool:
    """Whether every row costs one: only then can a smaller budget be a prefix, for a dear row that did not fit may fit a larger one."""
    return budget.unit in ("rows", "fraction")


def places(ids: Strings, among: Strings) -> Integers:
    """(N,) where each of `ids` is among the sorted ids `among`, -1 where it is not."""
    found = np.minimum(np.searchsorted(among, ids), max(len(among) - 1, 0))
    return np.where(among[found] == ids, found, -1) if len(among) else np.full(len(ids), -1)
