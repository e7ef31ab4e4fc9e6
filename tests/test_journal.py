"""A journal keeps every decision, drops one that a crash cut short, and says when it is damaged."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from curate import fault
from curate.errors import DiskError, IntegrityError
from curate.journal import JournalFile


@pytest.fixture(autouse=True)
def unarmed() -> Iterator[None]:
    yield
    fault.arm(None)


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


def test_the_first_decision_flushes_the_name_of_the_file_too(tmp_path: Path) -> None:
    operations: list[fault.Operation] = []
    fault.arm(fault.Fault(0, observe=operations.append))
    journal = JournalFile(tmp_path / "decisions.jsonl")
    for step in range(2):
        journal.append({"step": step})
    assert [one.name for one in operations] == ["open", "write", "fsync", "fsync folder", "open", "write", "fsync"]
    assert [one.data for one in operations if one.data] == [b'{"step":0}\n', b'{"step":1}\n']


@pytest.mark.parametrize("at", [5, 6, 7])
def test_a_decision_that_a_full_disk_cut_short_is_an_error_and_the_next_one_follows_what_was_whole(tmp_path: Path, at: int) -> None:
    journal = JournalFile(tmp_path / "decisions.jsonl")
    fault.arm(fault.Fault(at, "ENOSPC"))
    journal.append({"step": 0})
    with pytest.raises(DiskError, match="cannot write .*decisions.jsonl: No space left on device; free or mount the disk and run the same command again"):
        journal.append({"step": 1})
    journal.append({"step": 2})
    steps = [entry["step"] for entry in JournalFile(tmp_path / "decisions.jsonl").entries()]
    assert steps == ([0, 1, 2] if at == 7 else [0, 2])  # one whose flush failed may be there
