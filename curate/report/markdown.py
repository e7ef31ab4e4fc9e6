"""The report as Markdown: the same tables and sentences as in the terminal."""

import re
from collections.abc import Iterable, Sequence

from curate.report.churned import CHURN_HEADER, CHURN_TITLE, churn_rows
from curate.report.controlled import HEADER, TITLE, control_rows
from curate.report.findings import headlines, notes
from curate.report.leak_tables import cleaning_sentences, leak_tables
from curate.report.results import Results
from curate.report.tables import Kinds, Section, higher_is_better, kinds, proofs, without_controls, word
from curate.report.wording import (
    PROOF_HEADER,
    PROOF_NOTE,
    TAKEN_HEADER,
    change,
    duration,
    heading,
    pool_sentence,
    proof_cells,
    score,
    taken_cells,
    task_lines,
    visible,
)

_ACTIVE = re.compile(r"([\\`*{}\[\]<>#|~]|(?<!\w)_|_(?!\w))")  # an underscore inside a word is no markup


def render(results: Results) -> str:
    """A GitHub-flavoured document; nothing from data is read as markup."""
    found = without_controls(results)
    taken = [(section, made) for section in found if (made := kinds(results, section))]
    parts = [f"# {escape(results.name)}", "\n".join(f"- **{escape(line)}**" for line in headlines(results, found))]
    parts += [part for section in found for part in (f"## {escape(heading(section) or 'comparison')}", _comparison(results, section))]
    parts += [part for section, made in taken for part in (f"## Rows taken{escape(_after(section))}", _taken(made))]
    if results.controlled:
        parts += [f"## Against{escape(TITLE.removeprefix('against'))}", table(HEADER, control_rows(results), left=4)]
    if proofs(results):
        parts += [
            "## How far from optimal a selection can be",
            escape(PROOF_NOTE),
            table(PROOF_HEADER, (proof_cells(proof) for proof in proofs(results)), left=3),
        ]
    if results.churn:
        parts += [f"## {escape(CHURN_TITLE[0].upper() + CHURN_TITLE[1:])}", table(CHURN_HEADER, churn_rows(results.churn), left=3)]
    for one in leak_tables(results.hygiene):
        parts += [f"## {escape(one.title[0].upper() + one.title[1:])}", table(one.header, one.rows, left=3)]
    said = [pool_sentence(results), *cleaning_sentences(results.hygiene), *notes(results, found), *results.warnings]
    parts += ["## What to keep in mind", "\n".join(f"- {escape(line)}" for line in said)]
    stages = ((stage.stage, stage.label, "from the store" if stage.cached else duration(stage.seconds)) for stage in results.stages)
    parts += ["## Time", f"{duration(results.seconds)} in all.", table(["stage", "what", "time"], stages, left=2) if results.stages else ""]
    parts += ["## How to reproduce", fenced(results.command) if results.command else "", fenced(results.recipe, "yaml") if results.recipe else ""]
    machine = ", ".join(f"{name} {value}" for name, value in results.hardware.items())
    parts.append(escape(f"curate {results.version}, {results.created}" + (f"; {machine}" if machine else "")))
    return "\n\n".join(part for part in parts if part) + "\n"


def escape(text: object) -> str:
    """Text that Markdown and HTML show as it is, on one line."""
    return _ACTIVE.sub(r"\\\1", visible(text)).replace("&", "&amp;").replace("\\<", "&lt;").replace("\\>", "&gt;")


def fenced(text: str, language: str = "") -> str:
    """A code block whose fence is longer than any run of backticks inside."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{visible(text, keep=chr(10)).rstrip()}\n{fence}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A table with the first `left` columns to the left and the rest to the right; cells are escaped."""
    rule = [":--"] * left + ["--:"] * (len(header) - left)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in ([escape(cell) for cell in header], rule, *([escape(cell) for cell in row] for row in rows)))


def _comparison(results: Results, section: Section) -> str:
    directions = higher_is_better(results)
    header = ["arm"]
    for task in section.tasks:
        header += [", ".join(task_lines(task, directions[task])), "against random", "verdict"]
    rows = []
    for arm in section.arms:
        row = [arm]
        for task in section.tasks:
            entry = section.entries.get((arm, task))
            row += [score(entry), change(entry), word(entry, directions[task]) if entry else ""]
        rows.append(row)
    return table(header, rows)


def _taken(taken: Kinds) -> str:
    columns = [taken_cells(taken.pool), *(taken_cells(arm) for arm in taken.arms.values())]
    names = [*TAKEN_HEADER, *taken.names]
    return table(["mean over seeds", "pool", *taken.arms], ([name, *(column[row] for column in columns)] for row, name in enumerate(names)))


def _after(section: Section) -> str:
    return f", {heading(section)}" if heading(section) else ""
