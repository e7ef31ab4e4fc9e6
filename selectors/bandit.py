"""Rows of the clusters that turn out to be most like the target, found without comparing every row with it."""

from collections.abc import Callable
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curate.core import Budget, Features, Floats, Integers, Selection
from curate.errors import DataError, NumericError
from curate.interfaces import Context, Selector
from curate.order import best_first, by_id
from curate.randomness import draw, row_keys
from curate.similarity import unit_rows
from curate.spherical_kmeans import Clusters, spherical_kmeans
from curate.ucb import Arms

Influence = Callable[[Integers], NDArray[np.float64]]  # rows (B,) -> their mean similarity to the target (B,)


class Bandit(Selector):
    """Quad (2025): clusters as the arms of a bandit, whose reward is the influence of the rows drawn from them.

    Spherical k-means cuts the pool into arms. A pull draws a few unseen rows of the arm with the largest upper confidence bound
    (curate/ucb.py) and scores each: its mean similarity to the target. Rows are scored until their cost reaches `oversample`
    times the budget, and the best of the scored rows are kept; a row that was not scored is never kept. `alpha` 0 is greedy, a large
    `alpha` pulls all arms alike. The number of scored rows is the cost; the curve `regret` compares the arms pulled with the best order of
    arms in hindsight, by their mean rewards. No certificate: it is a sampling method. Reads the similarity of scored rows only.
    O(N C D) for C clusters, the root of the number of pulls by default; O(scored rows (M or D + C)) for the search; O(N D) memory.

    Zhang et al., "Harnessing Diversity for Important Data Selection in Pretraining Large Language Models", ICLR 2025. Unlike its code: no constant is
    taken off the rewards, neighbours' rewards fade as an arm's own come in, and what is kept is what was scored.
    """

    name: Literal["bandit"] = Field(default="bandit", description="The selector's name in a recipe.")
    needs: ClassVar[frozenset[str]] = frozenset({"vectors"})
    clusters: int | None = Field(default=None, ge=1, le=100_000, description="How many arms; null: the root of the number of pulls.")
    draws: int = Field(default=10, ge=1, le=100_000, description="Rows that one pull scores.")
    oversample: float = Field(default=2.0, ge=1, le=1e6, description="Cost of the scored rows in budgets; 1 keeps every row that it scores.")
    alpha: float = Field(default=1.0, ge=0, le=1e6, description="How much to explore, in standard deviations of the rewards.")
    neighbour_distance: float = Field(default=0.2, ge=0, le=2, description="Arms whose centroids are nearer lend each other rewards; 0: none do.")

    def select(self, pool: Features, budget: Budget, *, target: Features | None = None, context: Context = Context()) -> Selection:
        order, rows = by_id(pool)
        vectors = unit_rows(rows)
        influence = _influence(rows, vectors, target)
        costs, capacity = budget.costs(rows)
        fits = costs <= capacity
        if not fits.any():
            return Selection.of(np.zeros(0, np.int64), prefix_consistent=False)
        allowed = self.oversample * capacity
        pulls = min(allowed / max(float(costs[fits].mean()), 1.0), float(fits.sum())) / self.draws
        found = spherical_kmeans(vectors, self.clusters or max(1, round(pulls**0.5)), row_keys(context.seed, "bandit clusters", rows.ids))
        search = Search(found, draw(row_keys(context.seed, "bandit draws", rows.ids)), costs, influence, self)
        search.only(fits)
        while search.going and search.spent < allowed:
            search.pull(allowed - search.spent)
        kept = self._keep(search, costs, capacity)
        rewards = dict(zip(search.scored, search.rewards, strict=True))
        return Selection.of(order[kept], gains=np.asarray([rewards[row] for row in kept]), curves=search.curves(), prefix_consistent=False)

    def _keep(self, search: "Search", costs: Integers, capacity: int) -> list[int]:
        """The best scored rows that fit; while a row that was never scored would still fit, the search goes on among those."""
        kept: list[int] = []
        left, new = capacity, 0
        while True:
            for row in search.best(new):
                if costs[row] <= left:
                    kept.append(row)
                    left -= int(costs[row])
            new = len(search.scored)
            search.only(costs <= left)
            if not search.going:
                return kept
            search.pull(left)


class Search:
    """The rows scored so far, in order, with their rewards; and the rows of each arm that are still to be drawn."""

    def __init__(self, found: Clusters, at: Floats, costs: Integers, influence: Influence, fields: Bandit) -> None:
        by_arm = np.lexsort((at, found.labels))
        self._sizes = np.bincount(found.labels)
        self._queues = np.split(by_arm, np.cumsum(self._sizes)[:-1])
        self._costs, self._influence, self._draws = costs, influence, fields.draws
        apart, reach = found.distances(), fields.neighbour_distance
        weights = np.clip(1 - apart / reach, 0, 1) if reach > 0 else np.zeros(apart.shape)
        self._arms = Arms(weights, alpha=fields.alpha, trust=fields.draws)
        self.scored: list[int] = []
        self.rewards: list[float] = []
        self.spent = 0  # cost of the scored rows
        self._pulled: list[int] = []  # the arm of each scored row

    def only(self, wanted: NDArray[np.bool_]) -> None:
        """Leave out, from now on, the rows that are not wanted."""
        self._queues = [queue[wanted[queue]] for queue in self._queues]

    @property
    def going(self) -> bool:
        """Whether a row is left to draw."""
        return any(len(queue) for queue in self._queues)

    def pull(self, allowed: float) -> None:
        """Score the next rows of the most promising arm, ties to the lower one, up to the row whose cost reaches what is allowed."""
        left = np.asarray([len(queue) > 0 for queue in self._queues])
        arm = int(np.argmax(np.where(left, self._arms.index(), -np.inf)))
        reached = np.searchsorted(np.cumsum(self._costs[self._queues[arm][: self._draws]]), allowed)
        rows, self._queues[arm] = np.split(self._queues[arm], [min(int(reached) + 1, self._draws)])
        rewards = self._influence(rows)
        self._arms.record(arm, rewards)
        self.spent += int(self._costs[rows].sum())
        self.scored += rows.tolist()
        self.rewards += rewards.tolist()
        self._pulled += [arm] * len(rows)

    def best(self, start: int) -> list[int]:
        """The rows scored from this place on, largest reward first, ties by the lower row."""
        rows = np.asarray(self.scored[start:], np.int64)
        order = np.lexsort((rows, -np.asarray(self.rewards[start:])))
        return [int(row) for row in rows[order]]

    def curves(self) -> dict[str, Floats]:
        """Over the scored rows: the reward, the arm, and the regret against the best order of the arms, by their mean rewards at the end."""
        means = self._arms.means()
        seen = np.flatnonzero(self._arms.counts)
        best_order = seen[best_first(means[seen])]
        best = np.repeat(means[best_order], self._sizes[best_order])[: len(self.scored)]
        arm = np.asarray(self._pulled, np.int64)
        return {"reward": np.asarray(self.rewards), "arm": arm.astype(np.float64), "regret": np.cumsum(best - means[arm])}


def _influence(pool: Features, vectors: NDArray[np.float32], target: Features | None) -> Influence:
    """What scores rows of the pool: their given similarities, or else cosines to the target's vectors."""
    given = pool.similarity
    if given is not None:
        wide = np.shape(given)[1] if len(np.shape(given)) == 2 else 0
        if wide == 0 or (target is not None and wide != len(target)):
            wanted = "at least one column" if target is None else f"{len(target)} columns, one per target row"
            raise DataError(f"similarity has shape {np.shape(given)}; it needs one row per pool row and {wanted}")
        columns = np.arange(wide) if target is None else np.argsort(target.ids, kind="stable")
        return lambda rows: _finite(np.asarray(given[rows], np.float64)[:, columns].mean(axis=1), rows, pool)
    if target is None or len(target) == 0 or target.vectors is None:
        raise DataError("bandit needs a target: vectors of pool and target by the same scorer, or a similarity to the target beside the pool's vectors")
    if vectors.shape[1] != np.shape(target.vectors)[1]:
        raise DataError(f"pool vectors have width {vectors.shape[1]}, target vectors {np.shape(target.vectors)[1]}; score both with the same scorer")
    goal = unit_rows(by_id(target)[1]).mean(0, dtype=np.float64)
    return lambda rows: np.einsum("bd,d->b", vectors[rows].astype(np.float64), goal)


def _finite(values: NDArray[np.float64], rows: Integers, pool: Features) -> NDArray[np.float64]:
    wrong = ~np.isfinite(values)
    if wrong.any():
        raise NumericError(f"similarity of row {pool.ids[rows[np.argmax(wrong)]]} is not finite; drop the row or score it again")
    return values
