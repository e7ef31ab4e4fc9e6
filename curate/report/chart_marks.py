"""Who is who in every chart: an arm keeps its colour and its shape over the whole page."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from curate.report.page_parts import text
from curate.report.results import Results
from curate.report.tables import REFERENCES, Section, controls, kinds

SHAPES = (
    "M-4.4 0a4.4 4.4 0 1 0 8.8 0a4.4 4.4 0 1 0-8.8 0z",
    "M-3.9-3.9h7.8v7.8h-7.8z",
    "M0-5.2L5 3.6H-5z",
    "M0-5.6L5.2 0L0 5.6L-5.2 0z",
)
RULES = ("zero_shot", "full")  # the same model at every budget
NAMED = 8  # tones that can be told apart, with impaired colour vision too


class Mark(NamedTuple):
    """The class that gives a mark its colour, and its place in `SHAPES`."""

    tone: str
    shape: int

    def at(self, x: float, y: float, title: str) -> str:
        """The mark at x percent and y pixels, and what it says when pointed at."""
        return f'<use href="#m{self.shape}" class="mark {self.tone}" x="{x:.4g}%" y="{y:.4g}"><title>{text(title)}</title></use>'

    def key(self, name: str) -> str:
        """The mark and a name, for a legend; those that are the same at every budget are lines without marks."""
        drawn = '<line class="mark" x1="1" x2="13" y1="7" y2="7"/>' if self.tone in RULES else f'<use href="#m{self.shape}" class="mark" x="7" y="7"/>'
        return f'<span class="key {self.tone}"><svg aria-hidden="true">{drawn}</svg>{text(name)}</span>'


class Marks(dict[str, Mark]):
    """Marks by arm; an arm without one of its own is grey."""

    def __missing__(self, arm: str) -> Mark:
        return Mark("other", 0)


def marks(results: Results) -> Marks:
    """References in grey, each its own shade; controls too; the first arms in colours, in the order of the run."""
    copies = controls(results)
    found = Marks({arm: Mark(arm, number) for number, arm in enumerate(REFERENCES)})
    named = [arm for arm in dict.fromkeys(_arms(results)) if arm not in REFERENCES]
    found |= {arm: Mark("control", 1) for arm in named if arm in copies}
    coloured = [arm for arm in named if arm not in copies][:NAMED]
    return Marks(found | {arm: Mark(f"a{number}", number % len(SHAPES)) for number, arm in enumerate(coloured)})


class Tones(dict[str, str]):
    """Colour classes by group of rows; a group without one of its own is grey."""

    def __missing__(self, group: str) -> str:
        return f"k{NAMED}"


def tones(results: Results, parts: Sequence[Section]) -> dict[str, Tones]:
    """By target: the groups that the pictures of its rows name, each in one colour at every budget."""
    found: dict[str, Tones] = {}
    for part in parts:
        mine = found.setdefault(part.target, Tones())
        taken = kinds(results, part)
        for name in taken.names if taken else ():
            if name in results.pool.groups and name not in mine and len(mine) < NAMED:
                mine[name] = f"k{len(mine)}"
    return found


def definitions() -> str:
    """The shapes, once for the page."""
    shapes = "".join(f'<path id="m{number}" d="{shape}"/>' for number, shape in enumerate(SHAPES))
    return f'<svg class="definitions" aria-hidden="true"><defs>{shapes}</defs></svg>'


def _arms(results: Results) -> Iterator[str]:
    groups: Iterable[Iterable[str]] = (
        (cell.arm for cell in results.cells),
        (entry.arm for entry in results.comparisons),
        (row.arm for row in results.selections),
    )
    for group in groups:
        yield from group
