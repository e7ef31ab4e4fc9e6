"""P20, S06, S07, S10: names and links lead nowhere else, and what steers a terminal is shown as an escape."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.safety.hostile import BELL, Ran, safe_recipe, unseen

Command = Callable[..., tuple[int, str]]
NAMES = ["../up", "/tmp/outside", "a/b", "..", ".", ".hidden", "", " ", "a b", "a\nb", f"a{BELL}", "-rf", "~", "a\\b", "$(x)", "x" * 65, "\u0430", "C:x"]


@pytest.fixture
def curate(command_line: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `curate ...`; its exit code and all that it said, in which nothing steers a terminal."""

    def run(*arguments: object) -> tuple[int, str]:
        code = command_line(*arguments)
        found = capsys.readouterr()
        assert unseen(found.out + found.err) == set()
        return code, found.out + found.err

    return run


@pytest.fixture
def run_folder(ran: Ran, tmp_path: Path) -> Path:
    """A copy of the finished run, to be tampered with."""
    return Path(shutil.copytree(ran.folder / "runs", tmp_path / "runs"))


@pytest.mark.parametrize("name", NAMES, ids=ascii)
@pytest.mark.parametrize("kind", ["name", "features", "arms", "target"])
def test_a_name_that_could_be_a_path_or_steer_a_terminal_is_refused(curate: Command, tiny: Path, tmp_path: Path, kind: str, name: str) -> None:
    path = safe_recipe(tmp_path, tiny)
    old = {"name": "name: safe", "features": "surprise: loss", "arms": "hard: {", "target": "rare: {"}[kind]
    new = old.replace("safe", json.dumps(name)) if kind == "name" else old.replace(old.split(":")[0], json.dumps(name))
    path.write_text(path.read_text().replace(old, new, 1))
    code, said = curate("validate", path)
    assert code == 2 and said.startswith("error: ") and "name" in said
    assert sorted(os.listdir(tmp_path)) == ["pool.jsonl", "safe.yaml", "target.jsonl"]


def test_ids_groups_and_texts_of_rows_name_no_file(ran: Ran) -> None:
    assert ran.code == 0
    made = [path.relative_to(ran.folder) for path in ran.folder.rglob("*")]
    assert sorted(os.listdir(ran.folder)) == ["pool.jsonl", "runs", "safe.yaml", "store", "target.jsonl"]
    assert [path for path in made if not re.fullmatch(r"[A-Za-z0-9._-]+", path.name) or "outside" in path.name] == []
    for place in ("/tmp/outside", "/etc/outside", ran.folder.parent / "outside", ran.folder / "outside"):
        assert not Path(place).exists()


def test_a_run_on_a_terminal_shows_what_steers_it_as_escapes(ran: Ran) -> None:
    assert b"\x1b[" in ran.said  # it was a terminal to curate, which draws bars there
    for piece in ("\x07", "\x1b]", "\x9b", "\u202e"):
        assert piece.encode() not in ran.said


def test_no_command_shows_rows_groups_or_reasons_raw(curate: Command, ran: Ran, tmp_path: Path) -> None:
    places = ("--store", ran.folder / "store", "--runs", ran.folder / "runs")
    code, said = curate("inspect", ran.folder / "safe.yaml")
    assert code == 0 and r"\x1b]0;owned\x07\x9b31m\u202e" in said
    for row in ("../../outside", "row 9", "long", "blank"):
        code, said = curate("explain", "safe", row, *places)
        assert code == 0 and row in said
    for command in (("report", "safe", *places[2:]), ("verify", "safe", *places), ("export", "safe", "hard", tmp_path / "out", *places)):
        assert curate(*command)[0] == 0
    for text in (*ran.folder.glob("runs/safe/*.md"), *ran.folder.glob("runs/safe/*.html"), tmp_path / "out" / "README.md"):
        assert unseen(text.read_text()) == set()
    assert sorted(os.listdir(tmp_path)) == ["out"]


ERRORS = [
    ("data", f"pool.path={json.dumps('no' + BELL)}"),
    ("model", f"model.path={json.dumps('./no' + BELL)}"),
    ("hub-model", f"model.path={json.dumps('org' + BELL + '/no')}"),
    ("column", f"pool.id={json.dumps('no' + BELL)}"),
    ("where", f"pool.where={json.dumps({'kind' + BELL: 'x'})}"),
    ("value", f"pool.where={json.dumps({'kind': BELL})}"),
    ("key", f"train.ep{BELL}=2"),
]


@pytest.mark.parametrize("debug", [(), ("--debug",)], ids=["plain", "debug"])
@pytest.mark.parametrize("override", [case[1] for case in ERRORS], ids=[case[0] for case in ERRORS])
def test_no_error_shows_a_name_raw(curate: Command, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str, debug: tuple[str, ...]) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = curate("run", safe_recipe(tmp_path, tiny), override, "--until", "prepare", "--workers", "1", "--quiet", *debug)
    assert code in (2, 3, 4) and "owned" in said and ("Traceback" in said) == bool(debug)


def test_a_file_whose_name_steers_a_terminal_is_listed_as_escapes(curate: Command, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = safe_recipe(tmp_path, tiny)
    Path("rows").mkdir()
    Path(f"rows/a{BELL}.jsonl").write_text('{"prompt": "x"\n')
    code, said = curate("run", path, "pool={path: rows}", "--until", "prepare", "--workers", "1")
    assert code == 3 and r"a\x1b]0;owned\x07\x9b31m\u202e.jsonl" in said


def test_a_message_on_a_terminal_is_shown_as_escapes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from curate.progress import Progress

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    progress = Progress(None)
    progress.message(f"shown{BELL}")
    progress.close()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)  # without the colours of rich
    assert r"shown\x1b]0;owned\x07\x9b31m\u202e" in plain


@pytest.mark.parametrize("name", ["log.jsonl", "report.html", "results.json", "tables", "tables/cells.parquet", ""])
def test_a_link_in_a_run_folder_is_refused_and_what_it_leads_to_is_left_alone(
    curate: Command, run_folder: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    place, outside = run_folder / "safe" / name, tmp_path / "outside"
    if place.exists():
        place.rename(outside)
    else:
        outside.write_text("mine")
    place.symlink_to(outside)
    before = contents(outside)
    for command in (("run", safe_recipe(tmp_path, tiny), "--quiet", "--workers", "1", "--until", "prepare"), ("report", "safe")):
        code, said = curate(*command)
        assert (code, said.count("\n")) == (10, 1) and f"{place.relative_to(tmp_path)} is a link, and a run writes in its own folder only;" in said
    assert contents(outside) == before and not (tmp_path / "store").exists()


def test_a_log_is_not_opened_through_a_link(tmp_path: Path) -> None:
    from curate.errors import DiskError
    from curate.progress import Progress

    (tmp_path / "victim").write_text("mine")
    (tmp_path / "log.jsonl").symlink_to(tmp_path / "victim")
    with pytest.raises(DiskError, match=r"log.jsonl: Too many levels of symbolic links; remove it"):
        Progress(tmp_path / "log.jsonl", quiet=True)
    assert (tmp_path / "victim").read_text() == "mine"


def test_a_link_in_the_store_is_no_file_of_an_artifact(curate: Command, ran: Ran, tmp_path: Path) -> None:
    store = Path(shutil.copytree(ran.folder / "store", tmp_path / "store"))
    file = next(path for path in sorted(store.glob("selection-*/*")) if path.name not in ("manifest.json", "built.json"))
    file.rename(tmp_path / "same")
    file.symlink_to(tmp_path / "same")  # the bytes are right
    code, said = curate("verify", "safe", "--store", store, "--runs", ran.folder / "runs")
    assert code == 8 and f"{file.name} is missing" in said


def test_an_export_does_not_follow_links(curate: Command, ran: Ran, tmp_path: Path) -> None:
    outside, out = tmp_path / "outside", tmp_path / "out"
    outside.mkdir()
    (outside / "victim").write_text("mine")
    (tmp_path / "link").symlink_to(outside)
    places = ("--store", ran.folder / "store", "--runs", ran.folder / "runs", "--overwrite")
    code, said = curate("export", "safe", "hard", tmp_path / "link", *places)
    assert (code, said.count("\n")) == (9, 1) and "it is not a folder" in said
    assert curate("export", "safe", "hard", out, *places)[0] == 0
    shutil.rmtree(out / "data")
    (out / "data").symlink_to(outside)
    assert curate("export", "safe", "hard", out, *places)[0] == 0  # what was there is replaced, link and all
    assert contents(outside) == {"victim": b"mine"} and not (out / "data").is_symlink()


def contents(path: Path) -> dict[str, bytes]:
    """Every file below, or the one."""
    return {file.name: file.read_bytes() for file in (sorted(path.rglob("*")) if path.is_dir() else [path]) if file.is_file()}
