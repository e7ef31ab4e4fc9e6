"""Intervals of one task under each other: score, difference, corrected p, picture, verdict."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from curate.report.charts import Axis, axis, empty, interval, rules, tick_labels
from curate.report.page_parts import note, p_value, text
from curate.report.results import Comparison
from curate.report.tables import LEVEL, Outcome, Task, alone
from curate.report.wording import change, count, score, task_lines
from curate.statistics import scale


class Row(NamedTuple):
    """An arm and what was compared; `under` is a second line, and a quiet row is one that others are held against."""

    name: str
    entry: Comparison
    under: str = ""
    quiet: bool = False


def forest(key: str, rows: Sequence[Row], task: Task, better_up: bool) -> str:
    """All rows on one axis; hollow where the correction for many comparisons takes the verdict back. `key` is unique on the page."""
    axes = axis([end for row in rows for end in (row.entry.difference, row.entry.low, row.entry.high) if end is not None], steps=5)
    corrected = any(row.entry.adjusted is not None for row in rows)
    lines = task_lines(task, better_up)
    title = f'<h4>{text(lines[0])} <span class="quiet">{text(", ".join(lines[1:]))}; {text(_items(row.entry for row in rows))}</span></h4>'
    titles = {"name": "arm", "n score": "score", "n change": "difference [95%]"} | ({"n p": "p, Holm"} if corrected else {})
    head = "".join(f'<th class="{look}">{word}</th>' for look, word in titles.items())
    first, again = f'<g id="{key}">{rules(axes)}</g>', f'<use href="#{key}"/>'
    body = "".join(_line(row, axes, again if number else first, alone(row.entry, better_up), corrected) for number, row in enumerate(rows))
    foot = f'<tr class="foot"><td class="blank" colspan="{len(titles)}"></td><td class="plot">{tick_labels(axes, scale(task[1]).factor)}</td><td></td></tr>'
    hollow = any(withdrawn(row.entry, alone(row.entry, better_up)) for row in rows)
    family = max((row.entry.comparisons for row in rows), default=0)
    below = note(f"Hollow: the interval leaves out zero, but Holm's rule over {count(family)} comparisons does not uphold it.") if hollow else ""
    return f'{title}<table class="forest"><thead><tr>{head}<th></th><th class="word"></th></tr></thead><tbody>{body}{foot}</tbody></table>{below}'


def withdrawn(entry: Comparison, kind: Outcome) -> bool:
    """Whether the interval alone leaves out zero, and the corrected p does not."""
    return kind in ("better", "worse") and entry.adjusted is not None and entry.adjusted >= LEVEL


def _line(row: Row, axes: Axis, behind: str, kind: Outcome, corrected: bool) -> str:
    entry = row.entry
    look = f"{kind} hollow" if withdrawn(entry, kind) else kind
    ends = entry.difference or 0.0, entry.low or 0.0, entry.high or 0.0
    drawn = interval(axes, *ends, look, f"{row.name}: {change(entry)} {kind}", behind) if kind else empty(behind)
    under = f"<small>{text(row.under)}</small>" if row.under else ""
    p = f'<td class="n p">{text(p_value(entry.adjusted))}</td>' if corrected else ""
    word = f"{kind} alone" if withdrawn(entry, kind) else kind
    name = f'<td class="name{" reference" if row.quiet else ""}">{text(row.name)}{under}</td>'
    return (
        f'<tr{"" if kind else " class=base"}>{name}<td class="n score">{text(score(entry))}</td>'
        f'<td class="n change">{text(change(entry))}</td>{p}<td class="plot">{drawn}</td><td class="word {look}">{word}</td></tr>'
    )


def _items(entries: Iterable[Comparison]) -> str:
    """`300 items, 1 to 3 seeds`."""
    found = list(entries)
    items, seeds = sorted({e.n for e in found}), sorted({e.seeds for e in found})
    return f"{_span(items)} items, {_span(seeds)} seed{'' if seeds[-1] == 1 else 's'}"


def _span(values: Sequence[int]) -> str:
    return count(values[0]) if values[0] == values[-1] else f"{count(values[0])} to {count(values[-1])}"
