"""Wrong calls of `curate evaluate`: an exit code, one line that says what, where and what to do, no traceback, and nothing that was answered is lost."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from curate.errors import ConfigError, IntegrityError
from curate.inference.engine import Engine
from curate.pipelines.variant_folders import variant_folders
from curate.settings import Lora
from curate.store import locked
from tests.pipelines.asked_tasks import CHOICE, FREE, adapter_in, tasks_in

Command = Callable[..., tuple[int, str]]
GREEDY = FREE.replace("free", "drawn").replace("max_gen_toks: 6", "max_gen_toks: 6, temperature: 0.5")


@pytest.fixture
def evaluate(command_line: Callable[..., int], tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run `curate evaluate MODEL` on the CPU in a folder with tasks; its exit code and standard error, for it may say nothing else."""
    monkeypatch.chdir(tmp_path)
    tasks_in(tmp_path, choice=CHOICE, free=FREE, drawn=GREEDY)
    Path("folder").mkdir()

    def run(*arguments: object, model: object = tiny) -> tuple[int, str]:
        code = command_line("evaluate", model, "--device", "cpu", "--quiet", *arguments)
        said = capsys.readouterr()
        assert said.out == "" and "Traceback" not in said.err
        return code, said.err

    return run


TASK = ("--tasks", "choice.yaml")
CALLS: dict[str, tuple[tuple[object, ...], int, str]] = {
    "task": (("--tasks", "chioce.yaml"), 2, "task 'chioce.yaml' is no file and no built-in task; built-in tasks: arc, boolq"),
    "near": (("--tasks", "bolq"), 2, "did you mean boolq?"),
    "twice": ((*TASK, *TASK), 2, "two tasks would be called 'choice'"),
    "no-data": (("--tasks", "boolq"), 3, "the task names no data; add data: FILE, or give the file on the command line"),
    "data": (("--tasks", "boolq=nothing.jsonl"), 3, "no data file matches"),
    "shots": ((*TASK, "--shots", 9), 3, "num_fewshot is 9, but split 'train' has 3 documents"),
    "max-length": ((*TASK, "--max-length", 9999), 4, "model.max_length 9999 is more than the 512 positions of"),
    "revision": ((*TASK, "--revision", "main"), 4, "model.revision 'main' is that of a Hub model"),
    "device": ((*TASK, "--device", "tpu"), 2, "--device tpu is not to be had here"),
    "press": ((*TASK, "--press", "snapvk"), 2, "there is no press 'snapvk'; did you mean snapkv?"),
    "press-field": ((*TASK, "--press", "{name: snapkv, kep: 1}"), 2, "--press:1: kep is not a field; did you mean keep?"),
    "adapter": ((*TASK, "--adapter", "nothing"), 4, "nothing does not exist; give the folder of an adapter, with adapter_config.json"),
    "adapter-file": ((*TASK, "--adapter", "rows.jsonl"), 4, "rows.jsonl is a file; give the folder of an adapter"),
    "no-adapter": ((*TASK, "--adapter", "folder"), 4, "folder is not an adapter: it has neither adapter_config.json nor weights.safetensors"),
    "log-folder": ((*TASK, "--log-items", "nowhere/items.jsonl"), 2, "--log-items nowhere/items.jsonl: there is no folder nowhere; name a file in a folder"),
    "log-is-folder": ((*TASK, "--log-items", "folder"), 2, "--log-items folder: is a folder; name a file in a folder that exists"),
    "store": ((*TASK, "--store", "rows.jsonl"), 7, "cannot write in rows.jsonl/ledger: Not a directory; name folders that can be written"),
    "continuous": (("--tasks", "drawn.yaml", "--continuous"), 2, "--continuous gives greedy answers, and task drawn samples them; leave --continuous out"),
    "continuous-press": ((*TASK, "--continuous", "--press", "snapkv"), 2, "--continuous keeps whole caches, and --press compresses them; leave one out"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_argument_is_one_line_before_anything_is_computed(name: str, evaluate: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, code, said = CALLS[name]
    monkeypatch.setattr(Engine, "score", None)
    found, message = evaluate(*arguments)
    assert (found, message.count("\n")) == (code, 1) and message.startswith("error: ") and said in message
    assert not Path("store").exists()


USAGE = [((), "Missing option '--tasks'"), ((*TASK, "--shots", -1), "Invalid value for '--shots'"), ((*TASK, "--limit", 0), "Invalid value for '--limit'")]
USAGE += [((*TASK, "--dtype", "float16"), "Invalid value for '--dtype'"), ((*TASK, "--nothing"), "No such option")]


@pytest.mark.parametrize(("arguments", "said"), USAGE)
def test_what_no_command_takes_is_a_usage_error(evaluate: Command, arguments: tuple[object, ...], said: str) -> None:
    code, message = evaluate(*arguments)
    assert code == 2 and said in message


MODELS = [("", "MODEL is empty"), ("./nothing", "is not a folder"), ("rows.jsonl", "is not a folder"), ("folder", "has no config.json")]


@pytest.mark.parametrize(("model", "said"), MODELS)
def test_a_model_that_is_not_there_is_named(evaluate: Command, model: str, said: str) -> None:
    code, message = evaluate(*TASK, model=model)
    assert code in (2, 4) and message.count("\n") == 1 and said in message and not Path("store").exists()


def test_two_adapters_of_one_name_are_refused_and_a_link_gives_another_name(evaluate: Command, tiny: Path) -> None:
    one = adapter_in(Path("a/final"), tiny)
    shutil.copytree(one, "b/final")
    code, message = evaluate(*TASK, "--adapter", "a/final", "--adapter", "b/final/")
    assert code == 2 and message == (
        "error: two variants would be called 'final'; adapters are named by their folders: rename b/final, or link to it by another name\n"
    )
    os.symlink(Path("b/final").absolute(), "other")
    assert list(variant_folders([Path("a/final"), Path("other")]).paths) == ["final", "other"]
    os.symlink(Path("b/final").absolute(), "base")
    with pytest.raises(ConfigError, match="two variants would be called 'base'"):
        variant_folders([Path("base")])


def test_an_adapter_of_another_model_is_found_before_any_answer(evaluate: Command, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter_in(Path("good"), tiny)
    config = json.loads((adapter_in(Path("bad"), tiny) / "adapter_config.json").read_text())
    (Path("bad") / "adapter_config.json").write_text(json.dumps(config | {"target_modules": ["q_proj", "k_proj"]}))
    monkeypatch.setattr(Engine, "score", None)
    code, message = evaluate(*TASK, "--adapter", "good", "--adapter", "bad")
    assert (code, message.count("\n")) == (4, 1) and "bad/adapter_model.safetensors does not fit this base model" in message


def test_checkpoints_of_a_run_bring_their_settings(tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    def checkpoint(name: str, lora: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        save_file({"base_model.model.q_proj.lora_A.weight": np.zeros((2, 4), np.float32)}, folder / "weights.safetensors")
        (folder / "manifest.json").write_text(json.dumps({"fields": {"model": {"lora": lora}}}))
        return folder

    two, also, four = (checkpoint(name, {"r": r, "alpha": 4.0, "dropout": 0.0, "targets": "all"}) for name, r in (("two", 2), ("also", 2), ("four", 4)))
    assert variant_folders([two, also]).lora == Lora(r=2, alpha=4)
    with pytest.raises(ConfigError, match="two and .*four were trained with unlike settings of adapters"):
        variant_folders([two, four])
    with pytest.raises(IntegrityError, match="bad/manifest.json is no manifest of a checkpoint"):
        variant_folders([checkpoint("bad", {"rank": 2})])


def test_an_interrupted_call_is_one_line_and_goes_on(evaluate: Command, command_line: Callable[..., int], tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curate.harness.exam.SCORED", 1000)
    score, asked = Engine.score, [0]

    def interrupted(engine: Engine, plan: Any) -> Any:
        asked[0] += 1
        if asked[0] == 2:
            signal.raise_signal(signal.SIGINT)
        return score(engine, plan)

    monkeypatch.setattr(Engine, "score", interrupted)
    message = "interrupted: everything answered so far is kept; run the same command again to go on\n"
    assert evaluate(*TASK) == (130, message)
    assert not list(Path("store").rglob("*.lock")) and len(next(Path("store/ledger").glob("*.jsonl")).read_text().splitlines()) == 1
    assert command_line("evaluate", tiny, "--device", "cpu", "--quiet", *TASK) == 0
    assert asked == [3]  # the first five questions were not asked again


@pytest.mark.parametrize("place", ["curate.pipelines.evaluate_models.fresh", "curate.pipelines.evaluate_models.read_task"])
def test_an_interrupt_while_things_are_read_is_one_line_too(place: str, evaluate: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, lambda *given: signal.raise_signal(signal.SIGINT))
    assert evaluate(*TASK) == (130, "interrupted: everything answered so far is kept; run the same command again to go on\n")


def test_a_ledger_that_is_in_use_is_left_alone(evaluate: Command, command_line: Callable[..., int], tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line("evaluate", tiny, "--device", "cpu", "--quiet", *TASK) == 0
    capsys.readouterr()
    file = next(Path("store/ledger").glob("*.jsonl"))
    with locked(file.with_name(f"{file.name}.lock"), wait=False):
        code, message = evaluate(*TASK)
    assert code == 6 and message == f"error: {file} is in use by another curate process; wait for it, or name another folder with --store\n"


def test_what_it_says_is_neither_markup_nor_control_characters(command_line: Callable[..., int], tiny: Path, tmp_path: Path, capsys: Any) -> None:
    tasks = tasks_in(tmp_path, choice=CHOICE.replace("task: choice", 'task: "[red]\\e[2J"'))
    assert command_line("evaluate", tiny, "--device", "cpu", "--tasks", tasks["choice"], "--limit", 2, "--store", tmp_path / "store") == 0
    said = capsys.readouterr()
    assert "[red]\\x1b[2J, 2 items" in said.out and said.err.endswith("[red]\\x1b[2J: base\n")
