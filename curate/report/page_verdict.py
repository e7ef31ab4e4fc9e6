"""Who is better than random: every arm at a glance, then its intervals, and what the experiment could have told."""

from collections.abc import Iterator, Sequence

from curate.report.controlled import against
from curate.report.page_forest import Row, forest, withdrawn
from curate.report.page_parts import fold, note, p_value, sentences, table, tabs, text
from curate.report.results import Comparison, Results
from curate.report.tables import LOWER_IS_BETTER, REFERENCES, Section, Task, alone, higher_is_better, ordered_tasks, outcome
from curate.report.wording import change, count
from curate.statistics import scale

_SIGNS = {"better": "\u25b2", "worse": "\u25bc", "unclear": "\u00b7", "": ""}


def comparisons(results: Results, parts: Sequence[Section], copies: set[str]) -> str:
    """Per target: the grid of verdicts, disagreements, and by budget the intervals, counts of answers and power."""
    panels = []
    for number, target in enumerate(dict.fromkeys(part.target for part in parts)):
        mine = [part for part in parts if part.target == target]
        budgets = [(part.budget or "every", _intervals(f"v{number}-{place}-plot", results, part, copies)) for place, part in enumerate(mine)]
        panels.append((target or "every", _grid(results, mine, copies) + _disagreed(results, target) + tabs(f"v{number}", "budget", budgets)))
    return tabs("v", "target", panels)


def controlled(results: Results) -> str:
    """Arms against controls that copy their lengths or sources: what is left of a gain beyond those."""
    up = {(c.task, c.metric): c.metric not in LOWER_IS_BETTER for c in results.controlled} | higher_is_better(results)
    panels = []
    for number, target in enumerate(dict.fromkeys(c.target or "" for c in results.controlled)):
        mine = [c for c in results.controlled if (c.target or "") == target]
        budgets = []
        for place, budget in enumerate(dict.fromkeys(c.budget for c in mine)):
            rows: dict[Task, list[Row]] = {}
            for c in mine:
                if c.budget == budget:
                    rows.setdefault((c.task, c.metric), []).append(Row(c.arm, c, f"against {against(c.baseline)}"))
            drawn = (forest(f"c{number}-{place}-plot{order}", found, task, up[task]) for order, (task, found) in enumerate(rows.items()))
            budgets.append((budget or "every", "".join(drawn)))
        panels.append((target or "every", tabs(f"c{number}", "budget", budgets)))
    lead = "A control takes random rows with the lengths, or from the sources, of the arm beside it: what an arm gains over it is owed to neither."
    return note(lead) + tabs("c", "target", panels) if panels else ""


def _grid(results: Results, parts: Sequence[Section], copies: set[str]) -> str:
    """Arms down, tasks and budgets across, one difference and its sign in each cell; nothing where there is one column."""
    if len(parts) < 2:
        return ""
    tasks = ordered_tasks(parts)
    base = next((entry.baseline for part in parts for entry in part.entries.values() if entry.difference is not None), "random")
    up = higher_is_better(results)
    arms = [arm for arm in dict.fromkeys(arm for part in parts for arm in part.arms) if arm not in copies and arm not in ("zero_shot", base)]
    first = "".join(f'<th colspan="{len(parts)}" class="task">{text(", ".join(task))}</th>' for task in tasks)
    second = "".join(f'<th class="n">{text(part.budget)}</th>' for _ in tasks for part in parts)
    body = "".join(
        f'<tr><td class="name{" reference" if arm in REFERENCES else ""}">{text(arm)}</td>'
        + "".join(_cell(part.entries.get((arm, task)), up[task]) for task in tasks for part in parts)
        + "</tr>"
        for arm in arms
    )
    head = f'<thead><tr><th></th>{first}</tr><tr><th class="name">difference from {text(base)}</th>{second}</tr></thead>'
    return f'<div class="scroll"><table class="grid">{head}<tbody>{body}</tbody></table></div>'


def _cell(entry: Comparison | None, better_up: bool) -> str:
    if entry is None or entry.difference is None:
        return '<td class="n"></td>'
    kind = alone(entry, better_up)
    look = "unclear" if withdrawn(entry, kind) else kind
    p = f", p {p_value(entry.adjusted)} by Holm's rule" if entry.adjusted is not None else ""
    title = text(f"{entry.arm} at {entry.budget}: {change(entry)}, {kind}{p}")
    return f'<td class="n {look}" title="{title}">{change(entry).partition(" ")[0]}<i>{_SIGNS[look]}</i></td>'


def _disagreed(results: Results, target: str) -> str:
    found: dict[str, dict[str, list[str]]] = {}
    for d in results.disagreements:
        if (d.target or target) == target:
            found.setdefault(d.sentence, {}).setdefault(d.arm, []).append(d.budget)
    lines = (f"{_who(arms)}: {sentence}" for sentence, arms in found.items())
    return f"<h4>Where the metric and the likelihood disagree</h4>{sentences(lines)}" if found else ""


def _who(arms: dict[str, list[str]]) -> str:
    """`less at 1%, 5%; tfidf at 20%`."""
    return "; ".join(f"{arm} at {', '.join(dict.fromkeys(budgets))}" for arm, budgets in arms.items())


def _intervals(key: str, results: Results, part: Section, copies: set[str]) -> str:
    up = higher_is_better(results)
    drawn = []
    for number, task in enumerate(ordered_tasks([part])):
        found = sorted((arm for arm in part.arms if (arm, task) in part.entries), key=lambda arm: arm in copies)
        rows = [Row(arm, part.entries[arm, task], quiet=arm in REFERENCES or arm in copies) for arm in found]
        drawn.append(forest(f"{key}{number}", rows, task, up[task]))
    return "".join(drawn) + _answers(part) + fold("What it would have taken to tell", sentences(_power(part, up)))


def _answers(part: Section) -> str:
    """McNemar's counts, where they were counted."""
    rows = [
        [arm, task, count(entry.only_ours), count(entry.only_theirs), p_value(entry.mcnemar)]
        for (arm, (task, _)), entry in part.entries.items()
        if entry.only_ours is not None and entry.only_theirs is not None
    ]
    header = ["arm", "task", "right here only", "right in the baseline only", "p, McNemar"]
    words = note("Answers that one of the two has right and the other wrong, over items and seeds; the p is of items alone.")
    return fold("Answers right and wrong", words + table(header, rows, left=2)) if rows else ""


def _power(part: Section, up: dict[Task, bool]) -> Iterator[str]:
    """A sentence for each arm whose difference could not be told from zero."""
    for (arm, task), entry in part.entries.items():
        if arm in REFERENCES or outcome(entry, up[task]) != "unclear" or entry.difference is None:
            continue
        factor, digits, unit = scale(task[1])
        shown = f"{change(entry).partition(' ')[0]}{f' {unit}' if unit else ''}"
        needs = [f"{count(number)} {word}" for number, word in ((entry.needed_items, "items"), (entry.needed_seeds, "seeds")) if number]
        told = f"{entry.detectable * factor:.{digits}f}" if entry.detectable is not None else ""
        least = f"with {count(entry.n)} items and {entry.seeds} seed{'s' if entry.seeds != 1 else ''} the least that shows is {told}" if told else ""
        taken = f"to tell it from zero with 80% power takes {' or '.join(needs)}" if needs else ""
        if taken or least:
            yield f"{arm}, {task[0]} ({task[1]}): {shown}; " + "; ".join(filter(None, (taken, least))) + "."
