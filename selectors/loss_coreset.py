"""Few weighted rows on which models lose as much as on all."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curate.caratheodory import Matrix, caratheodory, even_weights
from curate.certificate import gap_to_bound, random_control
from curate.core import Budget, Certificate, Features, Integers, Selection
from curate.errors import DataError, NumericError
from curate.interfaces import Context, Selector
from curate.linear_models import LinearModel
from curate.order import best_first, by_id, oriented_scores
from curate.randomness import uniform

_FLAT = 1e-7  # of the mean loss: losses vary less than this along a direction only by rounding


@dataclass(frozen=True)
class _Problem:
    """Rows with labels; vectors are centred, scaled to mean square length one, and get a column of ones."""

    rows: Features
    labels: Matrix
    model: LinearModel
    centre: Matrix
    scale: float

    @classmethod
    def of(cls, rows: Features, labels: Matrix, model: LinearModel) -> Self:
        total, square, n = np.zeros(()), 0.0, max(len(rows), 1)
        for start, block in rows.blocks():
            finite = np.isfinite(block).all(axis=1)
            if not finite.all():
                raise NumericError(f"the vector of row {rows.ids[start + int(np.argmin(finite))]} is not finite; drop the row or score it again")
            total = total + block.sum(axis=0, dtype=np.float64)
        centre = np.asarray(total / n)
        for _, block in rows.blocks():
            square += float(((block - centre) ** 2).sum())
        return cls(rows, labels, model, centre, float(np.sqrt(square / n)) or 1.0)

    @property
    def width(self) -> int:
        return len(self.centre) + 1

    def blocks(self) -> Iterator[tuple[Matrix, Matrix, Matrix]]:
        n = len(self.rows)
        for start, block in self.rows.blocks():
            yield self._ready(block), self.labels[start : start + len(block)], np.full(len(block), 1 / n)

    def fit(self, rows: Integers, weights: Matrix) -> Matrix:
        return self.model.fit(self._ready(np.asarray(self.rows.vectors[rows], np.float32)), self.labels[rows], weights)

    def losses(self, theta: Matrix) -> Matrix:
        return np.concatenate([self.model.losses(x, y, theta) for x, y, _ in self.blocks()])

    def _ready(self, block: NDArray[np.float32]) -> Matrix:
        return np.concatenate([(block - self.centre) / self.scale, np.ones((len(block), 1))], axis=1)


@dataclass(frozen=True)
class _Columns:
    """Losses (N, t), and the principal components (N, c), with variance one, of losses over their means; the largest first."""

    losses: Matrix
    values: Matrix
    means: Matrix  # (c,) of the values, zero but for rounding

    @classmethod
    def of(cls, losses: Matrix) -> Self:
        means = losses.mean(axis=0)
        relative = losses / np.where(means > 0, means, 1.0)
        centred = relative - relative.mean(axis=0)
        spread, axes = np.linalg.eigh(centred.T @ centred / max(len(losses), 1))
        spread = np.sqrt(np.maximum(spread[::-1], 0.0))
        varied = spread > _FLAT * max(1.0, float(spread.max(initial=0.0)))
        values = centred @ axes[:, ::-1][:, varied] / spread[varied]
        return cls(losses, values, values.mean(axis=0))


class LossCoreset(Selector):
    """AutoCoreset (Maalouf et al., 2023) for a linear model of the vectors: weights w on few rows, sum w = N, with

        sum over kept rows of w_i loss_i(theta) = sum over all rows of loss_i(theta)   for every fitted theta, within 1e-6,

    by Caratheodory's theorem with a column of ones. The thetas are those of models fitted to random rows, then of the model fitted to
    the coreset, again and again; the coreset whose model loses least on all rows is kept. Ridge regression to the scores, or softmax
    regression to the groups. The pool, in the order of label and loss, is cut into as many parts as the budget has room for bases,
    and each part is reduced to its share of the budget with its own sums kept, so that every budget is filled exactly with positive
    weights. Then all weights are made as even as the sums allow. Budgets below the number of sums keep those along which
    losses vary most. The certificate is F, the mean loss on all rows
    plus penalty, of the model fitted to the coreset; no weights on any rows can be below the F of the model fitted
    to all. O((rounds + passes of that fit) N D classes + N t), 8 N t bytes for t thetas.
    """

    name: Literal["loss_coreset"] = Field(default="loss_coreset", description="The selector's name in a recipe.")
    needs: ClassVar[frozenset[str]] = frozenset({"vectors"})
    heeds_target: ClassVar[bool] = False
    label: Literal["auto", "score", "group"] = Field(
        default="auto", description="What the model predicts: the score, by ridge regression, or the group, by softmax; auto: the score if there is one."
    )
    penalty: float = Field(default=1e-3, ge=1e-6, le=1e3, description="Of the squared parameters, for vectors of mean square length one.")
    queries: int = Field(default=3, ge=1, le=100, description="Models fitted to random rows before the first coreset.")
    rounds: int = Field(default=60, ge=1, le=1000, description="The most coresets that are tried.")
    patience: int = Field(default=20, ge=1, le=1000, description="Coresets in a row without a better one after which it stops; 5 was published.")

    def select(self, pool: Features, budget: Budget, *, target: Features | None = None, context: Context = Context()) -> Selection:
        order, rows = by_id(pool)
        problem = self._problem(rows)
        if len(budget.fill(np.arange(len(rows)), rows)) == 0:
            return Selection.of(np.zeros(0, np.int64), prefix_consistent=False)
        columns, kept, curve = self._search(problem, budget, context.seed)
        weights = even_weights(columns.values[kept], columns.means)[0]
        best = np.lexsort((kept, -np.round(weights * len(kept), 9)))
        certificate = self._certificate(problem, columns, budget, kept)
        return Selection.of(
            order[kept[best]],
            weights=np.maximum(weights[best] * len(rows), 1e-30),
            certificate=certificate,
            prefix_consistent=False,
            curves={"loss": curve},
        )

    def certify(self, pool: Features, budget: Budget, rows: Integers, *, target: Features | None = None, context: Context = Context()) -> Certificate | None:
        if len(rows) == 0:
            return None
        order, held = by_id(pool)
        problem = self._problem(held)
        columns = self._search(problem, budget, context.seed)[0]
        return self._certificate(problem, columns, budget, np.flatnonzero(np.isin(order, rows)))

    def _problem(self, rows: Features) -> _Problem:
        kind = self.label
        if kind == "auto":
            kind = "group" if rows.scores is None else "score"
        if kind == "score":
            scores = oriented_scores(rows, largest=True)
            scaled = scores / max(float(np.abs(scores).max(initial=0.0)), 1e-300)
            spread = float(scaled.std()) if len(scores) else 0.0
            labels, classes = (scaled - scaled.mean()) / spread if spread > 0 else np.zeros(len(scores)), 0
        else:
            names, found = np.unique(rows.groups, return_inverse=True)
            if len(rows) > 1 and len(names) < 2:
                raise DataError("loss_coreset: there is nothing to predict; give scores, or rows of two groups at least")
            labels, classes = found.astype(np.float64), len(names)
        return _Problem.of(rows, labels, LinearModel(classes, self.penalty))

    def _search(self, problem: _Problem, budget: Budget, seed: int) -> tuple[_Columns, Integers, NDArray[np.float64]]:
        """The sums to keep, the rows that keep them, and the smallest F so far after every round."""
        ids = problem.rows.ids
        drawn = [budget.fill(best_first(uniform(seed, f"loss_coreset query {turn}", ids)), problem.rows) for turn in range(self.queries)]
        thetas = [problem.fit(rows, np.full(len(rows), 1 / len(rows))) for rows in drawn]
        losses = np.stack([problem.losses(theta) for theta in thetas], axis=1)
        spare = best_first(uniform(seed, "loss_coreset spare", ids))
        best = np.inf, _Columns.of(losses), np.zeros(0, np.int64)
        curve: list[float] = []
        stale = 0
        while len(curve) < self.rounds and stale < self.patience:
            columns = _Columns.of(losses)
            kept = _reduced(columns, problem.labels, problem.rows, budget, spare)
            theta = problem.fit(kept, even_weights(columns.values[kept], columns.means)[0])
            fresh = problem.losses(theta)
            value = float(fresh.mean()) + self.penalty / 2 * float(np.sum(theta**2))
            stale += 1
            if value < best[0]:
                best, stale = (value, columns, kept), 0
            curve.append(best[0])
            losses = np.concatenate([losses, fresh[:, None]], axis=1)
        return best[1], best[2], np.asarray(curve)

    def _certificate(self, problem: _Problem, columns: _Columns, budget: Budget, kept: Integers) -> Certificate:
        weights, held = even_weights(columns.values[kept], columns.means)
        control = random_control(problem.rows, budget)
        theta = problem.fit(kept, weights)
        blind = problem.fit(control, np.full(len(control), 1 / len(control)))
        full = problem.model.fit_blocks(problem.blocks, problem.width, theta)
        objective, random = (problem.model.objective(problem.blocks, each)[0] for each in (theta, blind))
        bound = problem.model.least(problem.blocks, full)
        sums = columns.losses.mean(axis=0)
        error = np.abs(weights @ columns.losses[kept] - sums) / np.where(sums > 0, sums, 1.0)
        details = {"random": random, "sum_error": float(error.max()), "sums": float(columns.losses.shape[1]), "directions_kept": float(held)}
        return Certificate("coreset_loss", "min", objective, bound, gap_to_bound(objective, bound, random), details)


def _reduced(columns: _Columns, labels: Matrix, rows: Features, budget: Budget, spare: Integers) -> Integers:
    """Rows, in order, that fill the budget: Caratheodory in parts, then on all that is left until it fits, then spare rows."""
    costs, capacity = budget.costs(rows)
    usable = np.flatnonzero(costs <= capacity)
    count = min(len(usable), max(1, int(capacity / max(float(costs[usable].mean()), 1e-9))))
    parts = max(1, count // (columns.values.shape[1] + 1))
    order = usable[np.lexsort((usable, columns.losses[usable].mean(axis=1), labels[usable]))]
    chosen, weights = [], []
    for part, quota in zip(np.array_split(order, parts), np.array_split(np.arange(count), parts), strict=True):
        left, weight = caratheodory(columns.values[part, : max(len(quota) - 1, 0)], np.ones(len(part)), len(quota))
        chosen.append(part[left])
        weights.append(weight)
    kept, weight = np.concatenate(chosen), np.concatenate(weights)
    while costs[kept].sum() > capacity:
        size = max(1, min(len(kept) - 1, int(len(kept) * capacity / costs[kept].sum())))
        left, weight = caratheodory(columns.values[kept, : size - 1], weight, size)
        kept = kept[left]
    return np.sort(budget.fill(np.concatenate([kept, spare[~np.isin(spare, kept)]]), rows))
