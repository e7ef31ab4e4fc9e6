"""Where the rows lie: the target and what was taken in a plane, and closeness against coverage."""

from collections.abc import Iterable, Mapping, Sequence

from curate.report.chart_frame import End, Frame
from curate.report.chart_marks import Marks, Tones
from curate.report.chart_spread import Point, Window, cloud, plane, rings, thinned
from curate.report.charts import Axis, axis
from curate.report.page_parts import decimals, note, percent, placed, short, tabs, text
from curate.report.results import Map, Results, Trade
from curate.report.wording import count

_POOL, _TARGETS, _TAKEN = 600, 150, 750  # points of one map: together at most 1,500


def coverage(results: Results, who: Marks, tones: Mapping[str, Tones]) -> str:
    """The maps, then the trade-offs."""

    def maps(key: str, found: list[Map]) -> str:
        return "".join(_map(f"{key}-{number}", made, who, tones.get(made.target or "", Tones())) for number, made in enumerate(found))

    drawn = placed("m", results.maps, maps)
    return drawn + _trades(results.trades, who)


def _map(key: str, made: Map, who: Marks, tones: Tones) -> str:
    """The pool by group with the target on it, then the pool in grey under what each arm took."""
    everything = [*made.pool, *made.targets, *(point for points in made.arms.values() for point in points)]
    if not everything:
        return ""
    window = Window(everything)
    kept = thinned(made.pool, _POOL)
    target = rings(window, [made.targets[number] for number in thinned(made.targets, _TARGETS)], "rows of the target")
    names = made.groups.get("pool", [])
    by_group: dict[str, list[Point]] = {}
    for number in kept:
        by_group.setdefault(names[number] if number < len(names) else "pool", []).append(made.pool[number])
    pool = "".join(cloud(window, points, f"dots {tones[group]}", group) for group, points in sorted(by_group.items()))
    figures = [_panel("pool and target", "", f'<g id="{key}-p">{pool}</g><g id="{key}-t">{target}</g>')]
    most = _TAKEN // max(len(made.arms), 1)
    for arm, points in made.arms.items():
        taken = cloud(window, [points[number] for number in thinned(points, most)], f"dots taken {who[arm].tone}", f"taken by {arm}")
        figures.append(_panel(arm, who[arm].tone, f'<use href="#{key}-p" class="faint"/><use href="#{key}-t"/>{taken}'))
    legend = "".join(f'<span><i class="{tones[group]}"></i>{text(group)}</span>' for group in by_group if group in tones)
    thin = f" {count(len(kept))} of {count(len(made.pool))} pool rows are drawn." if len(kept) < len(made.pool) else ""
    lead = f"The plane in which {made.feature} varies most; it shows {percent(made.explained)} of the variance, so what touches here may lie apart.{thin}"
    return f'{note(lead)}<div class="planes">{"".join(figures)}</div><p class="legend"><span><i class="ring"></i>target row</span>{legend}</p>'


def _panel(name: str, tone: str, inside: str) -> str:
    look = f' class="{tone}"' if tone else ""
    return f'<figure class="mini"><figcaption><b{look} title="{text(name)}">{text(name)}</b></figcaption>{plane(inside, f"map of {name}")}</figure>'


def _trades(trades: Sequence[Trade], who: Marks) -> str:
    """By target and feature: nearness to the target across, cover of the pool upwards, budgets of an arm joined."""
    groups: dict[str, dict[str, list[Trade]]] = {}
    for trade in trades:
        if trade.to_target is not None and trade.to_pool is not None:
            groups.setdefault(trade.target or "", {}).setdefault(trade.feature, []).append(trade)
    panels = [(target or "every", "".join(_trade(feature, found, who) for feature, found in features.items())) for target, features in groups.items()]
    drawn = tabs("q", "target", panels)
    lead = note(
        "Mean cosine of a target row (across) and of a pool row (up) to the nearest row taken; "
        "the budgets of an arm are joined, and its name stands at the height of the last."
    )
    return f"<h3>Closeness to the target against coverage of the pool</h3>{lead}{drawn}" if drawn else ""


def _trade(feature: str, trades: Sequence[Trade], who: Marks) -> str:
    across = axis([t.to_target for t in trades if t.to_target is not None], zero=False, steps=6)
    frame = Frame(axis([t.to_pool for t in trades if t.to_pool is not None], zero=False, steps=6), max(280, 16 * len({t.arm for t in trades})))
    inset = Axis(across.low - 0.02 * (across.high - across.low), across.high + 0.02 * (across.high - across.low), across.ticks)
    marks, ends = [], []
    for arm in dict.fromkeys(t.arm for t in trades):
        points = [(inset.at(t.to_target or 0.0), frame.y(t.to_pool or 0.0), t) for t in trades if t.arm == arm]
        marks.append(_path(points) and f'<g class="lines thin {who[arm].tone}">{_path(points)}</g>')
        marks += [who[arm].at(x, y, _title(t)) for x, y, t in points]
        ends.append(End(points[-1][1], arm, who[arm].key(arm)))
    ticks = [(inset.at(tick), short(tick)) for tick in across.ticks]
    picture = frame.draw("".join(marks), ticks, f"closeness against coverage by {feature}", ends=ends, under="closeness to the target", leads=False)
    return f'<figure class="chart half"><figcaption>coverage of the pool <span class="quiet">by {text(feature)}</span></figcaption>{picture}</figure>'


def _path(points: Iterable[tuple[float, float, Trade]]) -> str:
    found = list(points)
    return "".join(f'<line x1="{a:.4g}%" y1="{y}" x2="{b:.4g}%" y2="{z}"/>' for (a, y, _), (b, z, _) in zip(found, found[1:], strict=False))


def _title(trade: Trade) -> str:
    quality = f", quality {decimals(trade.quality)}" if trade.quality is not None else ""
    return f"{trade.arm} at {trade.budget}: to the target {decimals(trade.to_target)}, to the pool {decimals(trade.to_pool)}{quality}"
