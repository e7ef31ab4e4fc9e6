"""The best rows by a number: a score, or the similarity to the target."""

from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curate.core import Budget, Features, Floats, Selection
from curate.errors import ConfigError, DataError
from curate.interfaces import Context, Selector
from curate.order import best_first, by_id, counts_rows, oriented_scores
from curate.similarity import Metric, Similarities

Weight = Annotated[float, Field(gt=0, le=1e6)]


class TopK(Selector):
    """The rows of largest value: the score where the features carry one, else the similarity to the target.

    With a target of groups G the value of row i is, as in LESS (Xia et al., 2024),

        max_G w_G sum_{j in G} w_j s_ij / sum_{j in G} w_j,    or max_j w_G(j) w_j s_ij for `aggregate: max`,

    with all weights w one unless `target_weights` says otherwise. It is the set of largest sum of values, exactly, for a
    budget in rows. Ties by id. A DataError says what is missing if there is neither a score nor a similarity.
    O(N log N), plus O(N M D) in one pass for similarities; a number per row and one block of memory.
    """

    name: Literal["top_k"] = Field(default="top_k", description="The selector's name in a recipe.")
    needs_one_of: ClassVar[frozenset[str]] = frozenset({"scores", "similarity"})
    seeded: ClassVar[bool] = False
    largest: bool = Field(default=True, description="Take the largest values; false takes the smallest.")
    aggregate: Literal["mean", "max"] = Field(default="mean", description="Over target rows: the best group's mean, or the best single row.")
    target_weights: dict[str, Weight] = Field(
        default={}, description="By a target group, what its similarity is multiplied by; by the id of a target row, its share of its group's mean."
    )
    metric: Metric = Field(default="auto", description="Similarity of vectors: cosine, inner product, or auto: as their scorer means it.")

    def select(self, pool: Features, budget: Budget, *, target: Features | None = None, context: Context = Context()) -> Selection:
        order, rows = by_id(pool)
        values = self._values(rows, target)
        ranked = best_first(values, budget.costs(rows)[1] if counts_rows(budget) else None)
        kept = budget.fill(ranked, rows)
        return Selection.of(order[kept], gains=values[kept], prefix_consistent=counts_rows(budget))

    def _values(self, pool: Features, target: Features | None) -> Floats:
        if pool.scores is not None:
            return oriented_scores(pool, self.largest)
        if pool.similarity is None and (pool.vectors is None or target is None):
            raise DataError("top_k needs scores, or a similarity to a target, or vectors and a target; the features carry none of them")
        alike = Similarities(pool, target, metric=self.metric)
        groups, of_group, of_row = self._weights(alike.shape[1], None if target is None else by_id(target)[1])
        columns = [np.flatnonzero(groups == group) for group in np.unique(groups)]
        best = np.empty(len(pool))
        for start, block in alike.blocks():
            wide = block.astype(np.float64)
            found = wide * of_row * of_group if self.aggregate == "max" else np.stack([_mean(wide, of_row, mine) * of_group[mine[0]] for mine in columns], 1)
            best[start : start + len(block)] = found.max(axis=1)
        return best if self.largest else -best

    def _weights(self, goals: int, target: Features | None) -> tuple[NDArray[np.str_], Floats, Floats]:
        """(M,) the group of each target row, its group's weight and its own."""
        if target is None:
            if self.target_weights:
                raise DataError("top_k.target_weights name target rows or groups, but no target was given; give one, or leave the weights out")
            return np.zeros(goals, np.str_), np.ones(goals), np.ones(goals)
        of_rows = target.groups if len(target.groups) else np.full(goals, "all")
        ids, groups = set(target.ids.tolist()), set(of_rows.tolist())
        for name in self.target_weights:
            if (name in ids) == (name in groups):
                wrong = "both a target row and a target group" if name in ids else f"no target row and none of its groups ({', '.join(sorted(groups)[:20])})"
                raise ConfigError(f"top_k.target_weights: {name!r} is {wrong}; name the groups or the ids of the target's rows")
        weight = self.target_weights
        of_group = np.asarray([weight.get(group, 1.0) if group in groups - ids else 1.0 for group in of_rows.tolist()])
        of_row = np.asarray([weight.get(row, 1.0) for row in target.ids.tolist()])
        return of_rows, of_group, of_row


def _mean(wide: NDArray[np.float64], weights: Floats, columns: NDArray[np.int64]) -> NDArray[np.float64]:
    share = weights[columns]
    return np.asarray((np.ascontiguousarray(wide[:, columns]) * share).sum(axis=1) / share.sum())
