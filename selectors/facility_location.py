"""A subset in which every row of the pool finds something close to itself."""

from typing import ClassVar, Literal

from pydantic import Field

from curate.core import Features
from curate.similarity import unit_rows
from curate.submodular.objective import Objective
from curate.submodular.pairwise import PairwiseSelector


class FacilityLocation(PairwiseSelector):
    """Greedy facility location: maximise f(S) = sum_i max_{j in S} s_ij over the pool, s = (1 + cos) / 2.

    f(S) >= (1 - 1/e) OPT for budgets in rows, (1 - 1/e) / 2 for tokens (Nemhauser et al., 1978; Leskovec et al., 2007).
    The certificate's bound holds for this very pool and is usually far tighter; its gap is 0 at the bound and 1 at
    random. A target is not used: the pool represents itself. Up to `dense_limit` rows the full matrix is held,
    4 N^2 bytes, and about N log K of its rows are read; beyond, each row counts only its `neighbours` most
    similar rows (others as 0, in objective and certificate alike), found exactly up to `exact_limit` rows, O(N^2 D) time,
    and approximately beyond, O(N `neighbours`) memory either way.
    """

    name: Literal["facility_location"] = Field(default="facility_location", description="The selector's name in a recipe.")
    needs: ClassVar[frozenset[str]] = frozenset({"vectors"})
    diverse: ClassVar[bool] = True
    heeds_target: ClassVar[bool] = False
    version: ClassVar[int] = 2  # beyond 100,000 rows neighbours are approximate
    kernel: Literal["cosine"] = Field(default="cosine", description="The similarity s: (1 + cosine) / 2.")

    def objective(self, pool: Features, target: Features | None, share: float, *, device: str = "cpu", stored: bool = True) -> Objective:
        return self.facility(unit_rows(pool), device, stored)
