"""Every bug of the teeth fits today's source, and one that no driver catches, or that does not fit, is no success."""

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from campaign import teeth
from campaign.command import ROOT
from campaign.teeth import misfit
from campaign.teeth_bugs import BUGS, Bug, Edit

NAMES = (
    *("naive write", "no dir fsync", "count-only reconcile", "completion-order reduce", "position as id", "per-process seed", "nan_to_num", "zero-norm kept"),
    *("fixed tmp name", "plan hash ignores dtype", "skip hash check", "dashboard 0.0.0.0", "torch.load", "token in repr", "tie by argsort"),
)
DRIVER = """import sys
from campaign.part import answer
if answer() != 42:
    print("FAILED: the answer is", answer())
    sys.exit(1)
"""
WRONG = Bug("wrong", "it answers wrongly", (Edit("campaign/part.py", "42", "41"),), "driver", "", "the answer is 41")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source with a driver that looks at one number."""
    found = tmp_path / "source"
    for name in teeth.COPIED:
        (found / name).mkdir(parents=True) if "." not in name else (found / name).touch()
    for name, text in (("__init__", ""), ("driver", DRIVER), ("part", "def answer():\n    return 42\n")):
        (found / "campaign" / f"{name}.py").write_text(text)
    monkeypatch.setattr(teeth, "ROOT", found)
    monkeypatch.setattr(teeth, "check_imports", lambda tree: None)
    return found


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *bugs: Bug) -> tuple[int, str]:
    """The exit code and what is said of these bugs; the driver takes no seed."""
    monkeypatch.setattr(teeth, "BUGS", bugs)
    code = teeth.main(["--seed", "3"])
    return code, capsys.readouterr().out


def test_the_bugs_are_the_fifteen_that_were_promised() -> None:
    assert tuple(bug.name for bug in BUGS) == NAMES
    assert all(find_spec(f"campaign.{bug.driver}") for bug in BUGS)


@pytest.mark.parametrize("bug", BUGS, ids=NAMES)
def test_every_edit_fits_one_place_of_todays_source_and_leaves_it_python(bug: Bug) -> None:
    assert misfit(bug, ROOT) == ""
    assert all(edit.old != edit.new and (ROOT / edit.file).is_file() for edit in bug.edits)


def test_a_bug_that_is_caught_is_counted_and_the_source_stays_as_it_is(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(teeth, "BUGS", (WRONG,))
    assert teeth.main(["--out", str(tmp_path / "r.json")]) == 0
    said = capsys.readouterr().out
    assert "  wrong: driver : caught, " in said and "1 planned, 1 landed, 0 not landed, 1 passed, 0 failed" in said
    assert "42" in (root / "campaign" / "part.py").read_text()
    assert [bug["caught"] for bug in json.loads((tmp_path / "r.json").read_text())["bugs"]] == [True]


@pytest.mark.parametrize(
    ("bug", "said"),
    [
        (replace(WRONG, edits=(Edit("campaign/part.py", "42", "6 * 7"),)), "MISSED: the driver passes"),
        (replace(WRONG, edits=(Edit("campaign/part.py", "42", "unknown"),)), "MISSED: the driver exits with 1, but does not say 'the answer is 41'"),
        (replace(WRONG, edits=(Edit("campaign/driver.py", "campaign.part", "campaign.gone"),)), "MISSED: the driver exits with 1, but does not say"),
        (replace(WRONG, edits=(Edit("campaign/part.py", "43", "41"),)), "NOT LANDED: campaign/part.py has '43' 0 times, not once"),
        (replace(WRONG, edits=(Edit("campaign/driver.py", "answer", "x"),)), "NOT LANDED: campaign/driver.py has 'answer' 4 times, not once"),
        (replace(WRONG, edits=(Edit("campaign/part.py", "42", "("),)), "NOT LANDED: '(' was never closed"),
        (replace(WRONG, edits=(Edit("campaign/gone.py", "42", "41"),)), "NOT LANDED: [Errno 2]"),
    ],
    ids=["harmless", "other failure", "import", "gone", "twice", "no Python", "no file"],
)
def test_a_bug_that_is_missed_or_does_not_land_is_a_failure(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], bug: Bug, said: str
) -> None:
    code, found = run(monkeypatch, capsys, WRONG, bug)
    assert code == 1 and said in found and "2 planned" in found and "1 passed" in found


def test_a_driver_that_fails_without_the_bug_is_not_trusted(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "campaign" / "part.py").write_text("def answer():\n    return 41  # 42\n")
    code, found = run(monkeypatch, capsys, WRONG)
    assert code == 1 and "MISSED: without the bug it exits with 1: FAILED: the answer is 41" in found


def test_each_command_is_tried_without_a_bug_once(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def noted(command: list[str], tree: Path) -> tuple[int, str]:
        ran.append(tree.name)
        return int(tree.name == "planted"), "the answer is 41"

    monkeypatch.setattr(teeth, "from_tree", noted)
    found = teeth.swept([WRONG, replace(WRONG, name="again")], root, tmp_path / "scratch", 0, lambda line: None)
    assert found["passed"] == 2 and ran == ["whole", "planted", "planted"]


def test_a_copy_that_is_not_what_is_imported_stops_everything(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="is not what is imported"):
        teeth.check_imports(tmp_path)


@pytest.mark.slow
def test_a_real_bug_is_caught_by_its_driver(tmp_path: Path) -> None:
    (bug,) = (bug for bug in BUGS if bug.name == "tie by argsort")
    found = teeth.swept([bug], ROOT, tmp_path / "scratch", 0, lambda line: None)
    assert (found["landed"], found["passed"]) == (1, 1), found["bugs"]
