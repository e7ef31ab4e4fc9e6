"""What selectors of good and diverse rows share: how the two are weighed, and the certificate that compares them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import numpy as np
from pydantic import Field

from curate.core import Budget, Certificate, Features, Integers
from curate.interfaces import Context, Selector
from curate.masks.diversity import Form
from curate.masks.objective import MaskObjective
from curate.order import by_id, oriented_scores


class MaskSelector(Selector):
    """Measured by J(S) = w Q(S) / sigma_Q + (1 - w) D(S) / sigma_D, whether or not it climbs it."""

    needs: ClassVar[frozenset[str]] = frozenset({"vectors", "scores"})

    quality_weight: float = Field(default=0.5, ge=0, le=1, description="w: the weight of quality; diversity has the rest.")
    largest: bool = Field(default=True, description="Whether large scores are good.")
    diversity: Form = Field(default="pairwise", description="D: minus the mean cosine, minus the covariance's norm, or coverage of anchors.")
    anchors: int = Field(default=64, ge=1, le=4096, description="How many rows of the pool `facility` is to cover.")

    def certify(self, pool: Features, budget: Budget, rows: Integers, *, target: Features | None = None, context: Context = Context()) -> Certificate | None:
        order, ordered = by_id(pool)
        objective = self.objective(ordered, budget)
        if objective is None or len(rows) == 0:
            return None
        certificate = objective.certificate(np.argsort(order)[rows], budget)
        return replace(certificate, details={**certificate.details, **self.beside(objective, budget)})

    def beside(self, objective: MaskObjective, budget: Budget) -> Mapping[str, float]:
        """What else a certificate says of the objective, computed from it alone."""
        return {}

    def objective(self, rows: Features, budget: Budget) -> MaskObjective | None:
        """J over rows sorted by id; None where the budget holds nothing."""
        return MaskObjective.of(rows, budget, oriented_scores(rows, self.largest), self.quality_weight, self.diversity, self.anchors)
