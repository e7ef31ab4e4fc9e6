"""The pieces that every part of the page is made of: inert text, tables, folds, and tabs that need no script."""

from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import NamedTuple, Protocol, TypeVar

from curate.report.results import Number
from curate.report.wording import visible

TABS = 12  # as many as the style sheet knows; more panels fold instead


class Placed(Protocol):
    """Anything that belongs to one target and one budget of a run."""

    @property
    def target(self) -> str | None: ...
    @property
    def budget(self) -> str: ...


P = TypeVar("P", bound=Placed)


class Part(NamedTuple):
    """A section of the page, and its name in the contents; absent where the body is empty."""

    anchor: str
    title: str
    body: str


def text(value: object) -> str:
    """Data as HTML text or attribute: markup and control characters are inert."""
    return escape(visible(value))


def lines_of(value: str) -> str:
    """The same for text whose line breaks are kept."""
    return escape(visible(value, keep="\n"))


def section(part: Part) -> str:
    """One section with its heading."""
    return f'<section id="{part.anchor}"><h2>{text(part.title)}</h2>{part.body}</section>' if part.body else ""


def note(words: str) -> str:
    """A quiet line that says how to read what follows."""
    return f'<p class="quiet">{text(words)}</p>'


def sentences(lines: Iterable[str]) -> str:
    """A list of sentences; empty without any."""
    items = "".join(f"<li>{text(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def fold(summary: str, body: str, *, opened: bool = False) -> str:
    """Something to open; empty where there is nothing inside."""
    return f"<details{' open' if opened else ''}><summary>{text(summary)}</summary>{body}</details>" if body else ""


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1, last: int = 0) -> str:
    """Cells escaped, the first `left` columns to the left; a heavier rule under row `last`; it scrolls inside the page."""

    def line(tag: str, values: Sequence[str], number: int) -> str:
        cells = (f"<{tag}>{text(value)}</{tag}>" if column < left else f'<{tag} class="n">{text(value)}</{tag}>' for column, value in enumerate(values))
        return f"<tr{' class=last' if number == last else ''}>{''.join(cells)}</tr>"

    head = f"<thead>{line('th', header, -1)}</thead>" if any(header) else ""
    body = "".join(line("td", row, number) for number, row in enumerate(rows, 1))
    return f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>'


def tabs(key: str, label: str, panels: Sequence[tuple[str, str]]) -> str:
    """Panels of which one shows at a time, the first at the start; a single one stands alone, many fold. `key` is unique on the page."""
    panels = [(name, body) for name, body in panels if body]
    if len(panels) <= 1:
        return "".join(body for _, body in panels)
    if len(panels) > TABS:
        return "".join(fold(f"{label} {name}", body, opened=number == 0) for number, (name, body) in enumerate(panels))
    names = "".join(f'<label for="{key}-{number}">{text(name)}</label>' for number, (name, _) in enumerate(panels))
    buttons = "".join(
        f'<input type="radio" name="{key}" id="{key}-{number}"{" checked" if number == 0 else ""} aria-label="{text(f"{label} {name}")}">'
        for number, (name, _) in enumerate(panels)
    )
    bodies = "".join(f'<div class="panel"><p class="printed">{text(f"{label} {name}")}</p>{body}</div>' for name, body in panels)
    return f'<div class="tabs">{buttons}<p class="tablist"><span>{text(label)}</span>{names}</p>{bodies}</div>'


def placed(key: str, items: Iterable[P], draw: Callable[[str, list[P]], str]) -> str:
    """What `draw` makes of the items of each target and budget, in tabs; it gets a key of its own and the items."""
    groups: dict[str, dict[str, list[P]]] = {}
    for item in items:
        groups.setdefault(item.target or "", {}).setdefault(item.budget, []).append(item)
    panels = []
    for first, (target, budgets) in enumerate(groups.items()):
        inner = [(budget or "every", draw(f"{key}-{first}-{second}", found)) for second, (budget, found) in enumerate(budgets.items())]
        panels.append((target or "every", tabs(f"{key}-{first}", "budget", inner)))
    return tabs(key, "target", panels)


def p_value(p: Number) -> str:
    """`0.012`; below a thousandth only that."""
    return "" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def percent(share: Number) -> str:
    """`34%`, `0.4%`; a dash where there is none."""
    return "-" if share is None else f"{share:.1%}" if 0 < abs(share) < 0.0995 else f"{share:.0%}"


def decimals(value: Number) -> str:
    """Two decimals, or a dash where there is none."""
    return "-" if value is None else f"{value:.2f}"


def short(value: float) -> str:
    """A number for an axis: three digits, thousands with commas."""
    if abs(value) < 1e-12:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
