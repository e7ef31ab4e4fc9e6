"""Charts as inline SVG that stretch with the page: places are percentages, so text and strokes keep their size."""

from collections.abc import Sequence
from html import escape
from math import ceil, floor, log10
from typing import NamedTuple

from curate.report.wording import visible


class Axis(NamedTuple):
    """A range of values across the width of a chart, and round numbers to mark on it."""

    low: float
    high: float
    ticks: list[float]

    def at(self, value: float) -> float:
        """Where a value lies, in percent of the width, kept inside the chart."""
        return round(min(max(100 * (value - self.low) / (self.high - self.low), 0.0), 100.0), 3)


def axis(values: Sequence[float], *, zero: bool = True, steps: int = 4) -> Axis:
    """The range of the values (and zero) with a margin, and about so many steps of 1, 2 or 5 times a power of ten."""
    held = [0.0, *values] if zero or not values else values
    low, high = min(held), max(held)
    span = (high - low) or abs(high) or 1.0
    low, high = low - 0.06 * span, high + 0.06 * span
    power = 10.0 ** floor(log10((high - low) / steps))
    step = power * next(factor for factor in (1, 2, 5, 10) if power * factor >= (high - low) / steps)
    return Axis(low, high, [number * step for number in range(ceil(low / step), floor(high / step) + 1)])


def rules(scale: Axis) -> str:
    """Zero and the ticks as lines from the top to the bottom."""
    return "".join(f'<line class="{"zero" if tick == 0 else "rule"}" x1="{scale.at(tick)}%" x2="{scale.at(tick)}%" y1="0" y2="100%"/>' for tick in scale.ticks)


def interval(scale: Axis, difference: float, low: float, high: float, outcome: str, label: str, behind: str) -> str:
    """One line of a forest plot: the interval as a bar, the difference as a dot, over the rules in `behind`."""
    ends = f'x1="{scale.at(low)}%" x2="{scale.at(high)}%" y1="50%" y2="50%"'
    dot = f'<circle class="{outcome}" cx="{scale.at(difference)}%" cy="50%" r="4.5"/>'
    return f'<svg class="interval" role="img" aria-label="{escape(visible(label))}">{behind}<line class="bar {outcome}" {ends}/>{dot}</svg>'


def empty(behind: str) -> str:
    """A forest line without an interval, for the baseline itself."""
    return f'<svg class="interval" aria-hidden="true">{behind}</svg>'


def tick_labels(scale: Axis, factor: float) -> str:
    """The numbers under a forest plot, in the unit of the metric."""
    labels = "".join(f'<text x="{scale.at(tick)}%" y="14" text-anchor="middle">{_signed(tick * factor)}</text>' for tick in scale.ticks)
    return f'<svg class="ticks" aria-hidden="true">{labels}</svg>'


def stacked(names: Sequence[str], counts: Sequence[float], label: str, tones: Sequence[str] = ()) -> str:
    """One bar as wide as the chart, in parts proportional to the counts; each part tells its name and share. `tones` are classes, else `k0`, `k1`, ..."""
    total = sum(counts) or 1.0
    start, parts = 0.0, []
    for number, (name, count) in enumerate(zip(names, counts, strict=True)):
        share = 100 * count / total
        title = f"{escape(visible(name))}: {share:.1f}%"
        tone = tones[number] if tones else f"k{number}"
        parts.append(f'<rect class="{tone}" x="{start:.3f}%" width="{share:.3f}%" height="100%"><title>{title}</title></rect>' if share else "")
        start += share
    return f'<svg class="stacked" role="img" aria-label="{escape(visible(label))}">{"".join(parts)}</svg>'


def _signed(value: float) -> str:
    return "0" if abs(value) < 1e-12 else f"{value:+.3g}"
