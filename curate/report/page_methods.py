"""What a method did on the way: numbers over its steps, and which rows stand for which rows of the target."""

from collections.abc import Mapping
from math import isfinite

from curate.report.chart_flow import sankey
from curate.report.chart_lines import over_steps
from curate.report.chart_marks import Marks, Tones
from curate.report.page_parts import note, placed, text
from curate.report.results import Curve, Flow, Results


def learning(results: Results, who: Marks) -> str:
    """A small chart for every arm and number, its seeds as lines."""

    def draw(key: str, found: list[Curve]) -> str:
        groups: dict[tuple[str, str], list[Curve]] = {}
        for curve in found:
            if sum(map(isfinite, curve.values)) > 1:
                groups.setdefault((curve.arm, curve.name), []).append(curve)
        figures = "".join(_figure(arm, name, runs, who) for (arm, name), runs in groups.items())
        return f'<div class="triple">{figures}</div>' if figures else ""

    return placed("l", results.curves, draw)


def transport(results: Results, tones: Mapping[str, Tones]) -> str:
    """A band from each group taken to each group of the target."""

    def draw(key: str, found: list[Flow]) -> str:
        figures = "".join(_flow(flow, tones.get(flow.target or "", Tones())) for flow in found if any(map(any, flow.mass)))
        return f'<div class="pair">{figures}</div>' if figures else ""

    drawn = placed("f", results.flows, draw)
    return note("From the groups of the rows taken to the groups of the target rows that they stand for.") + drawn if drawn else ""


def _figure(arm: str, name: str, runs: list[Curve], who: Marks) -> str:
    titles = [f"{arm}, {name}" + (f", seed {run.seed}" if run.seed is not None else "") for run in runs]
    seeds = f", {len(runs)} seeds" if len(runs) > 1 else ""
    picture = over_steps([run.values for run in runs], titles, who[arm].tone, f"{name} of {arm} over its steps")
    return f'<figure class="chart"><figcaption>{text(arm)} <span class="quiet">{text(name + seeds)}</span></figcaption>{picture}</figure>'


def _flow(flow: Flow, tones: Tones) -> str:
    picture = sankey(flow.taken, flow.wanted, flow.mass, tones, f"transport plan of {flow.arm}")
    return f'<figure class="chart"><figcaption>{text(flow.arm)}</figcaption>{picture}</figure>'
