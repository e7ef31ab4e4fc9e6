"""How a selection changed when the pool did: what came in, what went out and why, and how far from optimal it was and is."""

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import Literal

from pydantic import Field

from curate.core import Config

CHURN_TITLE = "what the last step of growth changed, mean over seeds"
CHURN_HEADER = ("arm", "target", "budget", "stayed", "came in", "of them new", "removed", "displaced", "gap before", "gap after")


class Left(Config):
    """A row that is no longer taken."""

    id: str
    why: Literal["removed", "displaced"] = Field(description="removed: it left the pool; displaced: others are taken in its place.")
    by: str | None = Field(None, description="Of the rows that came in, the one most like it, where rows have vectors.")
    likeness: float | None = Field(None, description="Their cosine.")


class Churn(Config):
    """One selection before and after the last step of growth."""

    arm: str
    target: str | None = None
    budget: str
    seed: int
    stayed: int
    came: list[str] = Field(description="Ids of rows that are taken now and were not before.")
    new: int = Field(description="How many of these joined the pool in this step.")
    left: list[Left]
    gap_before: float | None = Field(None, description="Of the certificate: 0 at the bound on the optimum of that pool, 1 at random.")
    gap_after: float | None = None


def churn_rows(found: Sequence[Churn]) -> list[tuple[str, ...]]:
    """A row of cells for each arm, target and budget."""
    together: dict[tuple[str, str, str], list[Churn]] = defaultdict(list)
    for one in found:
        together[one.arm, one.target or "", one.budget].append(one)
    gaps = {names: (_gap([one.gap_before for one in several]), _gap([one.gap_after for one in several])) for names, several in together.items()}
    return [(*names, *_counts(several), *gaps[names]) for names, several in together.items()]


def _counts(several: Sequence[Churn]) -> tuple[str, ...]:
    numbers = [
        [one.stayed for one in several],
        [len(one.came) for one in several],
        [one.new for one in several],
        *([sum(row.why == why for row in one.left) for one in several] for why in ("removed", "displaced")),
    ]
    return tuple(f"{fmean(some):,.1f}".removesuffix(".0") for some in numbers)


def _gap(gaps: Sequence[float | None]) -> str:
    known = [gap for gap in gaps if gap is not None]
    return f"{fmean(known):.3f}" if known else ""
