"""A plan in the terminal."""

from typing import TYPE_CHECKING

from curate.report.planned import Plan, Planned
from curate.report.wording import duration, size, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_VERBS = {
    "examples": "prepare",
    "vectors": "embed",
    "near_leaks": "compare",
    "leaks": "compare",
    "duplicates": "compare",
    "semantic": "compare",
    "clean": "clean",
    "features": "score",
    "selection": "select",
    "recheck": "compare again",
    "train": "train",
    "evaluate": "evaluate",
}


def print_plan(plan: Plan, console: "Console") -> None:
    """The table, its total, and what follows from it."""
    console.print(_table(plan))
    if any(line.missing for line in plan.planned):
        where = f"on {plan.device} with {plan.workers} worker{'s' if plan.workers > 1 else ''}{f' of {plan.profile}' if plan.profile else ''}"
        console.print(f"measured on miniatures in {duration(plan.measured_seconds)}, for a run {where}; ~ is rough", markup=False, highlight=False, style="dim")
    else:
        console.print("everything is there: a run computes nothing, and writes its report", markup=False, highlight=False)
    for line in plan.sentences:
        console.print(visible(line), markup=False, highlight=False)
    for line in plan.warnings:
        console.print(f"warning: {visible(line)}", markup=False, highlight=False, style="yellow")


def _table(plan: Plan) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), safe_box=True)
    table.add_column("what", overflow="fold")
    for name in ("cached", "time", "at most", "memory", "disk", *(("money",) if plan.price is not None else ())):
        table.add_column(name, justify="right", no_wrap=True)
    for line in plan.planned:
        table.add_row(*(Text(visible(cell)) for cell in _cells(plan, line)))
    disk, memory = sum(line.disk for line in plan.planned), max(line.memory for line in plan.planned)
    least = "> " if any(line.unknown and line.missing for line in plan.planned) else ""
    most = sum(line.high / line.at_once for line in plan.planned)
    table.add_section()
    table.add_row("total", "", least + duration(plan.elapsed), duration(most), size(memory), size(disk), *_money(plan, plan.elapsed), style="bold")
    return table


def _cells(plan: Plan, line: Planned) -> list[str]:
    cached = "yes" if not line.missing else f"{len(line.found)} of {line.count}" if line.found else "no"
    what = f"{_VERBS.get(line.stage, '')} {line.what}".strip()
    if not line.missing or line.unknown:
        return [what, cached, "unknown" if line.missing else "", "", "", "", *("" for _ in _money(plan, 0.0))]
    time = ("~ " if line.rough else "") + duration(line.elapsed)
    return [what, cached, time, duration(line.high / line.at_once), _memory(line), size(line.disk), *_money(plan, line.elapsed)]


def _memory(line: Planned) -> str:
    return size(line.memory) if line.device_memory is None else f"{size(line.memory)}, GPU {size(line.device_memory)}"


def _money(plan: Plan, seconds: float) -> list[str]:
    money = plan.money(seconds)
    return [] if money is None else [f"{money:,.2f}"]
