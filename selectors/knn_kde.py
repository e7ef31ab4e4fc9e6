"""The rows among the nearest of most target rows, where rows that are nearly the same share one row's mass."""

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curate.core import Budget, Features, Integers, Selection
from curate.errors import DataError
from curate.interfaces import Context
from curate.neighbour_mass import MassSelector
from curate.order import by_id, counts_rows
from curate.similarity import unit_rows

_TILE = 1024


class KnnKde(MassSelector):
    """TSDS (Liu et al., 2024, Algorithm 2): each target row spreads its mass over its nearest rows, thinly where they crowd.

    A neighbour of density rho_j receives 1 / (M s rho_j), rho_j = sum_i max(0, 1 - |x_i - x_j|^2 / sigma^2) over all
    rows that are on some target row's list, itself among them: c copies of a row share what it would receive alone. s grows
    until closeness, alpha / C times the cost of transport with distances 1 - cos, outweighs (1 - alpha) M times the
    largest rho_j g_ij. Unlike the published code: densities count all rows of the lists and not the 1000 nearest, by exact
    search; the last neighbour takes what is left of a target row's mass also where it is the first, which there could pass
    1 / M; equal rows come nearest first, and no row is drawn twice. O(N M D) in one pass over the pool and O(P^2 D) for the
    P <= M L rows of the lists; P D and M L entries of memory.
    """

    name: Literal["knn_kde"] = Field(default="knn_kde", description="The selector's name in a recipe.")
    needs: ClassVar[frozenset[str]] = frozenset({"vectors"})
    sigma: float = Field(default=0.75, ge=0.01, le=2, description="How near unit rows crowd each other: the kernel's width, a distance of at most 2.")

    def select(self, pool: Features, budget: Budget, *, target: Features | None = None, context: Context = Context()) -> Selection:
        if pool.vectors is None:
            raise DataError("knn_kde needs vectors of the pool to tell how rows crowd; score it with a scorer whose output is vectors")
        order, rows = by_id(pool)
        near = self.near(rows, target, "cosine")
        listed, where = np.unique(near.rows, return_inverse=True)
        density = densities(_units(rows, listed), self.sigma)[where].reshape(near.rows.shape)
        kept, gains = self.kept(near, density, rows, budget, context.seed)
        return Selection.of(order[kept], gains=gains, prefix_consistent=counts_rows(budget))


def _units(pool: Features, rows: Integers) -> NDArray[np.float32]:
    return unit_rows(Features(pool.ids[rows], pool.lengths[rows], vectors=np.asarray(pool.vectors[rows])))


def densities(unit: NDArray[np.float32], sigma: float) -> NDArray[np.float64]:
    """(P,) sum_i max(0, 1 - |x_i - x_j|^2 / sigma^2) of unit rows; cosines and sums are rounded so that no tile decides between equal rows."""
    total = np.zeros(len(unit))
    for start in range(0, len(unit), _TILE):
        mine = unit[start : start + _TILE].astype(np.float64)
        for other in range(start, len(unit), _TILE):
            cosine = (mine @ unit[other : other + _TILE].astype(np.float64).T).astype(np.float32)
            kernel = np.maximum(1 - (2 - 2 * cosine.astype(np.float64)) / sigma**2, 0)
            total[start : start + len(mine)] += kernel.sum(axis=1)
            if other > start:
                total[other : other + kernel.shape[1]] += kernel.sum(axis=0)
    return total.astype(np.float32).astype(np.float64)
