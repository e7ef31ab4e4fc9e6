"""As few rows as reach as much as possible."""

from typing import ClassVar, Literal

from pydantic import Field

from curate.core import Features
from curate.similarity import unit_rows
from curate.submodular.feature_based import FeatureBased
from curate.submodular.objective import Objective
from curate.submodular.pairwise import PairwiseSelector


class SetCover(PairwiseSelector):
    """Maximum coverage: f(S) = how many pool rows have a kept row with cosine >= `threshold`, or how many columns are positive in a kept row.

    f(S) >= (1 - 1/e) OPT for budgets in rows, and no polynomial algorithm does better (Feige, 1998); (1 - 1/e) / 2 for tokens. `rows` is
    facility location with similarities of 0 and 1, and costs the same; beyond `dense_limit` a row can be covered only by
    its `neighbours` most similar rows. `columns` reads sparse features, such as word counts, in O(D) a gain and O(N) memory. Once all
    is covered, every further row adds nothing and the lowest ids are taken.
    """

    name: Literal["set_cover"] = Field(default="set_cover", description="The selector's name in a recipe.")
    needs: ClassVar[frozenset[str]] = frozenset({"vectors"})
    heeds_target: ClassVar[bool] = False
    covers: Literal["rows", "columns"] = Field(default="rows", description="What is to be covered: similar pool rows, or the vectors' positive columns.")
    threshold: float = Field(default=0.7, ge=-1, le=1, description="The cosine from which a row covers another.")

    def objective(self, pool: Features, target: Features | None, share: float, *, device: str = "cpu", stored: bool = True) -> Objective:
        if self.covers == "columns":
            return FeatureBased(pool, "cover")
        return self.facility(unit_rows(pool), device, stored, threshold=self.threshold)
