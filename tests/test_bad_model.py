"""Models that cannot or must not be used, through the command line: refused before anything is scored, in one sentence."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from campaign import catalogue_model
from campaign.catalogue import Case, tried_here
from campaign.catalogue_model import LOOP, poison, put, recipe_of, write

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(command_line: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Score with the model under this path; the exit code and what was said on standard error, for nothing else may be said."""
    monkeypatch.chdir(tmp_path)

    def score(path: object, command: str = "run") -> tuple[int, str]:
        Path("bad.yaml").write_text(recipe_of(path))
        options = ["--until", "score", "--quiet", "--workers", "1"] if command == "run" else []
        code = command_line(command, "bad.yaml", *options)
        said = capsys.readouterr()
        assert said.out == "" and "Traceback" not in said.err
        assert said.err.startswith("error: ") and said.err.count("\n") == 1
        return code, said.err

    return score


@pytest.fixture
def model(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to be damaged."""
    return Path(shutil.copytree(tiny, tmp_path / "model"))


CASES = [case for case in catalogue_model.cases() if isinstance(case, Case)]


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_a_damaged_or_unsafe_model_is_refused(case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tried_here(case, tmp_path, capsys.readouterr) == []


def test_m02_a_model_that_changes_is_another_model(tiny: Path, model: Path) -> None:
    from curate.model import resolve
    from curate.settings import ModelSpec

    poison(model)
    same, changed = (resolve(ModelSpec(path=str(path)), Path()) for path in (tiny, model))
    assert same.identity() != changed.identity()


def test_m12_inspect_stops_a_template_that_never_ends_too(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from curate.data.preflight import check_template

    monkeypatch.setitem(check_template.__kwdefaults__ or {}, "seconds", 1)
    write("chat_template.jinja", LOOP)(model)
    code, message = run(model, "inspect")
    assert code == 10 and f"the chat template of {model} is refused: it takes more than 1 s or " in message and "use another model" in message


def test_m15_memory_that_does_not_suffice_says_what_to_lower(run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from curate.scorers.loss import Loss

    def exhaust(*arguments: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(Loss, "reader", exhaust)
    code, message = run(tiny)
    assert code == 4 and "tokens does not fit in the memory of the device or machine, alone as it is; lower model.max_length" in message
    assert len(message.split("row ")[1].split(" of ")[0]) >= 32  # its id


def test_m16_a_model_is_scored_without_dropout(tiny: Path, model: Path) -> None:
    from curate.model import fresh, resolve
    from curate.settings import ModelSpec

    put("config.json", attention_dropout=0.5)(model)
    loaded = fresh(resolve(ModelSpec.model_validate({"path": str(model), "lora": {"dropout": 0.5}}), Path()))
    assert not any(module.training for module in loaded.model.modules())
