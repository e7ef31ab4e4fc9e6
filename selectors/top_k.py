"""The best rows by a number: a score, or the similarity to the target."""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from curate.core import Budget, Features, Floats, Selection
from curate.errors import DataError
from curate.interfaces import Context, Selector
from curate.order import best_first, by_id, counts_rows, oriented_scores
from curate.similarity import Metric, similarity


class TopK(Selector):
    """The rows of largest value: the score where the features carry one, else the similarity to the target.

    With a target of groups G the value of row i is max_G mean_{j in G} s_ij, as in LESS (Xia et al., 2024), or
    max_j s_ij. Ties by id. A DataError says what is missing if there is neither a score nor a similarity.
    O(N log N), plus O(N M D) for similarities.
    """

    name: Literal["top_k"] = Field(default="top_k", description="The selector's name in a recipe.")
    needs_one_of: ClassVar[frozenset[str]] = frozenset({"scores", "similarity"})
    seeded: ClassVar[bool] = False
    largest: bool = Field(default=True, description="Take the largest values; false takes the smallest.")
    aggregate: Literal["mean", "max"] = Field(default="mean", description="Over target rows: the best group's mean, or the best single row.")
    metric: Metric = Field(default="cosine", description="Similarity of vectors: cosine, or inner product.")

    def select(self, pool: Features, budget: Budget, *, target: Features | None = None, context: Context = Context()) -> Selection:
        order, rows = by_id(pool)
        values = self._values(rows, target)
        kept = budget.fill(best_first(values), rows)
        return Selection.of(order[kept], gains=values[kept], prefix_consistent=counts_rows(budget))

    def _values(self, pool: Features, target: Features | None) -> Floats:
        if pool.scores is not None:
            return oriented_scores(pool, self.largest)
        if pool.similarity is None and (pool.vectors is None or target is None):
            raise DataError("top_k needs scores, or a similarity to a target, or vectors and a target; the features carry none of them")
        alike = similarity(pool, target, metric=self.metric)
        groups = np.zeros(len(alike), np.str_) if target is None else by_id(target)[1].groups
        if self.aggregate == "max":
            groups = np.arange(len(alike)).astype(np.str_)
        means = [alike[groups == group].mean(axis=0, dtype=np.float64) for group in np.unique(groups)]
        best = np.max(means, axis=0)
        return np.asarray(best if self.largest else -best)
