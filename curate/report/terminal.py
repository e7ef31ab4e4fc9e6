"""The report as tables in the terminal: plain text where the output is no terminal, and no text from data can act on one."""

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from curate.report.churned import CHURN_HEADER, CHURN_TITLE, churn_rows
from curate.report.controlled import HEADER, TITLE, control_rows
from curate.report.findings import headlines, notes
from curate.report.leak_tables import cleaning_sentences, leak_tables
from curate.report.results import Results
from curate.report.tables import Kinds, Section, Task, higher_is_better, kinds, proofs, without_controls, word
from curate.report.wording import (
    PLUS_MINUS,
    PROOF_HEADER,
    PROOF_NOTE,
    TAKEN_HEADER,
    change,
    heading,
    pool_sentence,
    proof_cells,
    score,
    taken_cells,
    task_lines,
    visible,
)

_STYLES: dict[str, str] = {"better": "bold green", "worse": "bold red", "unclear": "dim", "": ""}
T = TypeVar("T")
_GAP = 2  # characters between columns


def print_tables(results: Results, console: Console) -> None:
    """Headlines, then per target and budget the comparison and what each arm took, then certificates, notes and warnings."""
    found = without_controls(results)
    for line in headlines(results, found):
        console.print(_text(line, console, "bold"))
    for section in found:
        for table in _comparison(results, section, console):
            console.print(table)
    for section in found:
        taken = kinds(results, section)
        for table in _taken(taken, section, console) if taken else ():
            console.print(table)
    if results.controlled:
        console.print(_lines(TITLE, HEADER, control_rows(results), console, right=("difference",)))
    if proofs(results):
        console.print(_certificates(results, console))
        console.print(_text(PROOF_NOTE, console, "dim"))
    if results.churn:
        console.print(_lines(CHURN_TITLE, CHURN_HEADER, churn_rows(results.churn), console, right=CHURN_HEADER[3:]))
    for one in leak_tables(results.hygiene):
        console.print(_lines(one.title, one.header, one.rows, console, right=one.header[3:]))
    for line in [pool_sentence(results), *cleaning_sentences(results.hygiene)]:
        console.print(_text(line, console))
    for line in notes(results, found):
        console.print(_text(line, console, "dim"))
    for line in results.warnings:
        console.print(_text(f"warning: {line}", console, "yellow"))


def _comparison(results: Results, section: Section, console: Console) -> Iterator[Table]:
    """As many tasks side by side as the width allows."""
    directions = higher_is_better(results)
    first = max(cell_len(visible(arm)) for arm in section.arms) + _GAP
    blocks = [_block(section, task, directions[task]) for task in section.tasks]
    for number, part in enumerate(_packed(blocks, [sum(map(_width, block)) for block in blocks], console.width - first)):
        table = _table(heading(section) if number == 0 else "", console)
        table.add_column("arm", overflow="fold")
        for column in (column for block in part for column in block):
            title = Text("\n").join(_text(line, console) for line in column[0].split("\n"))
            table.add_column(title, justify="right" if column[0] else "left", no_wrap=True)
        for row, arm in enumerate(section.arms):
            cells = (_text(column[row + 1], console, _STYLES.get(block[2][row + 1], "dim") if i else "") for block in part for i, column in enumerate(block))
            table.add_row(_text(arm, console), *cells)
        yield table


def _block(section: Section, task: Task, better_up: bool) -> list[list[Any]]:
    """Three columns of one task, each a header and a cell per arm: score, difference, outcome."""
    entries = [section.entries.get((arm, task)) for arm in section.arms]
    return [
        ["\n".join(visible(line) for line in task_lines(task, better_up)), *map(score, entries)],
        ["against random", *map(change, entries)],
        ["", *(word(entry, better_up) if entry else "" for entry in entries)],
    ]


def _taken(taken: Kinds, section: Section, console: Console) -> Iterator[Table]:
    """Kinds down, arms across, the pool first; as many arms side by side as the width allows."""
    names = [*TAKEN_HEADER, *taken.names]
    arms = list(taken.arms)
    first = max(cell_len(visible(name)) for name in names) + _GAP
    pool = taken_cells(taken.pool)
    cells = {arm: taken_cells(taken.arms[arm]) for arm in arms}
    width = max(cell_len(visible(text)) for column in (arms, pool, *cells.values()) for text in column) + _GAP
    where = heading(section)
    for part in _packed(arms, [width] * len(arms), console.width - first - width):
        table = _table("rows taken" + (f", {where}" if where else "") + ", mean over seeds", console)
        table.add_column("", overflow="fold")
        for title in ("pool", *part):
            table.add_column(_text(title, console), justify="right", overflow="fold")
        for row, name in enumerate(names):
            table.add_row(*(_text(text, console) for text in (name, pool[row], *(cells[arm][row] for arm in part))), end_section=row + 1 == len(TAKEN_HEADER))
        yield table


def _certificates(results: Results, console: Console) -> Table:
    rows = [proof_cells(proof) for proof in proofs(results)]
    return _lines("how far from optimal a selection can be", PROOF_HEADER, rows, console, right=("objective", "bound", "gap"))


def _lines(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], console: Console, *, right: Sequence[str]) -> Table:
    table = _table(title, console)
    for name in header:
        table.add_column(name, justify="right" if name in right else "left")
    for row in rows:
        table.add_row(*(_text(cell, console) for cell in row))
    return table


def _table(title: str, console: Console) -> Table:
    shown = _text(title, console, "bold") if title else None
    return Table(title=shown, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, _GAP - 1, 0, 0), safe_box=True)


def _text(text: str, console: Console, style: str = "") -> Text:
    """Neither markup nor control characters, and nothing that the terminal's encoding lacks."""
    plain = visible(text)
    if PLUS_MINUS.encode(console.encoding, "ignore") == b"":
        plain = plain.replace(PLUS_MINUS, "+-")
    return Text(plain.encode(console.encoding, "backslashreplace").decode(console.encoding), style=style)


def _width(column: list[str]) -> int:
    return max(cell_len(line) for cell in column for line in cell.split("\n")) + _GAP


def _packed(items: Sequence[T], widths: Sequence[int], room: int) -> Iterator[list[T]]:
    """Consecutive items, as many at a time as fit, at least one."""
    part: list[T] = []
    used = 0
    for item, width in zip(items, widths, strict=True):
        if part and used + width > room:
            yield part
            part, used = [], 0
        part.append(item)
        used += width
    if part:
        yield part
