"""Flows: which of the rows taken stand for which target rows, by optimal transport, summed over groups."""

import numpy as np
from numpy.typing import NDArray

from curate.core import Strings
from curate.pipelines.describe_likeness import Likeness
from curate.pipelines.describe_taken import Numbers, Panel, Taken, sample
from curate.report.results import Flow

_ROWS = 1000  # of either side: the network simplex takes about a second for so many
_GROUPS = 8
OTHERS = "others"

Wide = NDArray[np.float64]


def flows(panel: Panel, numbers: Numbers) -> list[Flow]:
    """Of every arm's first seed, controls left out; none where rows cannot be compared, or where all are of one group."""
    _, common = numbers.common(panel.aim)
    if common is None:
        return []
    return [flow for one in panel.first.values() if (flow := _flow(panel, one, common, numbers))]


def _flow(panel: Panel, one: Taken, common: Likeness, numbers: Numbers) -> Flow | None:
    rows = sample(numbers.examples.ids, common.having(one.rows), _ROWS)
    goals = sample(common.target.ids, np.arange(len(common.target)), _ROWS)
    taken, wanted = numbers.examples.groups[rows], common.target.groups[goals]
    if not len(rows) or len(np.unique(taken)) + len(np.unique(wanted)) < 3:
        return None
    mass = transported(1 - common.to_target(rows)[:, goals].astype(np.float64))
    by_taken, names = grouped(mass, taken)
    by_both, targets = grouped(by_taken.T, wanted)
    return Flow(**panel.where, arm=one.arm, taken=names, wanted=targets, mass=by_both.T.tolist())


def transported(costs: Wide) -> Wide:
    """(K, M) the cheapest way to move uniform mass over the rows to uniform mass over the columns, exactly."""
    import ot

    rows, columns = costs.shape
    plan = ot.emd(np.full(rows, 1 / rows), np.full(columns, 1 / columns), np.ascontiguousarray(costs), numItermax=100_000_000)
    return np.asarray(plan, np.float64)


def grouped(mass: Wide, groups: Strings) -> tuple[Wide, list[str]]:
    """The rows of the mass summed by group, the eight heaviest groups first, by name where they weigh the same, all others as one."""
    names, code = np.unique(groups, return_inverse=True)
    sums = np.zeros((len(names), mass.shape[1]))
    np.add.at(sums, code, mass)
    order = np.lexsort((names, -np.round(sums.sum(axis=1), 12)))
    kept, rest = order[:_GROUPS], order[_GROUPS:]
    if not len(rest):
        return sums[kept], names[kept].tolist()
    return np.concatenate([sums[kept], sums[rest].sum(axis=0, keepdims=True)]), [*names[kept].tolist(), OTHERS]
