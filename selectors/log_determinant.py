"""A subset whose vectors span a large volume."""

from typing import ClassVar, Literal

from pydantic import Field

from curate.core import Features
from curate.similarity import unit_rows
from curate.submodular.log_determinant import LogDeterminant as Volume
from curate.submodular.objective import Objective
from curate.submodular.selector import SubmodularSelector


class LogDeterminant(SubmodularSelector):
    """Maximise f(S) = log det(I + a X_S X_S^T) over unit rows, a = `scale`: rows that are not combinations of one another.

    Twice the information that labels of S with noise variance 1 / a carry about a linear model, and the log-probability of S under a
    determinantal point process plus I (Krause and Guestrin, 2005; Kulesza and Taskar, 2012). f(S) >= (1 - 1/e) OPT for budgets in
    rows, (1 - 1/e) / 2 for tokens. O(D^2) a gain and a step, O(N D) memory.
    """

    name: Literal["log_determinant"] = Field(default="log_determinant", description="The selector's name in a recipe.")
    needs: ClassVar[frozenset[str]] = frozenset({"vectors"})
    heeds_target: ClassVar[bool] = False
    scale: float = Field(default=1.0, gt=0, le=1e6, description="a: the larger, the more a direction counts that hardly any kept row has.")

    def lasting(self, pool: Features) -> bool:
        return True

    def objective(self, pool: Features, target: Features | None, share: float, *, device: str = "cpu", stored: bool = True) -> Objective:
        return Volume(unit_rows(pool), self.scale)
