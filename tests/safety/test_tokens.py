"""P19, S08, S09, C12: a token of the environment is in no file that curate writes and in nothing that it says."""

from collections.abc import Callable
from pathlib import Path

import pytest
from pyarrow import parquet

from tests.safety.hostile import CANARY, Ran, holding, safe_recipe

Command = Callable[..., int]


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY"):
        monkeypatch.setenv(name, CANARY)


@pytest.fixture
def said(command_line: Command, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run `curate ...`; its exit code, and all that it said."""

    def run(*arguments: object) -> tuple[int, str]:
        code = command_line(*arguments)
        found = capsys.readouterr()
        return code, found.out + found.err

    return run


def test_a_run_with_workers_leaves_the_token_nowhere(ran: Ran) -> None:
    assert ran.code == 0 and len([path for path in ran.folder.rglob("*") if path.is_file()]) > 40
    assert holding(ran.folder, CANARY) == []
    assert CANARY.encode() not in ran.said
    assert [words for words in ran.arguments if CANARY in words] == []  # what `ps` shows


def test_report_explain_verify_and_export_leave_it_nowhere(said: Callable[..., tuple[int, str]], ran: Ran, tmp_path: Path) -> None:
    places = ("--store", ran.folder / "store", "--runs", ran.folder / "runs")
    for command in (("report", "safe", *places[2:]), ("verify", "safe", *places), ("export", "safe", "hard", tmp_path / "out", "--seed", "1", *places)):
        code, words = said(*command)
        assert code == 0 and CANARY not in words
    assert len(list((tmp_path / "out").rglob("*.parquet"))) == 1
    assert holding(tmp_path, CANARY) == holding(ran.folder, CANARY) == []


FAILING = [
    ("model", ("model.path=org/not-here",), 4),
    ("hub", ("pool={hub: org/not-here, split: train}",), 3),
    ("data", ("pool.path=absent.jsonl",), 3),
    ("template", ("pool={path: pool.jsonl, prompt: '{absent}', completion: '{completion}'}",), 3),
]


@pytest.mark.parametrize("debug", [(), ("--debug",)], ids=["plain", "debug"])
@pytest.mark.parametrize(("overrides", "code"), [case[1:] for case in FAILING], ids=[case[0] for case in FAILING])
def test_a_run_that_fails_does_not_tell_it_either(
    said: Callable[..., tuple[int, str]],
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    overrides: tuple[str, ...],
    code: int,
    debug: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    found, words = said("run", safe_recipe(tmp_path, tiny), *overrides, "--until", "prepare", "--workers", "1", *debug)
    assert found == code and ("Traceback" in words) == bool(debug)
    assert CANARY not in words and holding(tmp_path, CANARY) == []


@pytest.mark.parametrize("override", ["model.token=TOKEN", "train.hub_token=TOKEN", "token=TOKEN", "pool.token=TOKEN"])
def test_a_recipe_has_no_field_for_a_token_and_the_refusal_does_not_repeat_it(
    said: Callable[..., tuple[int, str]], tiny: Path, tmp_path: Path, override: str
) -> None:
    code, words = said("validate", safe_recipe(tmp_path, tiny), override.replace("TOKEN", CANARY))
    assert code == 2 and "is not a field" in words and CANARY not in words


def test_variables_are_not_filled_in(said: Callable[..., tuple[int, str]], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for value in ("$HF_TOKEN", "${HF_TOKEN}", "{HF_TOKEN}"):
        code, words = said("run", safe_recipe(tmp_path, tiny), f"pool.path='{value}'", "--until", "prepare", "--workers", "1")
        assert code == 3 and f"{value}: no data file matches" in words and CANARY not in words
    assert holding(tmp_path, CANARY) == []


def test_the_search_for_the_token_finds_it(tmp_path: Path) -> None:
    import pyarrow

    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "log.jsonl").write_text(f'{{"x": "{CANARY}"}}')
    parquet.write_table(pyarrow.table({"x": [f"{CANARY} " * 50] * 50}), tmp_path / "packed.parquet", compression="zstd")
    (tmp_path / f"named-{CANARY}").touch()
    (tmp_path / "clean").write_text(CANARY[:-1])
    assert sorted(path.name[:6] for path in holding(tmp_path, CANARY)) == ["log.js", "named-", "packed"]
