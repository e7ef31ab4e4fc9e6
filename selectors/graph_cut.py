"""A subset that is like the pool and unlike itself."""

from typing import ClassVar, Literal

from pydantic import Field

from curate.core import Features
from curate.similarity import unit_rows
from curate.submodular.graph_cut import GraphCut as Cut
from curate.submodular.objective import Objective
from curate.submodular.selector import SubmodularSelector


class GraphCut(SubmodularSelector):
    """Maximise f(S) = sum_{i, j in S} s_ij - w sum_{i in S, j in S} s_ij, i over the pool, s = (1 + cos) / 2, w = `redundancy`.

    Submodular; monotone for w <= 1/2, and for larger w on small sets: row j adds d_j - w (1 + 2 sum_{l in S} s_jl), d_j its summed similarity to
    the pool. Where that cannot be negative on sets of twice the budget, f(S) >= (1 - 1/e) OPT in rows, (1 - 1/e) / 2 in tokens, and every
    prefix gives a bound; elsewhere there is no guarantee and only the bound of the empty prefix is used, which holds for any submodular
    f. Sums of s are dot products with sums of vectors: O(D) a gain, no matrix, O(N D) memory.
    """

    name: Literal["graph_cut"] = Field(default="graph_cut", description="The selector's name in a recipe.")
    needs: ClassVar[frozenset[str]] = frozenset({"vectors"})
    heeds_target: ClassVar[bool] = False
    redundancy: float = Field(default=0.5, ge=0, le=1e6, description="w, the weight of similarity among kept rows; above 1/2 f may fall on large sets.")

    def objective(self, pool: Features, target: Features | None, share: float, *, device: str = "cpu", stored: bool = True) -> Objective:
        return Cut(unit_rows(pool), self.redundancy)
