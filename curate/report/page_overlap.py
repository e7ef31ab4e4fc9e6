"""Which arms take the same rows, and whether an arm takes the same ones again with another seed."""

from curate.report.page_parts import decimals, note, percent, placed, text
from curate.report.results import Overlap, Results, Stability
from curate.report.wording import count


def overlap(results: Results) -> str:
    """The heat-maps, then the stable cores."""
    heat = placed("o", results.overlaps, lambda key, found: "".join(map(_heat, found)))
    words = "Rows that two arms share, of all rows that either has (Jaccard), in percent; point at a cell for what chance alone would give."
    shared = note(words) if heat else ""
    bars = placed("y", results.stabilities, lambda key, found: _cores(found))
    lead = note("Rows taken with every seed, and rows taken with some only: those are coin flips.")
    return shared + heat + (f"<h3>Stability over seeds</h3>{lead}{bars}" if bars else "")


def _heat(found: Overlap) -> str:
    """A square table whose columns carry the numbers of its rows."""
    head = "".join(f'<th title="{text(arm)}">{number}</th>' for number, arm in enumerate(found.arms, 1))
    rows = []
    for i, arm in enumerate(found.arms):
        cells = "".join(_cell(found, i, j) for j in range(len(found.arms)))
        rows.append(f'<tr><th class="name" title="{text(arm)}"><span>{i + 1}</span>{text(arm)}</th>{cells}</tr>')
    return f'<div class="scroll"><table class="heat"><thead><tr><th></th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _cell(found: Overlap, i: int, j: int) -> str:
    if i == j:
        return '<td class="self"></td>'
    value = found.jaccard[i][j]
    title = f"{found.arms[i]} and {found.arms[j]}: {percent(value)}, by chance {percent(found.by_chance[i][j])}"
    dark = " dark" if value > 0.55 else ""
    return f'<td class="shade{dark}" style="--v:{round(100 * value)}%" title="{text(title)}">{round(100 * value)}</td>'


def _cores(found: list[Stability]) -> str:
    lines = "".join(map(_core, found))
    legend = '<span><i class="core"></i>with every seed</span><span><i class="flip"></i>with some</span>'
    return f'<div class="bars cores">{lines}</div><p class="legend">{legend}</p>'


def _core(row: Stability) -> str:
    total = (row.always + row.sometimes) or 1
    share = 100 * row.always / total
    label = f"{row.arm}: {count(row.always)} rows with each of {row.seeds} seeds, {count(row.sometimes)} with some"
    picture = (
        f'<svg class="stacked" role="img" aria-label="{text(label)}"><title>{text(label)}</title>'
        f'<rect class="core" width="{share:.4g}%" height="100%"/><rect class="flip" x="{share:.4g}%" width="{100 - share:.4g}%" height="100%"/></svg>'
    )
    chance = f", by chance {decimals(row.by_chance)}" if row.by_chance is not None else ""
    words = f"{count(row.always)} of {count(row.always + row.sometimes)}; Jaccard {decimals(row.jaccard)}{chance}"
    return f'<span>{text(row.arm)}</span>{picture}<span class="quiet">{text(words)}</span>'
