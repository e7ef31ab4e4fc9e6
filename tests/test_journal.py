"""A journal keeps every decision, drops one that a crash cut short, and says when it is damaged."""

from pathlib import Path

import pytest

from curate.errors import IntegrityError
from curate.journal import JournalFile


def test_decisions_are_kept_in_order_and_read_by_another_process(tmp_path: Path) -> None:
    journal = JournalFile(tmp_path / "decisions.jsonl")
    assert journal.entries() == []
    for step in range(3):
        journal.append({"step": step, "said": "\n\u00e4"})
    assert [entry["step"] for entry in JournalFile(tmp_path / "decisions.jsonl").entries()] == [0, 1, 2]


def test_a_line_that_a_crash_cut_short_never_counted(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    JournalFile(path).append({"step": 0})
    with open(path, "ab") as file:
        file.write(b'{"step": 1, "chos')
    journal = JournalFile(path)
    assert journal.entries() == [{"step": 0}]
    journal.append({"step": 1})
    assert JournalFile(path).entries() == [{"step": 0}, {"step": 1}]


def test_a_damaged_line_is_no_decision(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    path.write_bytes(b"{}\nnonsense\n{}\n")
    with pytest.raises(IntegrityError, match="decisions.jsonl is damaged"):
        JournalFile(path).entries()
