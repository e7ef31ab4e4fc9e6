"""Rows to read: what an arm took and why, and what it left."""

from collections.abc import Iterable

from curate.report.page_parts import lines_of, placed, tabs, text
from curate.report.results import Results, Shown
from curate.report.wording import count

_PREVIEW = 220  # characters of a text before it folds


def examples(results: Results) -> str:
    """By target, budget and arm, taken beside left."""

    def draw(key: str, found: list[Shown]) -> str:
        arms = dict.fromkeys(row.arm for row in found)
        return tabs(key, "arm", [(arm, _beside([row for row in found if row.arm == arm])) for arm in arms])

    return placed("x", results.shown, draw)


def _beside(rows: list[Shown]) -> str:
    kept, left = [row for row in rows if row.taken], [row for row in rows if not row.taken]
    columns = "".join(f"<div><h4>{title}</h4>{_cards(found)}</div>" for title, found in (("Taken", kept), ("Left", left)) if found)
    return f'<div class="pair">{columns}</div>'


def _cards(rows: Iterable[Shown]) -> str:
    return "".join(map(_card, rows))


def _card(row: Shown) -> str:
    place = f"rank {count(row.rank)}" if row.rank is not None else ""
    size = f"{count(row.tokens)} tokens" if row.tokens else ""
    about = ", ".join(filter(None, (place, row.group, size)))
    near = "".join(f"<li>{text(line)}</li>" for line in row.nearest)
    nearest = f'<div class="nearest">nearest target rows<ul>{near}</ul></div>' if near else ""
    return (
        f'<article class="card {"kept" if row.taken else "left"}"><p class="quiet"><b>{text(row.id)}</b> {text(about)}</p>'
        f'<p class="reason">{text(row.reason)}</p>{_body(row.text)}{nearest}</article>'
    )


def _body(words: str) -> str:
    if len(words) <= _PREVIEW:
        return f'<blockquote class="row">{lines_of(words)}</blockquote>'
    start = lines_of(words[:_PREVIEW].rstrip())
    return f'<details class="row"><summary><span>{start} &hellip;</span></summary><blockquote>{lines_of(words)}</blockquote></details>'
