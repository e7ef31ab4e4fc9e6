"""Space: how close to the target the rows taken lie, how well they stand for the pool, and where all of them are in a plane."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from curate.core import Floats, Integers
from curate.pipelines.describe_likeness import Likeness, Narrow
from curate.pipelines.describe_taken import Numbers, Panel, sample
from curate.plane import Plane, plane
from curate.report.results import Map, Trade

_POOL_POINTS, _POINTS = 1200, 300  # of the pool, and of the target or one arm, on a map
_FITTED = 500  # rows of the pool that the plane is fitted to


def trades(panels: Sequence[Panel], numbers: Numbers) -> list[Trade]:
    """Of every arm of panels of one target: means over different seeds, all read off one pass over the rows that any of them took."""
    name, common = numbers.common(panels[0].aim)
    if common is None:
        return []
    _, scores = numbers.difficulty(panels[0].aim)
    places = [(panel, arm, panel.different(arm)) for panel in panels for arm in panel.arms]
    taken = {one.key: common.having(one.rows) for _, _, different in places for one in different}
    drawn = common.having(numbers.drawn) if common.has_vectors else np.zeros(0, np.int64)
    close = dict(zip(taken, nearest(common, list(taken.values()), drawn), strict=True))
    found = []
    for panel, arm, different in places:
        reached = [close[one.key] for one in different if len(taken[one.key])]
        by_score = [scores[one.rows][np.isfinite(scores[one.rows])] for one in different] if scores is not None else []
        to_target, to_pool = np.split(np.mean(reached, axis=0), [len(common.target)]) if reached else (np.zeros(0), np.zeros(0))
        found.append(
            Trade(
                **panel.where,
                arm=arm,
                feature=name,
                to_target=_mean(to_target),
                to_pool=_mean(to_pool),
                quality=_mean(np.array([values.mean() for values in by_score if len(values)])),
            )
        )
    return found


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if len(values) else None


def nearest(common: Likeness, sets: Sequence[Integers], drawn: Integers) -> list[Narrow]:
    """For every set (M + S,): the similarity of each target row, then of each drawn row, to the nearest of the set. O(U (M + S) D) for U rows in all."""
    goals = np.concatenate([common.goals, common.vectors(drawn)]) if len(drawn) else None
    width = len(common.target) + len(drawn)
    best = [np.full(width, -np.inf, np.float32) for _ in sets]
    union = np.unique(np.concatenate(sets))
    held = [np.searchsorted(union, np.sort(rows)) for rows in sets]
    start = 0
    for part in common.blocks(union, width):
        alike = common.to_target(part) if goals is None else common.vectors(part) @ goals.T
        for number, places in enumerate(held):
            inside = places[np.searchsorted(places, start) : np.searchsorted(places, start + len(part))] - start
            if len(inside):
                best[number] = np.maximum(best[number], alike[inside].max(axis=0))
        start += len(part)
    return best


def maps(panels: Sequence[Panel], numbers: Numbers) -> list[Map]:
    """One for every panel of one target, all in the plane of the same rows; none without vectors."""
    aim = panels[0].aim
    name, common = numbers.common(aim)
    if common is None or not common.has_vectors:
        return []
    pool, target = common.having(numbers.drawn)[:_POOL_POINTS], sample(common.target.ids, np.arange(len(common.target)), _POINTS)
    goals = common.goals[target]
    vectors = common.vectors(pool)
    flat = plane(vectors[:_FITTED], goals)
    shared: dict[str, Any] = {
        "feature": name,
        "explained": flat.explained,
        "pool": _points(flat, vectors),
        "targets": _points(flat, goals),
        "groups": {"pool": numbers.examples.groups[pool].tolist(), "targets": common.target.groups[target].tolist()},
    }
    seen: dict[str, list[tuple[float, float]]] = {}
    found = []
    for panel in panels:
        for one in panel.first.values():
            if one.key not in seen:
                seen[one.key] = _points(flat, common.vectors(sample(numbers.examples.ids, common.having(one.rows), _POINTS)))
        found.append(Map(**panel.where, arms={arm: seen[one.key] for arm, one in panel.first.items()}, **shared))
    return found


def _points(flat: Plane, rows: Narrow) -> list[tuple[float, float]]:
    return [(float(f"{x:.5g}"), float(f"{y:.5g}")) for x, y in flat.place(rows)]
