"""A subset that says much of the target."""

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curate.core import Features
from curate.errors import DataError
from curate.order import by_id
from curate.similarity import similarity, unit_rows
from curate.submodular.mutual_information import GaussianInformation, Modular, QueryFacility
from curate.submodular.objective import Objective
from curate.submodular.pairwise import PairwiseSelector

_NEED_VECTORS = ("flvmi", "logdetmi")


class MutualInformation(PairwiseSelector):
    """Targeted submodular mutual information (Kothawade et al., 2022), Q the target rows, s = (1 + cos) / 2, e = `strength`.

    flqmi: sum_q max_{j in S} s_qj + e sum_{j in S} max_q s_qj: every target row finds a kept row, and kept rows are near the target.
    flvmi: sum_i min(max_{j in S} s_ij, e max_q s_iq), i over the pool: the part of the pool that is near the target is represented.
    gcmi: sum_{j in S} sum_q s_qj, the same rows as the mean similarity. logdetmi: the information that S and Q share if rows are linear
    measurements with noise of variance 1 / `scale`; not submodular, so all gains are taken afresh for each row and the bound is f of
    the whole pool. The others: f(S) >= (1 - 1/e) OPT in rows, (1 - 1/e) / 2 in tokens.
    A given similarity (N, M), brought to [0, 1], replaces s to the target. O(M) a gain for flqmi, O(1) for gcmi, facility location's costs
    for flvmi, O(N D^2) a row for logdetmi.
    """

    name: Literal["mutual_information"] = Field(default="mutual_information", description="The selector's name in a recipe.")
    needs_one_of: ClassVar[frozenset[str]] = frozenset({"vectors", "similarity"})
    form: Literal["flqmi", "flvmi", "gcmi", "logdetmi"] = Field(default="flqmi", description="Which mutual information; flvmi and logdetmi need vectors.")
    strength: float = Field(default=1.0, ge=0, le=1, description="e: flqmi, how much nearness to the target counts; flvmi, logdetmi, how much the target does.")
    scale: float = Field(default=1.0, gt=0, le=1e6, description="logdetmi: one over the variance of the noise.")

    @property
    def diminishing(self) -> bool:  # type: ignore[override]
        """Not where the function is not submodular."""
        return super().diminishing and self.form != "logdetmi"

    def lasting(self, pool: Features) -> bool:
        return self.form in ("flqmi", "gcmi") and pool.similarity is None  # a given similarity is brought to [0, 1] by the pool's own extremes

    def objective(self, pool: Features, target: Features | None, share: float, *, device: str = "cpu", stored: bool = True) -> Objective:
        if self.form in _NEED_VECTORS and pool.vectors is None:
            raise DataError(f"form {self.form} compares pool rows with one another, so it needs vectors; score with a vector scorer, or use flqmi or gcmi")
        if self.form == "logdetmi":
            if target is None or len(target) == 0:
                raise DataError("form logdetmi needs the vectors of a target; give target rows, scored with the pool's scorer")
            return GaussianInformation(unit_rows(pool), unit_rows(by_id(target)[1]), self.scale, self.strength)
        alike = _to_target(pool, target)
        if self.form == "flqmi":
            return QueryFacility(alike, self.strength)
        if self.form == "gcmi":
            return Modular(alike.sum(axis=0, dtype=np.float64))
        return self.facility(unit_rows(pool), device, stored, cap=np.float32(self.strength) * alike.max(axis=0))


def _to_target(pool: Features, target: Features | None) -> NDArray[np.float32]:
    """(M, N) similarities in [0, 1]; the affine map of a given matrix moves no choice of flqmi or gcmi for budgets in rows."""
    alike = np.asarray(similarity(pool, target), np.float64)
    if pool.similarity is None:
        return np.clip((1 + alike) / 2, 0, 1).astype(np.float32)
    low, high = float(alike.min()), float(alike.max())
    return ((alike - low) / max(high - low, 1e-300)).astype(np.float32)
