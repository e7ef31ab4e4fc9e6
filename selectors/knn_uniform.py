"""The rows among the nearest of most target rows, with as many nearest as distance and evenness together prefer."""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from curate.core import Budget, Features, Selection
from curate.interfaces import Context, Selector
from curate.neighbour_mass import Neighbours, by_mass, depth, mass, spread
from curate.order import by_id, counts_rows
from curate.similarity import Metric


class KnnUniform(Selector):
    """TSDS without densities (Liu et al., 2024, Algorithm 1): each target row spreads its mass evenly over its K nearest rows.

    K is the smallest with alpha / C sum_i sum_{k <= K} (d_i,K+1 - d_ik) >= (1 - alpha) M for distances d = 1 - s: it
    minimises alpha / C times the cost of transport from the target plus (1 - alpha) M times the largest mass of a pair. Rows
    are ranked by the mass p they receive, `take: sampled` draws them in proportion to p without replacement. Unlike the
    published code: rows of equal mass, and those without any, come nearest to the target first and not in the order of
    the file, and no row is drawn twice. The gains are p. O(N M D) in one pass over the pool, M L entries of memory for
    lists of L.
    """

    name: Literal["knn_uniform"] = Field(default="knn_uniform", description="The selector's name in a recipe.")
    needs: ClassVar[frozenset[str]] = frozenset({"similarity"})
    alpha: float = Field(default=0.01, ge=1e-6, le=1, description="What closeness weighs against evenness: larger shares mass among fewer rows.")
    scale: float = Field(default=5.0, ge=1e-6, le=1e6, description="C: the scale of distances that alpha is relative to.")
    neighbours: int = Field(default=5000, ge=1, le=1_000_000, description="The most rows that a target row shares its mass among.")
    share: float = Field(default=0.1, gt=0, le=1, description="The same as a share of the pool, rounded down but one at least; the smaller of the two counts.")
    take: Literal["largest", "sampled"] = Field(default="largest", description="The rows of most mass, or a draw in proportion to it.")
    metric: Metric = Field(default="auto", description="Similarity of vectors: cosine, inner product, or auto: as their scorer means it.")

    def select(self, pool: Features, budget: Budget, *, target: Features | None = None, context: Context = Context()) -> Selection:
        order, rows = by_id(pool)
        near = Neighbours.of(rows, target, self.metric, depth(len(rows), self.neighbours, self.share))
        even = np.ones(near.rows.shape)
        received = mass(near, even, spread(near.away, even, (1 / self.alpha - 1) * self.scale * len(even)))
        kept = budget.fill(by_mass(near, received, rows, context.seed if self.take == "sampled" else None), rows)
        return Selection.of(order[kept], gains=received[kept], prefix_consistent=counts_rows(budget))
