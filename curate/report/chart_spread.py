"""Small pictures beside each other: a histogram per arm over the pool's outline, and points in a plane."""

from collections.abc import Iterable, Sequence

from curate.report.page_parts import text

Point = tuple[float, float]
SIDE = 200  # of a map, in its own units


def histogram(shares: Sequence[float], tallest: float, behind: str, tone: str, label: str) -> str:
    """Bars of equal width under an outline; `tallest` is the same for all that are compared."""
    return (
        f'<svg class="histogram {tone}" viewBox="0 0 {max(len(shares), 1)} 100" preserveAspectRatio="none" role="img" aria-label="{text(label)}">'
        f'<title>{text(label)}</title><path class="bars" d="{_steps(shares, tallest)}z"/>{behind}</svg>'
    )


def outline(key: str, shares: Sequence[float], tallest: float) -> str:
    """The pool's shares as a line; drawn again by its key."""
    return f'<path class="outline" id="{key}" d="{_steps(shares, tallest)}"/>'


class Window:
    """Where points of a plane fall in a square of `SIDE` units, so that all of them fit; nothing is stretched."""

    def __init__(self, points: Iterable[Point]) -> None:
        xs, ys = zip(*points, strict=True)
        self.left, self.bottom = min(xs), min(ys)
        self.span = max(max(xs) - self.left, max(ys) - self.bottom) or 1.0
        self.indent = (self.span - (max(xs) - self.left)) / 2, (self.span - (max(ys) - self.bottom)) / 2

    def place(self, point: Point) -> tuple[int, int]:
        """Whole units from the left and from the top."""
        room = SIDE - 12
        x = 6 + room * (point[0] - self.left + self.indent[0]) / self.span
        y = 6 + room * (1 - (point[1] - self.bottom + self.indent[1]) / self.span)
        return round(x), round(y)

    def dots(self, points: Sequence[Point]) -> str:
        """The path of as many dots: strokes without length, whose round ends are drawn."""
        return "".join(f"M{x} {y}h0" for x, y in dict.fromkeys(map(self.place, points)))


def cloud(window: Window, points: Sequence[Point], style: str, title: str) -> str:
    """Dots of one kind."""
    return f'<path class="{style}" d="{window.dots(points)}"><title>{text(title)}</title></path>' if points else ""


def rings(window: Window, points: Sequence[Point], title: str) -> str:
    """Rings, which hide nothing of what they stand around."""
    circles = "".join(f'<circle cx="{x}" cy="{y}" r="2.4"/>' for x, y in dict.fromkeys(map(window.place, points)))
    return f'<g class="rings"><title>{text(title)}</title>{circles}</g>' if circles else ""


def plane(inside: str, label: str) -> str:
    """A square of points."""
    return f'<svg class="plane" viewBox="0 0 {SIDE} {SIDE}" role="img" aria-label="{text(label)}">{inside}</svg>'


def thinned(points: Sequence[Point], most: int) -> list[int]:
    """Which points to draw: all, or as many as allowed at even distances, the same ones every time."""
    return list(range(len(points))) if len(points) <= most else [number * len(points) // most for number in range(most)]


def _steps(shares: Sequence[float], tallest: float) -> str:
    heights = [round(100 * (1 - share / tallest)) if tallest else 100 for share in shares]
    return "M0 100" + "".join(f"V{height:g}h1" for height in heights) + "V100"
