"""What each arm took: groups, lengths and other numbers of the rows, always against the whole pool."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from curate.report.chart_marks import Marks, Tones
from curate.report.chart_spread import histogram, outline
from curate.report.charts import Axis, rules, stacked
from curate.report.page_parts import decimals, fold, note, placed, short, table, tabs, text
from curate.report.page_top import FAR
from curate.report.results import Results, Spread
from curate.report.tables import Kinds, Section, kinds
from curate.report.wording import TAKEN_HEADER, taken_cells

_HALVES = Axis(-0.5, 0.5, [-0.5, -0.25, 0.0, 0.25, 0.5])  # shares less a half, so that the rule of a half is zero's


def taken(results: Results, parts: Sequence[Section], who: Marks, tones: Mapping[str, Tones], copies: set[str]) -> str:
    """Groups by target and budget, then the histograms, then whose rows are long or short."""
    panels = []
    for first, target in enumerate(dict.fromkeys(part.target for part in parts)):
        mine = [(part, found) for part in parts if part.target == target and (found := kinds(results, part))]
        budgets = [(part.budget or "every", _groups(found, tones.get(target, Tones()))) for part, found in mine]
        panels.append((target or "every", tabs(f"t{first}", "budget", budgets)))
    bars = tabs("t", "target", panels)
    return bars + _lengths(results) + _spreads(results, who, copies)


def _groups(found: Kinds, tones: Tones) -> str:
    """A bar for the pool and each arm, in parts by group, and the counts behind them."""
    bars = {"pool": found.pool} | found.arms
    looks = [tones[name] for name in found.names]
    lines = "".join(f"<span>{text(name)}</span>{stacked(found.names, bar.counts, f'groups of rows in {name}', looks)}" for name, bar in bars.items())
    legend = "".join(f'<span><i class="{look}"></i>{text(name)}</span>' for name, look in zip(found.names, looks, strict=True))
    columns = {name: taken_cells(bar) for name, bar in bars.items()}
    rows = [[name, *(column[row] for column in columns.values())] for row, name in enumerate([*TAKEN_HEADER, *found.names])]
    counts = table(["mean over seeds", *bars], rows, last=len(TAKEN_HEADER))
    return f'<div class="bars">{lines}</div><p class="legend">{legend}</p>{fold("Counts", counts)}'


def _lengths(results: Results) -> str:
    """How often a row taken is longer than one left, a dot for each target and budget of the arms that are far from a half."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in results.selections:
        if row.longer is not None and not row.matched_to:
            place = ", ".join(part for part in (row.target, row.budget) if part)
            found.setdefault(row.arm, {}).setdefault(place, []).append(row.longer)
    if not found:
        return ""
    means = {arm: {place: fmean(values) for place, values in places.items()} for arm, places in found.items()}
    far = {arm: max(abs(share - 0.5) for share in places.values()) for arm, places in means.items()}
    title, odd = "<h3>Length bias</h3>", [arm for arm in sorted(far, key=lambda arm: (-far[arm], arm)) if far[arm] > FAR]
    if not odd:
        return title + note("No arm prefers long or short rows: for each, a row taken is longer than one left about every second time.")
    behind = f'<g id="halves">{rules(_HALVES)}</g>', '<use href="#halves"/>'
    lines = "".join(_bias(arm, means[arm], behind[min(number, 1)]) for number, arm in enumerate(odd))
    lead = note(
        f"How often a row taken is longer than one left, from never to always; the line in the middle is a half. "
        f"Arms that come no further than {FAR} from it are not named."
    )
    return f'{title}{lead}<div class="biases">{lines}</div>'


def _bias(arm: str, places: Mapping[str, float], behind: str) -> str:
    shares = sorted(places.values())
    word = "longer rows" if shares[0] > 0.5 else "shorter rows" if shares[-1] < 0.5 else "either"
    dots = "".join(
        f'<circle class="alarm" cx="{_HALVES.at(share - 0.5)}%" cy="50%" r="4.5"><title>{text(f"{arm}, {place}: {decimals(share)}")}</title></circle>'
        for place, share in places.items()
    )
    span = decimals(shares[0]) if decimals(shares[0]) == decimals(shares[-1]) else f"{decimals(shares[0])} to {decimals(shares[-1])}"
    picture = f'<svg class="interval" role="img" aria-label="{text(f"{arm}: {span}")}">{behind}{dots}</svg>'
    return f'<span>{text(arm)}</span>{picture}<span>{span} <span class="quiet">{word}</span></span>'


def _spreads(results: Results, who: Marks, copies: set[str]) -> str:
    """Histograms of every number of the rows, a small one per arm."""

    def draw(key: str, found: list[Spread]) -> str:
        return "".join(_small(f"{key}-{number}", spread, who, copies) for number, spread in enumerate(found))

    drawn = placed("s", results.spreads, draw)
    lead = note("Shares of rows, on one scale for all arms; the line is the pool.")
    return f"<h3>Lengths and other numbers</h3>{lead}{drawn}" if drawn else ""


def _small(key: str, spread: Spread, who: Marks, copies: set[str]) -> str:
    tallest = max([*spread.pool, *(share for shares in spread.arms.values() for share in shares), 0.0])
    low, high = _ends(spread.edges)
    pool = spread.medians.get("pool")
    figures = []
    shown = {arm: shares for arm, shares in spread.arms.items() if arm not in copies}
    for number, (arm, shares) in enumerate(shown.items()):
        median = _median(spread.medians.get(arm))
        label = f"{arm}, {spread.what}: {median or 'no median'}"
        behind = f'<use href="#{key}"/>' if number else outline(key, spread.pool, tallest)
        picture = histogram(shares, tallest, behind, who[arm].tone, label)
        axis = f'<div class="edges"><span>{low}</span><span>{median}</span><span>{high}</span></div>'
        figures.append(f'<figure class="mini"><figcaption><b title="{text(arm)}">{text(arm)}</b></figcaption>{picture}{axis}</figure>')
    aside = f", {_median(pool)} in the pool" if pool is not None else ""
    return f'<h4>{text(spread.what)}<span class="quiet">{text(aside)}</span></h4><div class="minis">{"".join(figures)}</div>'


def _ends(edges: Sequence[float]) -> tuple[str, str]:
    """The first and the last edge; what is next to nothing beside the other is zero."""
    if not edges:
        return "", ""
    ends = edges[0], edges[-1]
    return short(0.0 if abs(ends[0]) < 0.01 * (ends[1] - ends[0]) else ends[0]), short(ends[1])


def _median(value: float | None) -> str:
    return "" if value is None else f"median {short(value)}"
