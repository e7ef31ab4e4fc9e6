"""Leaks and duplicates in the words and cells that every report shows."""

from collections.abc import Sequence
from typing import NamedTuple

from curate.report.cleaned import CleanedPool
from curate.report.wording import count

_LEAK_TITLE = "what of targets and evaluations stands in the pool"
_LEAK_HEADER = ("set", "role", "verdict", "items", "dirty", "suspicious", "rows that leak")
_TAKEN_TITLE = "rows taken that leak an evaluation or a target, mean over seeds"
_TAKEN_HEADER = ("arm", "target", "budget", "rows that leak", "of its rows")


class LeakTable(NamedTuple):
    """A table whose first three columns are words."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def leak_tables(found: CleanedPool | None) -> list[LeakTable]:
    """What stands in the pool, and what arms took of it; a table without rows is absent."""
    made = [LeakTable(_LEAK_TITLE, _LEAK_HEADER, _leak_rows(found)), LeakTable(_TAKEN_TITLE, _TAKEN_HEADER, _taken_rows(found))]
    return [one for one in made if one.rows]


def _leak_rows(found: CleanedPool | None) -> list[tuple[str, ...]]:
    """A row of cells for each set."""
    return [
        (one.name, one.role, one.verdict, *map(count, (one.items, one.dirty, one.suspicious, one.rows_dirty))) for one in (found.benchmarks if found else ())
    ]


def _taken_rows(found: CleanedPool | None) -> list[tuple[str, ...]]:
    """A row of cells for each arm and budget; empty where no arm took any."""
    taken = found.taken if found else []
    if not any(one.leaking for one in taken):
        return []
    return [(one.arm, one.target or "", one.budget, f"{one.leaking:.1f}", f"{one.leaking / one.rows:.1%}" if one.rows else "-") for one in taken]


def cleaning_sentences(found: CleanedPool | None) -> list[str]:
    """What was left out, in sentences; empty where nothing was."""
    if found is None:
        return []
    said = {"leak": "leak", "duplicate": "repeat another row", "near_duplicate": "almost repeat another row", "semantic_duplicate": "are alike by vectors"}
    lines = list(found.notes)
    if found.dropped:
        parts = ", ".join(f"{count(number)} {said.get(reason, reason)}" for reason, number in found.dropped.items())
        lines.append(f"Of {count(found.rows)} usable rows of the pool, {count(sum(found.dropped.values()))} were left out before scoring: {parts}.")
    if found.unread:
        lines.append(f"{count(found.unread)} rows of the pool came as token ids and could not be compared with targets and evaluations.")
    return lines


def leak_warnings(found: CleanedPool, left_out: bool) -> list[str]:
    """A line for each set that stands in the pool, where its rows were not left out."""
    advice = "scores on it measure memory; hygiene.decontaminate: true leaves them out"
    return [
        f"{one.role} {one.name}: {count(one.dirty)} of its {count(one.items)} items stand in the pool, in {count(one.rows_dirty)} rows: {advice}"
        for one in found.benchmarks
        if one.dirty and not left_out
    ]
