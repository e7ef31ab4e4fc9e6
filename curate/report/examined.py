"""An evaluation of models as tables in the terminal."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from curate.harness.results import Evaluated, Examined, MetricFound, Trust
from curate.report.wording import PLUS_MINUS, size, visible

_GAP = 2  # characters between columns
Column = list[str]  # a heading, and a cell per row
_FIRST_N = "fewshot_config: {sampler: first_n} gives all questions the same examples"
_MORE = f"{_FIRST_N}, and a press with `covers: prompt` compresses every whole prompt"
_LITTLE = 0.1  # of the prompts' tokens


def print_evaluated(found: Evaluated, console: Console) -> None:
    """Per task: every variant's metrics and what they cost; where a press was used, how far it is from the exact engine."""
    for task in dict.fromkeys(one.task for one in found.examined):
        rows = [one for one in found.examined if one.task == task]
        console.print(_text(_title(rows[0], found.press), console, "bold"))
        for table in _scores(rows, pressed=found.press is not None, console=console):
            console.print(table)
    if found.press:
        console.print(_text("the press against the exact engine, on the first items", console, "bold"))
        console.print(_trust(found.trust, console))
        console.print(_text(f"press: {_fields(found.press)}; its scores are not exact", console, "yellow"))
    for one in found.trust:
        if not one.passed:
            console.print(_text(f"{one.task}: do not rank variants by these scores: {'; '.join(one.doubts)}", console, "bold red"))
    for line in [*found.notes, *_warnings(found)]:
        console.print(_text(f"note: {line}", console, "yellow"))


def _title(first: Examined, press: dict[str, Any] | None) -> str:
    """`boolq, 3,270 items, version 1, through snapkv: not exact`."""
    version = [f"version {first.version}"] if first.version else []
    items = f"{first.items:,} item{'s' if first.items != 1 else ''}"
    return ", ".join([first.task, items, *version, *([f"through {press['name']}: not exact"] if press else [])])


def _scores(rows: Sequence[Examined], *, pressed: bool, console: Console) -> Iterator[Table]:
    """Metrics, then costs; as many side by side as the width allows."""
    blocks = [[[_heading(metric), *(_value(one.metrics[number]) for one in rows)]] for number, metric in enumerate(rows[0].metrics)]
    if any(one.empty for one in rows):
        blocks.append([["empty\nanswers", *(f"{one.empty:,}" for one in rows)]])
    blocks.append(_costs(rows, pressed))
    names = [visible(one.variant) for one in rows]
    taken = min(max(map(cell_len, ["variant", *names])), console.width // 2) + _GAP
    for columns in _packed(blocks, console.width - taken):
        table = _table(["variant", *(column[0] for column in columns)], console)
        for row, name in enumerate(names, 1):
            table.add_row(*(_text(cell, console) for cell in (name, *(column[row] for column in columns))))
        yield table


def _costs(rows: Sequence[Examined], pressed: bool) -> list[Column]:
    stored = ["-" if one.cache_bytes is None else size(one.cache_bytes) if one.cache_bytes else "0" for one in rows]
    return [
        ["tokens\ncomputed", *(f"{one.forward_tokens:,}" for one in rows)],
        ["without\nsharing", *(f"{one.tokens_without_sharing:,}" for one in rows)],
        ["stored\nkeys", *stored],
        *([["through\nthe press", *(f"{one.compressed_tokens:,}" for one in rows)]] if pressed else []),
        *([["of all\nprompts", *(f"{one.compressed_share:.0%}" for one in rows)]] if pressed else []),
        ["seconds", *(f"{one.seconds:,.1f}" for one in rows)],
    ]


def _heading(metric: MetricFound) -> str:
    return metric.name.replace(",", ",\n") + ("" if metric.higher_is_better else "\nlower is better")


def _value(metric: MetricFound) -> str:
    if metric.value is None:
        return "too large"
    shown = _number(metric.value)
    return shown if metric.standard_error is None else f"{shown} {PLUS_MINUS} {_number(metric.standard_error)}"


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.4g}"


def _trust(rows: Sequence[Trust], console: Console) -> Table:
    table = _table(["task", "items", "same\nanswer", "off by,\nnats", "KL,\nnats", "rank\ntau", "same\nsign", "exact\ntokens", ""], console)
    for one in rows:
        measured = (one.loglikelihood_error, one.divergence, one.kendall_tau, one.sign_agreement)
        cells = ["-" if value is None else f"{value:.4f}" for value in measured]
        verdict = "passes" if one.passed else "fails"
        cells = [one.task, f"{one.items:,}", f"{one.agreement:.1%}", *cells, f"{one.forward_tokens:,}", verdict]
        table.add_row(*(_text(cell, console) for cell in cells))
    return table


def _fields(press: dict[str, Any]) -> str:
    """`snapkv, keep 0.5, importance window (window 32)`: the press's own fields, and its parts by name with theirs."""
    return ", ".join([press["name"], *_worded(press)])


def _worded(part: dict[str, Any]) -> list[str]:
    shown = {name: value for name, value in part.items() if name != "name" and value is not None}
    return [f"{name} {_part(value) if isinstance(value, dict) else value}" for name, value in shown.items()]


def _part(part: dict[str, Any]) -> str:
    fields = ", ".join(_worded(part))
    return f"{part['name']} ({fields})" if fields else str(part["name"])


def _warnings(found: Evaluated) -> list[str]:
    lines = {f"{one.task}: requests ran one by one: {one.unshared}" for one in found.examined if one.unshared}
    lines |= {f"{one.task}: empty answers count as wrong" for one in found.examined if one.empty}
    if any(not one.forward_tokens for one in found.examined):
        lines.add("answers that were known before cost nothing")
    if found.press:
        untouched = {one.task for one in found.examined if not one.compressed_tokens}
        shares = {one.task: one.compressed_share for one in found.examined if one.compressed_tokens and one.compressed_share < _LITTLE}
        lines |= {f"{task}: {share:.1%} of the prompts' tokens went through the press, so scores say little of it; {_MORE}" for task, share in shares.items()}
        lines |= {f"{task}: nothing was compressed, for no two requests begin alike, so the scores are exact; {_FIRST_N}" for task in untouched}
    return sorted(lines)


def _table(headings: Sequence[str], console: Console) -> Table:
    """Empty; the first column holds names, which are folded where they are long, the others numbers, which are not."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, _GAP - 1, 0, 0), safe_box=True)
    for number, heading in enumerate(headings):
        title = Text("\n").join(_text(line, console) for line in heading.split("\n"))
        table.add_column(title, justify="right" if number else "left", overflow="fold", no_wrap=number > 0)
    return table


def _packed(blocks: Sequence[list[Column]], room: int) -> Iterator[list[Column]]:
    """The columns of consecutive blocks, as many blocks at a time as fit, at least one."""
    part: list[Column] = []
    used = 0
    for block in blocks:
        width = sum(max(cell_len(line) for cell in column for line in cell.split("\n")) + _GAP for column in block)
        if part and used + width > room:
            yield part
            part, used = [], 0
        part += block
        used += width
    if part:
        yield part


def _text(text: str, console: Console, style: str = "") -> Text:
    """Neither markup nor control characters, and nothing that the terminal's encoding lacks."""
    plain = visible(text)
    if PLUS_MINUS.encode(console.encoding, "ignore") == b"":
        plain = plain.replace(PLUS_MINUS, "+-")
    return Text(plain.encode(console.encoding, "backslashreplace").decode(console.encoding), style=style)
