"""A frame for charts that stretch: x in percent of the width, y in pixels, so text and strokes keep their size; labels are HTML."""

from collections.abc import Sequence
from math import isfinite, log
from typing import NamedTuple

from curate.report.charts import Axis
from curate.report.page_parts import short, text

HEIGHT = 250
_LINE = 16  # pixels between the names at the right
_NARROW = 170  # pixels across, of a chart on a phone
_LETTER = 6.2


class End(NamedTuple):
    """A name at the right of a chart, its own height, and its mark."""

    y: float
    name: str
    html: str


class Frame(NamedTuple):
    """Two axes: values upwards over `height` pixels, anything across in percent."""

    up: Axis
    height: int = HEIGHT

    def y(self, value: float) -> float:
        """Pixels from the top."""
        return round(self.height * (1 - self.up.at(value) / 100), 1)

    def draw(
        self,
        marks: str,
        across: Sequence[tuple[float, str]],
        label: str,
        *,
        factor: float = 1.0,
        ends: Sequence[End] = (),
        leads: bool = True,
        under: str = "",
    ) -> str:
        """`marks` are SVG inside the frame, `across` are (percent, name) below it, `under` names them, `factor` scales the numbers at the left."""
        ticks = [(self.y(tick), short(tick * factor)) for tick in self.up.ticks]
        rules = "".join(f'<line class="rule" x1="0" x2="100%" y1="{y}" y2="{y}"/>' for y, _ in ticks)
        left = "".join(f'<span style="top:{y}px">{name}</span>' for y, name in ticks)
        below = "".join(f'<span{_edge(x)} style="left:{x:.4g}%">{text(name)}</span>' for x, name in roomy(across))
        width = max((len(name) for _, name in ticks), default=1)
        area = f'<svg class="area" height="{self.height}" role="img" aria-label="{text(label)}">{rules}{marks}</svg>'
        names = _names(ends, self.height, leads)
        unit = f'<div class="under">{text(under)}</div>' if under else ""
        room = f' style="--ends:{max((len(end.name) for end in ends), default=0) + 3}ch"' if ends else ""
        return (
            f'<div class="frame{" named" if ends else ""}"{room}><div class="ys" style="width:{width}ch">{left}</div>{area}{names}'
            f'<div class="xs">{below}</div>{unit}</div>'
        )


def apart(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places in the order given (rising), each at least `gap` after the one before, as near to what is wanted as a push down and then up leaves them."""
    placed: list[float] = []
    for value in wanted:
        placed.append(max(value, placed[-1] + gap if placed else low))
    limit = high
    for number in reversed(range(len(placed))):
        placed[number] = min(placed[number], limit)
        limit = placed[number] - gap
    return [round(value, 1) for value in placed]


def roomy(across: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """The names below a chart that do not touch on a phone: the last, and from the first on what fits before it."""
    if not across:
        return []

    def reach(name: str) -> float:
        return 50 * (_LETTER * len(name) + 4) / _NARROW

    *before, (end, last) = across
    kept: list[tuple[float, str]] = []
    for x, name in before:
        touches = (kept and x - kept[-1][0] < reach(name) + reach(kept[-1][1])) or end - x < reach(name) + reach(last)
        if not touches:
            kept.append((x, name))
    return [*kept, (end, last)]


def height_for(names: int) -> int:
    """Pixels that leave room for so many names at the right."""
    return max(HEIGHT, _LINE * names)


def positions(names: Sequence[str]) -> list[float]:
    """Where budgets stand across, in percent: by their logarithm where all are numbers of one kind and none would touch, else evenly."""
    even = [round(6 + 88 * number / max(len(names) - 1, 1), 2) for number in range(len(names))]
    values = [_amount(name) for name in names]
    kinds = {name.endswith("%") for name in names}
    known = [value for value in values if value is not None and value > 0]
    if len(kinds) != 1 or len(known) != len(names) or len(names) < 3 or sorted(set(known)) != known:
        return even
    logs = [log(value) for value in known]
    spread = [round(6 + 88 * (value - logs[0]) / (logs[-1] - logs[0]), 2) for value in logs]
    return spread if min(b - a for a, b in zip(spread, spread[1:], strict=False)) >= 12 else even


def _amount(name: str) -> float | None:
    try:
        value = float(name.removesuffix("%").replace(",", "").replace("_", ""))
    except ValueError:
        return None
    return value if isfinite(value) else None


def _edge(x: float) -> str:
    """A name at the very edge stays inside."""
    return ' class="first"' if x <= 0 else ' class="last"' if x >= 100 else ""


def _names(ends: Sequence[End], height: int, joined: bool) -> str:
    """Names beside the right edge, moved apart where they would touch, each joined to its own height."""
    if not ends:
        return ""
    ordered = sorted(ends)
    places = apart([end.y for end in ordered], _LINE, 6, height - 6)
    leads = "" if not joined else "".join(f'<line x1="0" x2="100%" y1="{end.y}" y2="{place}"/>' for end, place in zip(ordered, places, strict=True))
    spans = "".join(f'<div style="top:{place}px" title="{text(end.name)}">{end.html}</div>' for end, place in zip(ordered, places, strict=True))
    return f'<svg class="leads" height="{height}" aria-hidden="true">{leads}</svg><div class="ends">{spans}</div>'
