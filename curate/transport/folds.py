"""How many rows a target asks for: layers grown around a fold of its rows are judged by the transport cost to the others."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.core import Integers
from curate.transport.optimal_transport import blur_of, feasible
from curate.transport.sinkhorn import sinkhorn
from curate.transport.target_layers import Distances, Nearest, layers

_TOLERANCE = 3e-2  # dual values depend on it only to second order

Wide = NDArray[np.float64]


@dataclass(frozen=True)
class Fold:
    """The layers up to the least cost, and the cost with each layer that was tried."""

    layers: list[Integers]
    costs: Wide


def grow_by_fold(distances: Distances, folds: Integers, patience: int) -> list[Fold]:
    """For every fold: layers around its target rows, until the transport cost to the other folds' rows has not fallen for `patience` layers.

    The cost is the dual value of entropic potentials made feasible: a lower bound, a few thousandths below the optimum. Distances are read once a row,
    and the potentials of a layer start the next, so that a step is some ten products of K x M.

    Args:
        distances: of the pool (N) to the target (M).
        folds: (M,) the fold of each target row; where there is one only, it judges itself.
        patience: layers without a new least cost that end the growth.
    """
    nearest = Nearest(distances)
    found = []
    for fold in np.unique(folds):
        inside = np.flatnonzero(folds == fold)
        judges = np.flatnonzero(folds != fold)
        found.append(_grown(distances, nearest, inside, judges if len(judges) else inside, patience))
    return found


def union_of(grown: list[Fold]) -> Integers:
    """The rows of all folds' layers, each once: by layer, then by fold."""
    depth = max(len(fold.layers) for fold in grown)
    rows = np.concatenate([fold.layers[rank] for rank in range(depth) for fold in grown if rank < len(fold.layers)])
    return rows[np.sort(np.unique(rows, return_index=True)[1])]


def _grown(distances: Distances, nearest: Nearest, inside: Integers, judges: Integers, patience: int) -> Fold:
    taken: list[Integers] = []
    seen: list[float] = []
    costs = np.zeros((0, len(judges)), np.float32)
    columns: Wide | None = None
    best = 0
    for layer in layers(nearest, inside, distances.shape[0]):
        if len(layer):
            costs = np.concatenate([costs, distances.of(layer)[:, judges]])
            columns = sinkhorn(costs, blur_of(costs), start=columns, tolerance=_TOLERANCE).columns
            rows, raised = feasible(costs, columns)
            taken.append(layer)
            seen.append(float(rows.mean() + raised.mean()))
            best = int(np.argmin(seen))
        if len(seen) - 1 - best >= patience or len(costs) == distances.shape[0]:
            break
    return Fold(taken[: best + 1], np.asarray(seen))
