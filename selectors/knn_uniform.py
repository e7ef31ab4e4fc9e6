"""The rows among the nearest of most target rows, with as many nearest as distance and evenness together prefer."""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from curate.core import Budget, Features, Selection
from curate.interfaces import Context
from curate.neighbour_mass import MassSelector
from curate.order import by_id, counts_rows
from curate.similarity import Metric


class KnnUniform(MassSelector):
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
    metric: Metric = Field(default="auto", description="Similarity of vectors: cosine, inner product, or auto: as their scorer means it.")

    def select(self, pool: Features, budget: Budget, *, target: Features | None = None, context: Context = Context()) -> Selection:
        order, rows = by_id(pool)
        near = self.near(rows, target, self.metric)
        kept, gains = self.kept(near, np.ones(near.rows.shape), rows, budget, context.seed)
        return Selection.of(order[kept], gains=gains, prefix_consistent=counts_rows(budget))
