"""Wrong recipes and wrong commands: an exit code, one sentence that says where, what was allowed and what to do, and no traceback."""

from collections.abc import Callable
from pathlib import Path

import pytest

from campaign import catalogue_config, catalogue_data, catalogue_model, catalogue_numeric
from campaign.catalogue import Case, tried_here
from campaign.catalogue_config import RECIPE
from curate.store import locked

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def curate(command_line: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Run `curate ...` in an empty folder; its exit code and what it said on standard error, for it may say nothing else."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str]:
        code = command_line(*arguments)
        said = capsys.readouterr()
        assert said.out == "" and "Traceback" not in said.err
        return code, said.err

    return run


def written(text: str | bytes, tiny: Path) -> Path:
    path = Path("bad.yaml")
    path.write_bytes(text if isinstance(text, bytes) else text.replace("MODEL", str(tiny)).encode())
    return path


CASES = [case for case in catalogue_config.cases() if isinstance(case, Case)]


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_a_wrong_recipe_or_command_is_one_line_that_says_where_and_what_is_allowed(case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tried_here(case, tmp_path, capsys.readouterr) == []


def test_every_number_of_the_catalogue_has_a_case() -> None:
    for makers, letter, last in ((catalogue_config, "C", 18), (catalogue_data, "D", 22), (catalogue_model, "M", 16), (catalogue_numeric, "N", 17)):
        found = {case.id.partition("-")[0] for case in makers.cases()}
        found |= {case.id.partition("-")[0] for case in catalogue_data.cases()}  # which missing files belong to
        assert {f"{letter}{number:02d}" for number in range(1, last + 1)} <= found


def test_an_unknown_option_or_choice_is_a_usage_error(curate: Command, tiny: Path) -> None:
    for option, said in ((["--nope"], "No such option"), (["--until", "never"], "'prepare', 'score', 'select', 'train'"), (["--workers", "0"], "--workers")):
        code, message = curate("run", written(RECIPE, tiny), *option)
        assert code == 2 and said in message


@pytest.mark.parametrize("name", ["results.json", "run.json"])
@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_damaged_record_of_a_run_is_named(curate: Command, name: str, content: str) -> None:
    folder = Path("runs/old")
    folder.mkdir(parents=True)
    (folder / name).write_text(content)
    code, message = curate("report" if name == "results.json" else "verify", "old")
    assert (code, message.count("\n")) == (8, 1) and f"runs/old/{name}" in message and "run" in message.partition(";")[2]


def test_c14_a_gpu_that_is_not_there_is_refused(curate: Command, tiny: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    code, message = curate("run", written(RECIPE, tiny), "--device", "cuda")
    assert (code, message.count("\n")) == (2, 1) and "--device cuda is not to be had here" in message and "use cpu or auto" in message
    assert not Path("runs").exists()


@pytest.mark.parametrize("option", ["--store", "--runs"])
@pytest.mark.parametrize("place", ["bad.yaml", "bad.yaml/below"])
def test_f03_a_folder_that_cannot_be_written_is_named(curate: Command, tiny: Path, option: str, place: str) -> None:
    code, message = curate("run", written(RECIPE, tiny), option, place, "--until", "prepare", "--quiet")
    assert (code, message.count("\n")) == (7, 1)
    assert f"{place}/" in message and "Not a directory; name folders that can be written with --runs and --store" in message


def test_f03_a_log_that_cannot_be_written_is_named(curate: Command, tiny: Path) -> None:
    Path("runs/bad/log.jsonl").mkdir(parents=True)
    code, message = curate("run", written(RECIPE, tiny), "--until", "prepare", "--quiet")
    assert (code, message.count("\n")) == (7, 1) and "cannot write runs/bad/log.jsonl: Is a directory" in message


def test_r14_a_run_that_is_in_use_is_left_alone(curate: Command, tiny: Path) -> None:
    with locked(Path("runs/bad/.lock"), wait=False):
        code, message = curate("run", written(RECIPE, tiny), "--quiet")
    assert code == 6 and message == "error: runs/bad is in use by another curate process; wait for it, or give this run another name\n"
    assert not Path("store").exists()
