"""Mass that goes from groups at the left to groups at the right, as bands as wide as their share."""

from collections.abc import Sequence

from curate.report.chart_frame import apart
from curate.report.chart_marks import Tones
from curate.report.page_parts import percent, text

HEIGHT = 190
_GAP = 8.0
_NAMED = 8
_LINE = 16


def sankey(left: Sequence[str], right: Sequence[str], mass: Sequence[Sequence[float]], tones: Tones, label: str) -> str:
    """A band for each pair with mass, names beside; groups after the largest eight of a side stand together."""
    left, mass = _folded(left, mass)
    right, turned = _folded(right, [list(column) for column in zip(*mass, strict=True)])
    mass = [list(row) for row in zip(*turned, strict=True)]
    total = sum(map(sum, mass)) or 1.0
    height = max(HEIGHT, _LINE * max(len(left), len(right)))
    out, into = [sum(row) / total for row in mass], [sum(column) / total for column in zip(*mass, strict=True)]
    starts, ends = _stacked(out, height), _stacked(into, height)
    used_out, used_in = [place for place, _ in starts], [place for place, _ in ends]
    scale = [size / share if share else 0.0 for (_, size), share in zip(starts, out, strict=True)]
    scale_in = [size / share if share else 0.0 for (_, size), share in zip(ends, into, strict=True)]
    bands = []
    for i, row in enumerate(mass):
        for j, value in enumerate(row):
            wide, wide_in = value / total * scale[i], value / total * scale_in[j]
            if value > 0:
                title = f"{left[i]} for {right[j]}: {percent(value / total)}"
                bands.append(_band(used_out[i], wide, used_in[j], wide_in, tones[left[i]], title))
            used_out[i] += wide
            used_in[j] += wide_in
    nodes = _nodes(starts, 0.0, left, out) + _nodes(ends, 98.5, right, into)
    picture = f'<svg class="flow" viewBox="0 0 100 {height}" preserveAspectRatio="none" height="{height}" role="img" aria-label="{text(label)}">'
    names = _names(starts, left, out, height), _names(ends, right, into, height)
    widths = [max(map(len, side)) + 6 for side in (left, right)]
    return (
        f'<div class="sankey" style="--left:{widths[0]}ch;--right:{widths[1]}ch;height:{height}px"><div class="side from">{names[0]}</div>'
        f'{picture}{"".join(bands)}{nodes}</svg><div class="side">{names[1]}</div></div>'
    )


def _folded(names: Sequence[str], mass: Sequence[Sequence[float]]) -> tuple[list[str], list[list[float]]]:
    """The largest rows first, the rest as one."""
    order = sorted(range(len(names)), key=lambda number: (-sum(mass[number]), names[number]))
    kept = order if len(order) <= _NAMED + 1 else order[:_NAMED]
    rest = order[len(kept) :]
    found, rows = [names[number] for number in kept], [list(mass[number]) for number in kept]
    if rest:
        found.append(f"{len(rest)} others")
        rows.append([sum(column) for column in zip(*(mass[number] for number in rest), strict=True)])
    return found, rows


def _stacked(shares: Sequence[float], height: int) -> list[tuple[float, float]]:
    """(top, size) of every group of a side."""
    room, place, found = height - _GAP * (len(shares) - 1), 0.0, []
    for share in shares:
        found.append((place, share * room))
        place += share * room + _GAP
    return found


def _band(start: float, wide: float, end: float, wide_in: float, tone: str, title: str) -> str:
    top = f"M1.5 {start:.1f}C50 {start:.1f} 50 {end:.1f} 98.5 {end:.1f}"
    bottom = f"L98.5 {end + wide_in:.1f}C50 {end + wide_in:.1f} 50 {start + wide:.1f} 1.5 {start + wide:.1f}z"
    return f'<path class="band {tone}" d="{top}{bottom}"><title>{text(title)}</title></path>'


def _nodes(places: Sequence[tuple[float, float]], x: float, names: Sequence[str], shares: Sequence[float]) -> str:
    return "".join(
        f'<rect class="node" x="{x}" y="{top:.1f}" width="1.5" height="{max(size, 1):.1f}"><title>{text(f"{name}: {percent(share)}")}</title></rect>'
        for (top, size), name, share in zip(places, names, shares, strict=True)
    )


def _names(places: Sequence[tuple[float, float]], names: Sequence[str], shares: Sequence[float], height: int) -> str:
    middles = apart([top + size / 2 for top, size in places], _LINE, 8, height - 8)
    return "".join(
        f'<div style="top:{y}px" title="{text(name)}"><span>{text(name)}</span><span class="quiet">{percent(share)}</span></div>'
        for y, name, share in zip(middles, names, shares, strict=True)
    )
