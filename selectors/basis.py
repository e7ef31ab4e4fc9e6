"""Independent rows that overlap little: the distinct ways to be, each once."""

from hashlib import blake2b
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curate.basis_exchange import Matrix, Overlap, least_overlapping, overlaps
from curate.certificate import random_control
from curate.core import Budget, Certificate, Features, Integers, Selection
from curate.errors import DataError, NumericError
from curate.interfaces import Context, Selector
from curate.order import by_id
from curate.randomness import uniform


class Basis(Selector):
    """WrongSelect: as many linearly independent rows as the budget holds, over the reals, whose pairs overlap least.

        minimise sum over pairs of o(i, j)   subject to   rank of the rows = their number,

    o is Jaccard's |a and b| / |a or b| for vectors of zeros and ones, such as which tests an answer fails, and |cos| for others. The
    search starts at the pivoted QR, and at random bases, and makes the best exchange that keeps the rank until none helps:
    never worse than the QR, without a bound on the overlap. A budget beyond the rank takes a basis of the rows that
    are left, and so on; a row's overlap with the nearest row kept before then counts as often as it has partners in its own basis
    (a sum over all of them would favour near copies). Rows of one basis come by their overlap, least first. Copies wait
    for a row of every kind; rows with too many ones, and rows of zeros, which are in no basis, come last of each round. The
    certificate is the rank of the kept rows against the largest that the budget allows. For a basis of r rows: O(N D r)
    for the QR, O(N (D + r)) an exchange, some 8 N (D + 4 r) bytes.
    """

    name: Literal["basis"] = Field(default="basis", description="The selector's name in a recipe.")
    needs: ClassVar[frozenset[str]] = frozenset({"vectors"})
    diverse: ClassVar[bool] = True
    heeds_target: ClassVar[bool] = False
    overlap: Literal["auto", "jaccard", "cosine"] = Field(
        default="auto", description="How alike two rows are: Jaccard, for zeros and ones only, or |cos|; auto takes Jaccard where it can."
    )
    fullest: float = Field(default=1.0, gt=0, le=1, description="Rows of zeros and ones with a larger share of ones come last; 0.8 was published.")
    restarts: int = Field(default=4, ge=0, le=10_000, description="Random bases that the search starts from, beside that of the pivoted QR.")
    exchanges: int = Field(default=1000, ge=0, le=1_000_000, description="The most exchanges from one start.")
    tolerance: float = Field(default=1e-6, gt=0, lt=1, description="The least pivot, relative to the first, that counts towards the rank.")

    def select(self, pool: Features, budget: Budget, *, target: Features | None = None, context: Context = Context()) -> Selection:
        order, rows = by_id(pool)
        vectors = _matrix(rows)
        kind = self._kind(vectors)
        costs, left = budget.costs(rows)
        wait = self._wait(vectors, kind)
        nearest = np.zeros(len(rows))
        free = np.ones(len(rows), np.bool_)
        kept: list[int] = []
        while (fitting := free & (costs <= left)).any():
            these = np.flatnonzero(fitting & (wait == wait[fitting].min()))
            most = int(np.searchsorted(np.cumsum(np.sort(costs[these])), left, side="right"))
            outside = nearest[these] * min(most, vectors.shape[1])
            layer = these[self._layer(vectors[these], most, kind, outside, rows.ids[these], (context.seed, len(kept)))]
            for row in layer.tolist():
                if costs[row] <= left:
                    kept.append(row)
                    left -= int(costs[row])
                    free[row] = False
                    nearest = np.maximum(nearest, overlaps(vectors, vectors[row], kind))
        chosen = order[np.asarray(kept, np.int64)]
        return Selection.of(chosen, certificate=self.certify(pool, budget, chosen), prefix_consistent=False)

    def certify(self, pool: Features, budget: Budget, rows: Integers, *, target: Features | None = None, context: Context = Context()) -> Certificate | None:
        if len(rows) == 0:
            return None
        vectors = _matrix(pool)
        kind = self._kind(vectors)
        costs, capacity = budget.costs(pool)
        most = int(np.searchsorted(np.cumsum(np.sort(costs)), capacity, side="right"))
        rank = self._rank(vectors)
        objective, bound = float(self._rank(vectors[rows])), float(min(rank, most))
        first = min(rank, len(rows))
        details = {"overlap": _mean_overlap(vectors[rows[:first]], kind), "random_overlap": _mean_overlap(vectors[random_control(pool, budget)[:first]], kind)}
        return Certificate("rank", "max", objective, bound, (bound - objective) / bound if bound else 0.0, details)

    def _layer(self, vectors: Matrix, most: int, kind: Overlap, outside: Matrix, ids: NDArray[np.str_], key: tuple[int, int]) -> Integers:
        """Positions of independent rows, least overlap first; of zeros, all of them in order."""
        if not vectors[0].any():
            return np.arange(len(vectors))
        scales = (10.0 ** (-2 * uniform(key[0], f"basis {key[1]} {turn}", ids)) for turn in range(self.restarts))
        rows, _ = least_overlapping(vectors, most, kind, tolerance=self.tolerance, outside=outside, restarts=scales, exchanges=self.exchanges)
        total = outside[rows] + sum(overlaps(vectors[rows], vectors[row], kind) for row in rows)
        return rows[np.lexsort((rows, np.round(total, 10)))]

    def _kind(self, vectors: Matrix) -> Overlap:
        if self.overlap == "cosine":
            return "cosine"
        binary = bool(((vectors == 0) | (vectors == 1)).all())
        if self.overlap == "jaccard" and not binary:
            raise DataError("basis: overlap: jaccard needs vectors of zeros and ones; take overlap: cosine, or give such vectors")
        return "jaccard" if binary else "cosine"

    def _wait(self, vectors: Matrix, kind: Overlap) -> Integers:
        """(N,) when a row's turn is: three turns for each round of copies, then rows with too many ones, then zeros."""
        seen: dict[bytes, int] = {}
        turn = np.empty(len(vectors), np.int64)
        for place, row in enumerate(vectors + 0.0):
            key = blake2b(row.tobytes(), digest_size=16).digest()
            turn[place] = 3 * seen.get(key, 0)
            seen[key] = seen.get(key, 0) + 1
        full = vectors.mean(axis=1) > self.fullest if kind == "jaccard" else np.zeros(len(vectors), np.bool_)
        return turn + np.where(vectors.any(axis=1), full.astype(np.int64), 2)

    def _rank(self, vectors: Matrix) -> int:
        """By singular values of the rows at length one, of triangles of blocks so that no second matrix of the pool is held."""
        triangle: Matrix = np.zeros((0, vectors.shape[1]))
        for start in range(0, len(vectors), 4096):
            block = vectors[start : start + 4096]
            lengths = np.linalg.norm(block, axis=1, keepdims=True)
            triangle = np.asarray(np.linalg.qr(np.concatenate([triangle, block / np.where(lengths > 0, lengths, 1.0)]), mode="r"))
        values = np.linalg.svd(triangle, compute_uv=False)
        return int(np.count_nonzero(values > self.tolerance * values.max(initial=0.0)))


def _matrix(features: Features) -> Matrix:
    """(N, D) float64; an error names the first row that is not finite."""
    if features.vectors is None:
        raise DataError("basis needs vectors, but the features carry none; score the pool with a scorer whose output is vectors")
    matrix = np.empty(np.shape(features.vectors))
    for start, block in features.blocks():
        matrix[start : start + len(block)] = block
    finite = np.isfinite(matrix).all(axis=1)
    if not finite.all():
        raise NumericError(f"the vector of row {features.ids[np.argmin(finite)]} is not finite; drop the row or score it again")
    return matrix


def _mean_overlap(vectors: Matrix, kind: Overlap) -> float:
    """Over pairs; zero below two rows."""
    n = len(vectors)
    if n < 2:
        return 0.0
    return float(sum(overlaps(vectors[row + 1 :], vectors[row], kind).sum() for row in range(n - 1))) / (n * (n - 1) / 2)
