"""How numbers and names are written, the same in the terminal, in Markdown and in HTML."""

import unicodedata

from curate.report.results import Comparison, DataSummary, Number, Results
from curate.report.tables import Proof, Section, Taken, Task
from curate.statistics import scale

PLUS_MINUS = "\u00b1"
TAKEN_HEADER = ["rows", "tokens", "tokens with loss", "tokens trained on"]
PROOF_HEADER = ["where", "arm", "certificate", "objective", "bound", "gap"]
PROOF_NOTE = (
    "No selection within the budget can pass the bound; the gap is the share of the way to it that is left, "
    "counted from random rows where the method states them."
)
_ACTS = ("Cc", "Cf", "Cs", "Zl", "Zp")  # control, format and bidirectional, surrogate, line and paragraph separators


def visible(text: object, keep: str = "") -> str:
    """Text in which characters that steer a terminal or the reading direction stand as escapes (`keep` excepted)."""
    return "".join(c if c in keep or unicodedata.category(c) not in _ACTS else c.encode("unicode_escape").decode() for c in str(text))


def task_lines(task: Task, better_up: bool) -> list[str]:
    """`svamp`, `acc, points`, and which way is better."""
    name, metric = task
    unit = scale(metric).unit
    return [name, f"{metric}, {unit}" if unit else metric, "more is better" if better_up else "less is better"]


def heading(section: Section) -> str:
    """`target maths, budget 5%`; empty if the run has neither."""
    return ", ".join(f"{word} {value}" for word, value in (("target", section.target), ("budget", section.budget)) if value)


def score(entry: Comparison | None) -> str:
    """`71.2 +- 0.9`."""
    if entry is None:
        return ""
    factor, digits, _ = scale(entry.metric)
    error = entry.standard_error
    return f"{entry.mean * factor:.{digits}f}" + ("" if error is None else f" {PLUS_MINUS} {error * factor:.{digits}f}")


def change(entry: Comparison | None) -> str:
    """`+1.8 [+0.4, +3.1]`; empty for the baseline."""
    if entry is None or entry.difference is None:
        return ""
    factor, digits, _ = scale(entry.metric)
    ends = "" if entry.low is None or entry.high is None else f" [{entry.low * factor:+.{digits}f}, {entry.high * factor:+.{digits}f}]"
    return f"{entry.difference * factor:+.{digits}f}{ends}"


def count(value: float) -> str:
    """`12,400`; one decimal where an average over seeds is not whole."""
    return f"{value:,.{0 if value >= 100 else 1}f}".removesuffix(".0")


def number(value: Number) -> str:
    """Six digits, or a dash where there is none."""
    return "-" if value is None else f"{value:.6g}"


def gap(value: Number) -> str:
    """A relative gap in percent; zero is proven optimal."""
    if value is None:
        return "-"
    return "0 (proven optimal)" if value == 0 else f"{value:.2%}"


def size(count: int) -> str:
    """`12.3 KiB`, `4.5 MiB`, `1.2 GiB`."""
    if count < 2**20:
        return f"{count / 2**10:,.1f} KiB"
    return f"{count / 2**20:,.1f} MiB" if count < 2**30 else f"{count / 2**30:,.1f} GiB"


def duration(seconds: float) -> str:
    """`0.4 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def pool_sentence(results: Results) -> str:
    """Every row of the pool is used or set aside for a reason."""
    pool = results.pool
    aside = count(sum(pool.quarantined.values())) + (f" ({reasons(pool)})" if pool.quarantined else "")
    return f"Pool: {count(pool.rows_in)} rows read, {count(pool.used)} used, {aside} set aside."


def reasons(data: DataSummary) -> str:
    """Why rows were set aside, most first."""
    return ", ".join(f"{reason} {count(rows)}" for reason, rows in sorted(data.quarantined.items(), key=lambda item: (-item[1], item[0])))


def taken_cells(taken: Taken) -> list[str]:
    """Rows, tokens, tokens with loss and tokens trained on, then a count for each kind."""
    trained = count(taken.train_tokens) if taken.train_tokens else ""
    return [count(taken.rows), count(taken.tokens), count(taken.supervised_tokens), trained, *map(count, taken.counts)]


def proof_cells(proof: Proof) -> list[str]:
    """One cell for each of `PROOF_HEADER`."""
    c = proof.certificate
    where = ", ".join(part for part in (proof.target, proof.budget) if part)
    aim = "at most" if c.sense == "max" else "at least"
    return [where, proof.arm, c.kind, number(c.objective), f"{aim} {number(c.bound)}", gap(c.gap)]
