"""Arms beside the random rows that copy their lengths or their sources, as lines of a table."""

from curate.report.results import Comparison, Results
from curate.report.tables import higher_is_better, word
from curate.report.wording import change

TITLE = "against random rows of the same lengths or sources"
HEADER = ["where", "arm", "matched in", "task", "difference", ""]
_MATCHED = {"length_matched_random": "length", "source_matched_random": "source"}


def against(baseline: str) -> str:
    """`random rows of its lengths`."""
    kind = _MATCHED.get(baseline.partition(":")[0])
    return f"random rows of its {kind}s" if kind else baseline


def control_rows(results: Results) -> list[list[str]]:
    """One line for each of `HEADER`, in the order of the run."""
    up = higher_is_better(results)
    return [_row(entry, up[entry.task, entry.metric]) for entry in results.controlled]


def _row(entry: Comparison, better_up: bool) -> list[str]:
    where = ", ".join(part for part in (entry.target, entry.budget) if part)
    control = entry.baseline.partition(":")[0]
    return [where, entry.arm, _MATCHED.get(control, control), entry.task, change(entry), word(entry, better_up)]
