"""Lines: scores against the budget with their intervals, and numbers over steps."""

from collections.abc import Sequence
from math import isfinite

from curate.report.chart_frame import End, Frame, height_for, positions
from curate.report.chart_marks import RULES, Marks
from curate.report.charts import axis
from curate.report.page_parts import text
from curate.report.results import Comparison
from curate.report.tables import Section, Task
from curate.report.wording import PLUS_MINUS, count, score
from curate.statistics import scale

_POINTS = 110  # of a learning curve
_STEP = 0.7  # percent that arms stand apart, so that their intervals do not hide each other


def against_budget(parts: Sequence[Section], task: Task, who: Marks, left_out: set[str]) -> str:
    """One line per arm over the budgets of one target, the whiskers two standard errors long on each side."""
    budgets = [part.budget for part in parts]
    series = _series(parts, task, left_out)
    ends = [end for points in series.values() for entry in points if entry for end in _reach(entry)]
    factor = scale(task[1]).factor
    named = [arm for arm in series if who[arm].tone != "other"]
    frame = Frame(axis(ends, zero=False, steps=6), height_for(len(named)))
    across = positions(budgets)
    moving = [arm for arm in series if arm not in RULES]
    drawn, names = [], []
    for arm, points in series.items():
        shift = 0.0 if arm in RULES else _STEP * (moving.index(arm) - (len(moving) - 1) / 2)
        drawn.append(_line(arm, points, [x + shift for x in across], frame, who))
        last = next(entry for entry in reversed(points) if entry)
        if arm in named:
            names.append(End(frame.y(last.mean), arm, who[arm].key(arm)))
    label = f"{task[0]}, {task[1]}, against the budget"
    return frame.draw("".join(reversed(drawn)), list(zip(across, budgets, strict=True)), label, factor=factor, ends=names)


def over_steps(runs: Sequence[Sequence[float]], names: Sequence[str], tone: str, label: str) -> str:
    """One thin line for each run over the same steps; long ones lose points at even distances."""
    longest = max(map(len, runs))
    frame = Frame(axis([value for run in runs for value in run if isfinite(value)], zero=False), 120)
    paths = []
    for run, name in zip(runs, names, strict=True):
        kept = [step for step in _even(len(run), _POINTS) if isfinite(run[step])]
        if len(kept) < 2:
            continue
        points = [f"{100 * step / max(longest - 1, 1):.3g} {frame.y(run[step]):.3g}" for step in kept]
        paths.append(f'<path class="line {tone}" d="M{"L".join(points)}"><title>{text(name)}</title></path>')
    inner = f'<svg viewBox="0 0 100 {frame.height}" preserveAspectRatio="none" width="100%" height="{frame.height}">{"".join(paths)}</svg>'
    return frame.draw(inner, [(0, "1"), (100, count(longest))], label)


def _series(parts: Sequence[Section], task: Task, left_out: set[str]) -> dict[str, list[Comparison | None]]:
    arms = dict.fromkeys(arm for part in parts for arm in part.arms if arm not in left_out)
    found = {arm: [part.entries.get((arm, task)) for part in parts] for arm in arms}
    return {arm: points for arm, points in found.items() if any(points)}


def _line(arm: str, points: Sequence[Comparison | None], across: Sequence[float], frame: Frame, who: Marks) -> str:
    mark = who[arm]
    known = [(x, entry) for x, entry in zip(across, points, strict=True) if entry]
    if arm in RULES:
        known = [(0.0, known[0][1]), *known, (100.0, known[-1][1])]
    steps = "".join(
        f'<line x1="{a:.4g}%" y1="{frame.y(first.mean)}" x2="{b:.4g}%" y2="{frame.y(second.mean)}"/>'
        for (a, first), (b, second) in zip(known, known[1:], strict=False)
    )
    titles = [f"{arm}{f' at {entry.budget}' if entry.budget else ''}: {score(entry)}" for _, entry in known]
    if arm in RULES:
        return f'<g class="lines {mark.tone}"><title>{text(titles[0])}</title>{steps}</g>'
    whiskers = "".join(_whisker(x, entry, frame) for x, entry in known)
    dots = "".join(mark.at(x, frame.y(entry.mean), title) for (x, entry), title in zip(known, titles, strict=True))
    return f'<g class="lines {mark.tone}">{steps}{whiskers}{dots}</g>'


def _whisker(x: float, entry: Comparison, frame: Frame) -> str:
    low, high = _reach(entry)
    return f'<line class="whisker" x1="{x:.4g}%" x2="{x:.4g}%" y1="{frame.y(low)}" y2="{frame.y(high)}"/>' if high > low else ""


def _reach(entry: Comparison) -> tuple[float, float]:
    spread = 2 * (entry.standard_error or 0.0)
    return entry.mean - spread, entry.mean + spread


def _even(size: int, most: int) -> list[int]:
    """Places at even distances, the first and the last among them."""
    return list(range(size)) if size <= most else [round(number * (size - 1) / (most - 1)) for number in range(most)]


WHISKERS = f"Whiskers: mean {PLUS_MINUS} 2 standard errors."
