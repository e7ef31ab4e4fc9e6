"""The rows that unbalanced transport from the target puts most mass on, in closed form."""

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curate.core import Budget, Features, Selection
from curate.errors import NumericError
from curate.interfaces import Context, Selector
from curate.order import best_first, by_id, counts_rows
from curate.similarity import Metric, Similarities


class SoftmaxMass(Selector):
    """Every target row spreads one unit of mass over the pool, most of it near by; the rows that gather most are kept.

        p_i = mean_j exp(-C_ij / epsilon) / sum_k exp(-C_kj / epsilon),   C = (1 - s) / 2

    This is the mass that each pool row receives in entropic transport whose target side is fixed and whose pool side is
    free, the unbalanced transport of "A Critical Look at Targeted Instruction Selection" (marginal penalties of infinity and
    1e-4 there) in the limit, without Sinkhorn iterations. For a budget in rows the kept rows hold the most mass, exactly. A
    small epsilon goes to each target row's nearest rows, a large one to the mean similarity. The gains are p. O(N M D) for
    each of two passes over the pool; log-domain sums, a number per row and one block of memory.
    """

    name: Literal["softmax_mass"] = Field(default="softmax_mass", description="The selector's name in a recipe.")
    needs: ClassVar[frozenset[str]] = frozenset({"similarity"})
    seeded: ClassVar[bool] = False
    epsilon: float = Field(default=0.01, ge=1e-6, le=1e6, description="How far mass spreads: the entropic regularisation, in units of (1 - similarity) / 2.")
    metric: Metric = Field(default="auto", description="Similarity of vectors: cosine, inner product, or auto: as their scorer means it.")

    def select(self, pool: Features, budget: Budget, *, target: Features | None = None, context: Context = Context()) -> Selection:
        order, rows = by_id(pool)
        mass = log_mass(Similarities(rows, target, metric=self.metric), self.epsilon)
        ranked = best_first(mass, budget.costs(rows)[1] if counts_rows(budget) else None)
        kept = budget.fill(ranked, rows)
        return Selection.of(order[kept], gains=np.exp(mass[kept]), prefix_consistent=counts_rows(budget))


def log_mass(alike: Similarities, epsilon: float) -> NDArray[np.float64]:
    """(N,) log p; the logarithm tells apart rows whose mass is below the smallest float."""
    n, m = alike.shape
    peak, total = np.full(m, -np.inf), np.zeros(m)
    for _, block in alike.blocks():
        exponent = _exponents(block, epsilon)
        higher = np.maximum(peak, exponent.max(axis=0))
        total = total * np.exp(peak - higher) + np.exp(exponent - higher).sum(axis=0)
        peak = higher
    normaliser = peak + np.log(np.maximum(total, 1.0))  # the peak's own term is one
    mass = np.empty(n)
    for start, block in alike.blocks():
        exponent = _exponents(block, epsilon) - normaliser
        most = exponent.max(axis=1)
        mass[start : start + len(block)] = most + np.log(np.exp(exponent - most[:, None]).mean(axis=1))
    return mass


def _exponents(block: NDArray[np.floating], epsilon: float) -> NDArray[np.float64]:
    """(B, M) -C / epsilon but for a constant."""
    if float(np.abs(block).max(initial=0.0)) > 1e290:
        raise NumericError("softmax_mass: similarities beyond 1e290 cannot be told apart; scale them")
    return block.astype(np.float64) / (2 * epsilon)
