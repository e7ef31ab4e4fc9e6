"""A subset that covers every row of the pool enough, and none more than enough."""

from typing import ClassVar, Literal

from pydantic import Field

from curate.core import Features
from curate.similarity import unit_rows
from curate.submodular.kernel import Tiles
from curate.submodular.objective import Objective
from curate.submodular.pairwise import PairwiseSelector
from curate.submodular.saturated import SaturatedCoverage as Coverage
from curate.submodular.saturated import SparseSaturatedCoverage


class SaturatedCoverage(PairwiseSelector):
    """Maximise f(S) = sum_i min(sum_{j in S} s_ij, a sum_j s_ij), s = (1 + cos) / 2, a = `saturation` times the budget's share of the pool.

    Every row counts all kept rows that are like it, up to what `saturation` average subsets of this size would give it (Lin and Bilmes,
    2011). f(S) >= (1 - 1/e) OPT for budgets in rows, (1 - 1/e) / 2 for tokens. A gain reads one row of the similarities: O(N) held, O(N D)
    recomputed, O(`neighbours`) beyond `dense_limit`. Because a follows the budget, a smaller budget is no prefix of a larger one.
    """

    name: Literal["saturated_coverage"] = Field(default="saturated_coverage", description="The selector's name in a recipe.")
    needs: ClassVar[frozenset[str]] = frozenset({"vectors"})
    heeds_target: ClassVar[bool] = False
    saturation: float = Field(
        default=1.0, gt=0, le=1e6, description="Enough, in units of what an average subset of this size gives a row; large: never enough."
    )

    @property
    def _nested(self) -> bool:
        return False

    def objective(self, pool: Features, target: Features | None, share: float, *, device: str = "cpu", stored: bool = True) -> Objective:
        vectors, enough = unit_rows(pool), min(1.0, self.saturation * share)
        route = self.route(len(vectors))
        if route == "neighbours":
            return SparseSaturatedCoverage(self.graph(vectors, device), enough)
        kernel = Tiles(vectors)
        return Coverage(kernel.whole() if route == "dense" and stored else kernel, enough)
