"""A subset with some of every feature."""

from typing import ClassVar, Literal

from pydantic import Field

from curate.core import Features
from curate.submodular.feature_based import FeatureBased as Totals
from curate.submodular.objective import Objective
from curate.submodular.selector import SubmodularSelector


class FeatureBased(SubmodularSelector):
    """Maximise f(S) = sum_d g(sum_{j in S} m_jd), g concave: the more the kept rows have of a feature, the less another row of it adds.

    m_jd >= 0 are the vectors' numbers; a negative number counts for a second feature, max(-x, 0). f(S) >= (1 - 1/e) OPT for budgets in
    rows, (1 - 1/e) / 2 for tokens (Wei et al., 2014). O(D) a gain, O(N) memory beyond the vectors, which are read where they are: no pair
    of rows is ever compared, so pools of any size will do.
    """

    name: Literal["feature_based"] = Field(default="feature_based", description="The selector's name in a recipe.")
    needs: ClassVar[frozenset[str]] = frozenset({"vectors"})
    heeds_target: ClassVar[bool] = False
    concave: Literal["root", "log"] = Field(default="root", description="g: root is the square root, whatever the scale; log is log(1 + total).")

    def lasting(self, pool: Features) -> bool:
        return True

    def objective(self, pool: Features, target: Features | None, share: float, *, device: str = "cpu", stored: bool = True) -> Objective:
        return Totals(pool, self.concave)
