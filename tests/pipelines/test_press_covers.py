"""What a press covers: said in the table, chosen on the command line and in a recipe, where it is also held against the exact run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from curate.errors import ConfigError
from curate.harness.exam import first
from curate.inference.engine import Engine
from curate.inference.ledger import Ledger
from curate.model import cached, resolve
from curate.pipelines.examine_file import in_tokens
from curate.press_option import read_press
from curate.presses.snapkv import Snapkv
from curate.recipe import read_recipe
from curate.settings import ModelSpec
from tests.pipelines.asked_tasks import CHOICE, FREE, ROWS, evaluated, tasks_in
from tests.pipelines.test_examine_file import RECIPE, examination

Command = Callable[..., int]
OWN = CHOICE.replace("Question:", "{{ question }} Question:").replace("num_fewshot: 2", "num_fewshot: 0")  # prompts that begin unlike each other


@pytest.mark.parametrize("text", [OWN, FREE], ids=("choice", "free"))
def test_a_press_that_covers_prompts_acts_where_nothing_is_shared(text: str, tiny: Path, tmp_path: Path) -> None:
    tasks = tasks_in(tmp_path, t=text)
    for covers in ("prefix", "prompt"):
        press = read_press(f"{{name: snapkv, tokens: 4, covers: {covers}}}")
        found = evaluated(tiny, tasks.values(), tmp_path / covers, press=press).examined[0]
        assert found.compressed_share > 0.9 if covers == "prompt" else found.compressed_share < 0.6
        assert found.compressed_tokens > 0 or covers == "prefix"
    exact = evaluated(tiny, tasks.values(), tmp_path / "exact", log_items=tmp_path / "a")
    press = Snapkv(keep=1.0, covers="prompt")
    kept = evaluated(tiny, tasks.values(), tmp_path / "kept", press=press, log_items=tmp_path / "b")
    assert [one.metrics for one in kept.examined] == [one.metrics for one in exact.examined] and kept.trust[0].passed


def test_the_share_is_that_of_the_tokens_each_request_reads_through_the_press(tiny: Path, tmp_path: Path) -> None:
    tasks = tasks_in(tmp_path, choice=CHOICE)
    found = evaluated(tiny, tasks.values(), tmp_path, press=Snapkv(tokens=4)).examined[0]
    handle = resolve(ModelSpec(path=str(tiny)), Path.cwd())
    exam = in_tokens(examination(tmp_path, handle).origin, handle)
    contexts = [one.context for asked in exam.asked for one in asked.sent]
    common = next(i for i in range(1000) if len({tuple(context[: i + 1]) for context in contexts}) > 1)
    assert found.compressed_share == pytest.approx(common * len(contexts) / sum(map(len, contexts)))
    assert exam.through(Snapkv(covers="prompt"), Engine(cached(handle)).layout)[0] == sum(len(one) - 1 for one in set(map(tuple, contexts)))


def test_little_through_the_press_is_a_line_of_warning_and_the_table_has_the_share(
    command_line: Command, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    tasks = tasks_in(tmp_path, own=CHOICE.replace("Question:", "Q {{ question * 4 }}:").replace("num_fewshot: 2", "num_fewshot: 0"))
    where = ["--tasks", tasks["own"], "--store", tmp_path / "store", "--device", "cpu", "--quiet"]
    assert command_line("evaluate", tiny, "--press", "snapkv", *where) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "of the prompts' tokens went through the press, so scores say little of it; fewshot_config: {sampler: first_n} gives" in said
    assert "a press with `covers: prompt` compresses every whole prompt" in said and "of all" in said
    assert command_line("evaluate", tiny, "--press", "{name: snapkv, covers: prompt}", *where) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "say little of it" not in said and "covers prompt" in said and any(f"{share}%" in said for share in (96, 97, 98, 99))


def test_what_a_press_cannot_cover_is_refused_in_a_line() -> None:
    with pytest.raises(ConfigError, match="covers"):
        read_press("{name: snapkv, covers: everything}")


PRESSED = RECIPE.replace("  - {{task: tasks/choice.yaml}}\n", "  - {{task: tasks/choice.yaml, press: {{name: snapkv, tokens: 4, covers: prompt}}}}\n")


def test_a_recipe_evaluates_through_a_press_and_says_how_far_off_it_is(command_line: Command, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    tasks_in(tmp_path / "tasks", choice=CHOICE, free=FREE)
    (tmp_path / "filed.yaml").write_text(PRESSED.format(model=tiny))
    where = ["--store", tmp_path / "store", "--runs", tmp_path / "runs", "--workers", 1, "--quiet"]
    assert command_line("run", tmp_path / "filed.yaml", *where) == 0
    results = json.loads((tmp_path / "runs" / "filed" / "results.json").read_bytes())
    assert {"choice through snapkv", "spoken"} < {one["task"] for one in results["comparisons"]}
    lossy = [line for line in results["warnings"] if "is not exact" in line]
    assert len(lossy) == 2
    assert all("of the prompts' tokens went through snapkv, and" in line and "of 10 answers are those of the exact run" in line for line in lossy)


@pytest.mark.parametrize("press", [{"name": "snapkv", "tokens": 2}, {"name": "triattention", "tokens": 8, "covers": "prompt"}])
def test_an_examination_through_a_press_is_what_the_engine_gives_and_another_key(press: dict[str, Any], tiny: Path, tmp_path: Path) -> None:
    tasks_in(tmp_path, choice=CHOICE)
    handle = resolve(ModelSpec(path=str(tiny)), Path.cwd())
    plain, lossy = examination(tmp_path, handle), examination(tmp_path, handle, press=press)
    assert plain.identity() != lossy.identity() and "press" not in plain.identity() and lossy.press is not None
    graded, model = lossy.ask(cached(handle), handle), cached(handle)
    exam = in_tokens(lossy.origin, handle)
    state = lossy.press.calibrate(model, [[*asked.sent[0].context, *asked.sent[0].continuation] for asked in exam.asked[:8]], 0)
    identity = {"model": None, "weights": None, "engine": None, "press": None, "versions": None}
    said = exam.ask(Engine(model, press=lossy.press, state=state), Ledger(), identity)
    assert [record["loglikelihoods"] for record in graded.records] == [list(reply.loglikelihoods) for reply in said]
    assert all(record["press"] == press["name"] for record in graded.records)
    exact = first(exam, 32).ask(Engine(model), Ledger(), identity)
    same = sum(a.loglikelihoods.index(max(a.loglikelihoods)) == b.loglikelihoods.index(max(b.loglikelihoods)) for a, b in zip(exact, said, strict=True))
    assert f"{same / len(ROWS):.1%} of 10 answers are those of the exact run" in graded.lossy
    assert plain.ask(model, handle).lossy == ""


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ("{task: multiple_choice, data: {path: x.jsonl}, press: snapkv}", "a press goes with a task file"),
        ("{task: tasks/choice.yaml, press: snap}", "snapkv"),
        ("{task: tasks/choice.yaml, press: {name: snapkv, cover: prompt}}", "covers"),
    ],
)
def test_a_press_that_is_no_use_is_refused_by_its_place(fields: str, line: str, tiny: Path, tmp_path: Path) -> None:
    text = RECIPE.format(model=tiny).replace("{task: tasks/choice.yaml}", fields)
    (tmp_path / "filed.yaml").write_text(text)
    with pytest.raises(ConfigError, match=line):
        read_recipe(tmp_path / "filed.yaml", ())
