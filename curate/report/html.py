"""The report as one HTML page that needs nothing else: no network, no script, no file beside it."""

from collections.abc import Iterable, Sequence
from html import escape as _escape

from curate.report.charts import axis, interval, rules, stacked, tick_labels
from curate.report.fidelity import fidelity_cell
from curate.report.findings import headlines, notes
from curate.report.results import Comparison, DataSummary, FeatureRow, Results
from curate.report.style import css
from curate.report.tables import REFERENCES, Kinds, Section, Task, higher_is_better, kinds, outcome, proofs, sections
from curate.report.wording import (
    PROOF_HEADER,
    PROOF_NOTE,
    TAKEN_HEADER,
    change,
    count,
    duration,
    heading,
    number,
    proof_cells,
    reasons,
    score,
    size,
    taken_cells,
    task_lines,
    visible,
)
from curate.statistics import scale

# Even if something slipped through the escaping, the page may load and run nothing.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def render(results: Results) -> str:
    """The page: findings first, then comparisons, what was taken, certificates, accounts, and how to reproduce it."""
    found = sections(results)
    parts = [_head(results), *(_finding(line) for line in headlines(results, found))]
    parts += [_comparison(results, section) for section in found]
    parts += [_taken(section, made) for section in found if (made := kinds(results, section))]
    parts += [_certificates(results), _notes(results, found), _data(results), _cost(results), _reproduce(results)]
    body = "\n".join(part for part in parts if part)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{text(results.name)}</title>\n<style>{css()}</style></head>\n'
        f"<body><main>\n{body}\n</main></body></html>\n"
    )


def text(value: object) -> str:
    """Data as HTML text or attribute: markup and control characters are inert."""
    return _escape(visible(value))


def _head(results: Results) -> str:
    return f'<h1>{text(results.name)}</h1><p class="meta">curate {text(results.version)}, {text(results.created)}, {duration(results.seconds)}</p>'


def _finding(line: str) -> str:
    kind = next((word for word in ("better", "worse") if f" is {word}" in line), "unclear")
    return f'<p class="finding {kind}">{text(line)}</p>'


def _comparison(results: Results, section: Section) -> str:
    directions = higher_is_better(results)
    forests = "".join(_forest(section, task, directions[task]) for task in section.tasks)
    return f"<section><h2>Against random{text(', ' + heading(section) if heading(section) else '')}</h2>{forests}</section>"


def _forest(section: Section, task: Task, better_up: bool) -> str:
    entries = {arm: section.entries[arm, task] for arm in section.arms if (arm, task) in section.entries}
    axes = axis([end for e in entries.values() for end in (e.difference, e.low, e.high) if end is not None])
    rows = []
    for arm, entry in entries.items():
        kind = outcome(entry, better_up)
        drawn = kind and interval(axes, entry.difference or 0.0, entry.low or 0.0, entry.high or 0.0, kind, f"{arm}: {change(entry)} {kind}")
        name = f'<td class="name{" reference" if arm in REFERENCES else ""}">{text(arm)}</td>'
        numbers = f'<td class="n">{text(score(entry))}</td><td class="n">{text(change(entry))}</td>'
        rows.append(f'<tr>{name}{numbers}<td class="plot">{drawn or rules(axes)}</td><td class="verdict word {kind}">{kind}</td></tr>')
    lines = task_lines(task, better_up)
    head = '<tr><th>arm</th><th class="n">score</th><th class="n">difference [95%]</th><th></th><th class="verdict"></th></tr>'
    foot = f'<tr><td></td><td></td><td></td><td class="plot">{tick_labels(axes, scale(task[1]).factor)}</td><td class="verdict"></td></tr>'
    title = f'<h3>{text(lines[0])} <span class="quiet">{text(", ".join(lines[1:]))}; {text(_items(entries.values()))}</span></h3>'
    return f'{title}<div class="scroll"><table class="forest">{head}{"".join(rows)}{foot}</table></div>'


def _items(entries: Iterable[Comparison]) -> str:
    """`300 items, 1 to 3 seeds`."""
    items, seeds = sorted({e.n for e in entries}), sorted({e.seeds for e in entries})
    return f"{_span(items)} items, {_span(seeds)} seed{'' if seeds[-1] == 1 else 's'}"


def _span(values: Sequence[int]) -> str:
    return count(values[0]) if values[0] == values[-1] else f"{count(values[0])} to {count(values[-1])}"


def _taken(section: Section, taken: Kinds) -> str:
    bars = {"pool": taken.pool} | taken.arms
    lines = "".join(f"<span>{text(name)}</span>{stacked(taken.names, bar.counts, f'kinds of rows in {name}')}" for name, bar in bars.items())
    legend = "".join(f'<span><i class="k{n}"></i>{text(name)}</span>' for n, name in enumerate(taken.names))
    columns = {name: taken_cells(bar) for name, bar in bars.items()}
    names = [*TAKEN_HEADER, *taken.names]
    rows = [[name, *(column[row] for column in columns.values())] for row, name in enumerate(names)]
    where = f", {heading(section)}" if heading(section) else ""
    body = _table(["mean over seeds", *bars], rows, last=len(TAKEN_HEADER))
    chart = f'<div class="bars">{lines}</div><div class="legend">{legend}</div>'
    return f"<section><h2>Rows taken{text(where)}</h2>{chart}<details open><summary>Counts</summary>{body}</details></section>"


def _certificates(results: Results) -> str:
    rows = [proof_cells(proof) for proof in proofs(results)]
    if not rows:
        return ""
    return f'<section><h2>How far from optimal a selection can be</h2><p class="quiet">{text(PROOF_NOTE)}</p>{_table(PROOF_HEADER, rows, left=3)}</section>'


def _notes(results: Results, found: list[Section]) -> str:
    lines = [f'<li class="warning">{text(line)}</li>' for line in results.warnings] + [f"<li>{text(line)}</li>" for line in notes(results, found)]
    return f"<section><h2>What to keep in mind</h2><ul>{''.join(lines)}</ul></section>" if lines else ""


def _data(results: Results) -> str:
    def row(name: str, data: DataSummary) -> list[str]:
        return [name, reasons(data) or "none", *map(count, (data.rows_in, data.used, sum(data.quarantined.values()), data.tokens, data.supervised_tokens))]

    rows = [row("pool", results.pool), *(row(f"target {name}", data) for name, data in results.targets.items())]
    header = ["rows", "set aside for", "read", "used", "set aside", "tokens", "with loss"]
    return f"<section><h2>Data</h2>{_table(header, rows, left=2)}</section>"


def _cost(results: Results) -> str:
    stages = [[s.stage, s.label, s.key, "from the store" if s.cached else duration(s.seconds)] for s in results.stages]
    features = [[*_feature_cells(f), "from the store" if f.cached else duration(f.seconds)] for f in results.features]
    spent = sum(stage.seconds for stage in results.stages if not stage.cached)
    parts = [f"<section><h2>Time</h2><p>{duration(results.seconds)} in all, {duration(spent)} of it in stages that the store did not hold.</p>"]
    if features:
        parts.append(_table(["feature", "scorer", "output", "width", "rows", "on disk", "against exact", "time"], features, left=3))
    if stages:
        inner = _table(["stage", "what", "key", "time"], stages, left=3)
        parts.append(f"<details{' open' if len(stages) <= 12 else ''}><summary>{len(stages)} stages</summary>{inner}</details>")
    return "".join(parts) + "</section>"


def _feature_cells(f: FeatureRow) -> list[str]:
    return [f.name, f.scorer, f.output, number(f.width), count(f.rows), f"{size(f.bytes)}, {f.stored}", fidelity_cell(f)]


def _reproduce(results: Results) -> str:
    command = f"<pre>{text(results.command)}</pre>" if results.command else ""
    recipe = f"<pre>{_escape(visible(results.recipe, keep=chr(10)))}</pre>" if results.recipe else ""
    machine = _table(["", ""], list(map(list, results.hardware.items())), left=2) if results.hardware else ""
    return f"<section><h2>How to reproduce</h2>{command}{recipe}{machine}</section>"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1, last: int = 0) -> str:
    """Cells escaped, the first `left` columns to the left; a heavier rule under row `last`."""

    def line(tag: str, values: Sequence[str], number: int) -> str:
        cells = (f"<{tag}>{text(value)}</{tag}>" if column < left else f'<{tag} class="n">{text(value)}</{tag}>' for column, value in enumerate(values))
        return f'<tr class="{"last" if number == last else "row"}">{"".join(cells)}</tr>'

    head = line("th", header, -1) if any(header) else ""
    body = "".join(line("td", row, number) for number, row in enumerate(rows, 1))
    return f'<div class="scroll"><table>{head}{body}</table></div>'
