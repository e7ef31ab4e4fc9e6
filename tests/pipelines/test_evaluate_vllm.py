"""`curate evaluate --vllm`: the same scores, from another generator, which is not started for answers that are known."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from curate.inference import vllm_backend, vllm_process
from curate.inference.engine import Engine
from curate.model import LanguageModel
from curate.pipelines import evaluate_models
from tests.inference.vllm_twin import Twin
from tests.pipelines.asked_tasks import CHOICE, FREE, adapter_in, evaluated, greedy, lines, plain, scores, tasks_in, tokenizer_of, tokens

DRAWN = FREE.replace("free", "drawn").replace("max_gen_toks: 6", "max_gen_toks: 6, temperature: 0.5") + "repeats: 3\n"


@pytest.fixture
def started(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> list[Twin]:
    """All twins that were started in the place of vLLM."""
    made: list[Twin] = []

    def start(*_: Any) -> Twin:
        made.append(Twin(LanguageModel(plain(tiny), None, "cpu", {}), together=99))
        return made[-1]

    monkeypatch.setattr(vllm_backend, "VllmProcess", start)
    for module in (vllm_backend, evaluate_models):
        monkeypatch.setattr(module, "build", lambda: "vllm 0.0")
    return made


def test_scores_equal_the_engines_and_known_answers_are_not_asked_for_again(tiny: Path, tmp_path: Path, started: list[Twin]) -> None:
    tasks = tasks_in(tmp_path, free=FREE, choice=CHOICE)
    own = evaluated(tiny, tasks.values(), tmp_path)
    found = evaluated(tiny, tasks.values(), tmp_path, vllm=True)
    assert scores(found) == scores(own) and started[0].closed
    assert tokens(found)["free", "base"] > 0 and tokens(found)["choice", "base"] == 0  # log-likelihoods are the engine's, and its ledger has them
    assert [note for note in found.notes if "vllm 0.0" in note] and not [note for note in own.notes if "vllm" in note]
    again = evaluated(tiny, tasks.values(), tmp_path, vllm=True)
    assert scores(again) == scores(found) and set(tokens(again).values()) == {0} and started[1].messages == []


def test_samples_of_an_item_are_several_requests_with_seeds_from_the_command(tiny: Path, tmp_path: Path, started: list[Twin]) -> None:
    tasks = tasks_in(tmp_path, drawn=DRAWN)
    for place, seed in (("a", 0), ("b", 0), ("c", 1)):
        evaluated(tiny, tasks.values(), tmp_path / place, vllm=True, seed=seed)
    first, same, other = ([request[2] for request in twin.messages[0]["ask"]] for twin in started)
    assert len(set(first)) == 30 and first == same and not set(first) & set(other)


WRONG: dict[str, tuple[tuple[str, ...], str]] = {
    "press": (("free", "--vllm", "--press", "snapkv"), "--vllm generates in its own way, and so does --press; leave one out"),
    "continuous": (("free", "--vllm", "--continuous"), "--vllm generates in its own way, and so does --continuous; leave one out"),
    "choices": (("choice", "--vllm"), "--vllm generates answers, and no task asks for any; leave it out"),
    "absent": (("free", "--vllm"), "--vllm needs vLLM, which is not installed; pip install 'curate[vllm]', or leave --vllm out"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_call_is_one_line_before_anything_is_computed(
    name: str, tiny: Path, tmp_path: Path, command_line: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (task, *options), said = WRONG[name]
    tasks, find = tasks_in(tmp_path, free=FREE, choice=CHOICE), importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda module, *more: None if module == "vllm" else find(module, *more))
    monkeypatch.setattr(Engine, "score", None)
    code = command_line("evaluate", tiny, "--tasks", tasks[task], *options, "--store", tmp_path / "store", "--device", "cpu", "--quiet")
    message = capsys.readouterr().err
    assert (code, message.count("\n")) == (2, 1) and message.startswith("error: ") and said in message
    assert not (tmp_path / "store").exists()


@pytest.mark.slow
def test_vllm_itself_says_what_a_plain_forward_pass_says_of_every_variant(tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    adapter = adapter_in(tmp_path / "one", tiny, 1)
    tasks, log = tasks_in(tmp_path, free=FREE, drawn=DRAWN), tmp_path / "items.jsonl"
    found = evaluated(tiny, tasks.values(), tmp_path, adapters=[adapter], vllm=True, log_items=log)
    logged, tokenizer = lines(log), tokenizer_of(tiny)
    for variant, model in (("base", plain(tiny)), ("one", plain(tiny, adapter))):
        mine = [line for line in logged if (line["task"], line["variant"]) == ("free", variant)]
        assert len(mine) == 10 and [line["generation"] for line in mine] == [[greedy(model, tokenizer, line["prompt"], 6).split("o")[0]] for line in mine]
    drawn = {variant: [line["generation"] for line in logged if (line["task"], line["variant"]) == ("drawn", variant)] for variant in ("base", "one")}
    assert drawn["base"] != drawn["one"] and all(len(several) == 3 for one in drawn.values() for several in one)
    assert vllm_process.build() in found.notes[0] and not psutil.Process().children()
