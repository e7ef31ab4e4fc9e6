"""Scores against the budget, a picture per task."""

from collections.abc import Sequence

from curate.report.chart_lines import WHISKERS, against_budget
from curate.report.chart_marks import Marks
from curate.report.page_parts import note, tabs, text
from curate.report.results import Results
from curate.report.tables import Section, higher_is_better, ordered_tasks
from curate.report.wording import task_lines

_FEW = 2  # controls that may stand among the arms


def budgets(results: Results, parts: Sequence[Section], who: Marks, copies: set[str]) -> str:
    """Per target a chart for every task; nothing where no target has two budgets."""
    panels = []
    for target in dict.fromkeys(part.target for part in parts):
        mine = [part for part in parts if part.target == target]
        panels.append((target or "every", _charts(results, mine, who, copies if len(copies) > _FEW else set()) if len(mine) > 1 else ""))
    drawn = tabs("b", "target", panels)
    grey = any(who[arm].tone == "other" for part in parts for arm in part.arms)
    more = " Arms after the first eight are grey; point at them for their names." if grey else ""
    away = f" The {len(copies)} controls are left out here." if len(copies) > _FEW else ""
    return drawn and note(f"{WHISKERS} Dashed and dotted: the references.{more}{away}") + drawn


def _charts(results: Results, parts: Sequence[Section], who: Marks, left_out: set[str]) -> str:
    up = higher_is_better(results)
    figures = []
    for task in ordered_tasks(parts):
        lines = task_lines(task, up[task])
        caption = f'<figcaption>{text(lines[0])} <span class="quiet">{text(", ".join(lines[1:]))}</span></figcaption>'
        figures.append(f'<figure class="chart">{caption}{against_budget(parts, task, who, left_out)}</figure>')
    return f'<div class="pair">{"".join(figures)}</div>'
