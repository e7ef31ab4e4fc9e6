"""An evaluation of models as tables in the terminal."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from curate.harness.results import Evaluated, Examined, MetricFound, Trust
from curate.report.wording import PLUS_MINUS, visible


def print_evaluated(found: Evaluated, console: Console) -> None:
    """Per task: every variant's metrics, then what they cost; where a press was used, how far it is from the exact engine."""
    plus = PLUS_MINUS if _shows(console, PLUS_MINUS) else "+-"
    for task in dict.fromkeys(one.task for one in found.examined):
        console.print(_scores([one for one in found.examined if one.task == task], plus))
    console.print(_costs(found.examined))
    if found.press:
        fields = ", ".join(f"{name} {value}" for name, value in found.press.items() if isinstance(value, int | float) and name != "name")
        console.print(Text(f"press: {found.press['name']} ({fields}); its scores are not exact", style="yellow"))
        console.print(_trust(found.trust))
    for line in [*found.notes, *_warnings(found)]:
        console.print(Text(f"note: {visible(line)}", style="yellow"))


def _shows(console: Console, text: str) -> bool:
    try:
        text.encode(console.encoding)
    except UnicodeEncodeError:
        return False
    return True


def _scores(rows: list[Examined], plus: str) -> Table:
    first = rows[0]
    version = f" (version {first.version})" if first.version else ""
    table = Table(box=box.SIMPLE_HEAD, title=f"{visible(first.task)}{version}, {first.items} items", title_justify="left")
    table.add_column("variant")
    for metric in first.metrics:
        table.add_column(f"{metric.name}{'' if metric.higher_is_better else ' (lower is better)'}", justify="right")
    empty = any(one.empty for one in rows)
    if empty:
        table.add_column("empty answers", justify="right")
    for one in rows:
        table.add_row(visible(one.variant), *(_metric(metric, plus) for metric in one.metrics), *([str(one.empty)] if empty else []))
    return table


def _costs(rows: list[Examined]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title="cost; answers that were known before cost nothing", title_justify="left")
    for column in ("task", "variant"):
        table.add_column(column)
    for column in ("tokens computed", "without sharing", "stored keys", "seconds"):
        table.add_column(column, justify="right")
    for one in rows:
        cost = (f"{one.forward_tokens:,}", f"{one.tokens_without_sharing:,}", _bytes(one.cache_bytes), f"{one.seconds:.1f}")
        table.add_row(visible(one.task), visible(one.variant), *cost)
    return table


def _metric(metric: MetricFound, plus: str) -> str:
    if metric.standard_error is None:
        return f"{metric.value:.4f}"
    return f"{metric.value:.4f} {plus} {metric.standard_error:.4f}"


def _bytes(count: int) -> str:
    power = next((power for power in range(3) if count < 1024 ** (power + 1)), 3)
    return f"{count / 1024**power:.{0 if power == 0 else 1}f} {('B', 'KiB', 'MiB', 'GiB')[power]}"


def _trust(rows: list[Trust]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title="the press against the exact engine, on the first items", title_justify="left")
    for column in ("task", "items", "same answer", "off by, nats", "KL, nats", "tau", "same sign", ""):
        table.add_column(column, justify="left" if column in ("task", "") else "right")
    for one in rows:
        measured = (one.loglikelihood_error, one.divergence, one.kendall_tau, one.sign_agreement)
        cells = ["-" if value is None else f"{value:.4f}" for value in measured]
        table.add_row(visible(one.task), str(one.items), f"{one.agreement:.1%}", *cells, "passes" if one.passed else "fails: rank no variants by it")
    return table


def _warnings(found: Evaluated) -> list[str]:
    lines = {f"{one.task}: requests ran one by one, for {one.unshared}" for one in found.examined if one.unshared}
    if found.press:
        untouched = [one.task for one in found.examined if one.forward_tokens and not one.compressed_tokens]
        lines |= {f"{task}: nothing was compressed, for its items share no prefix" for task in untouched}
    return sorted(lines)
