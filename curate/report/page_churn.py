"""The section on growth: how each selection changed, and which rows took whose place."""

from curate.report.churned import CHURN_HEADER, Churn, churn_rows
from curate.report.page_parts import fold, note, table
from curate.report.results import Results

_NOTE = (
    "The same arms, asked again after rows had joined and left the pool. A row that was taken and is still in the pool was displaced: beside it stands "
    "the row that came in and is most like it. The gap of a certificate is that of its own pool."
)
_SHOWN = 100


def churn(results: Results) -> str:
    """Empty where the pool did not grow."""
    if not results.churn:
        return ""
    return note(_NOTE) + table(CHURN_HEADER, churn_rows(results.churn), left=3) + "".join(map(_displaced, results.churn))


def _displaced(one: Churn) -> str:
    rows = [(row.id, row.why, row.by or "", "" if row.likeness is None else f"{row.likeness:.3f}") for row in one.left[:_SHOWN]]
    name = " ".join(part for part in (one.arm, one.target and f"for {one.target}", f"at {one.budget}, seed {one.seed}") if part)
    return fold(f"{name}: {len(one.left)} rows out", table(("out", "why", "in its place", "cosine"), rows, left=3)) if rows else ""
