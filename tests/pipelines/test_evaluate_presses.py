"""`curate evaluate --press`: lossy scores beside how far they are from the exact ones, and calibrations that are made once."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as t
from scipy.stats import kendalltau

from curate.compression.importances.retrieval_heads import RetrievalHeads
from curate.errors import ModelError
from curate.inference.fidelity import Fidelity, Gate, doubts_of
from curate.interfaces import Press
from curate.press_option import read_press
from curate.presses.snapkv import Snapkv
from tests.pipelines.asked_tasks import CHOICE, FREE, ROWS, adapter_in, evaluated, lines, scores, tasks_in, tokens
from tests.pipelines.test_evaluate_limits import bloom, saved

HEADS = "{name: retrieval_heads, trials: 6, context: 60, needle: 12, cue: 4}"
CALIBRATED = {
    "razor": "{name: razor, sinks: 2, recent: 4, length: 40}",
    "triattention": "{name: triattention, tokens: 8}",
    "compresskv": f"{{name: compresskv, tokens: 8, importance: {HEADS}, "
    f"allocator: {{name: output_error, importance: {HEADS}, lowest: 4, samples: 2, context: 30, steps: 2}}}}",
}
Command = Callable[..., int]


@pytest.fixture(scope="module")
def adapters(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    top = tmp_path_factory.mktemp("adapters")
    return [adapter_in(top / name, tiny, seed) for seed, name in enumerate(("one", "two"))]


def logged(path: Path, first: int) -> dict[str, list[dict[str, Any]]]:
    """The first lines of every variant."""
    found: dict[str, list[dict[str, Any]]] = {}
    for line in lines(path):
        found.setdefault(line["variant"], []).append(line)
    return {name: several[:first] for name, several in found.items()}


def test_the_press_is_held_against_the_exact_engine_on_the_first_items(tiny: Path, adapters: list[Path], tmp_path: Path) -> None:
    tasks, press = tasks_in(tmp_path, choice=CHOICE), Snapkv(tokens=4)
    evaluated(tiny, tasks.values(), tmp_path / "exact", adapters=adapters, log_items=tmp_path / "exact.jsonl")
    found = evaluated(tiny, tasks.values(), tmp_path, adapters=adapters, press=press, calibrate_on=6, log_items=tmp_path / "lossy.jsonl")
    exact, lossy = logged(tmp_path / "exact.jsonl", 6), logged(tmp_path / "lossy.jsonl", 6)
    pairs = [(a["loglikelihoods"], b["loglikelihoods"]) for name in exact for a, b in zip(exact[name], lossy[name], strict=True)]
    trust = found.trust[0]
    assert (trust.task, trust.items, len(pairs)) == ("choice", 6, 18)
    assert trust.agreement == pytest.approx(np.mean([np.argmax(a) == np.argmax(b) for a, b in pairs]))
    assert trust.loglikelihood_error == pytest.approx(np.mean(np.abs(np.subtract(*np.array(pairs).transpose(1, 0, 2)))), rel=1e-6)
    means = [[np.mean([line["score"] for line in several]) for several in side.values()] for side in (exact, lossy)]
    tau = kendalltau(*means).statistic
    assert (trust.kendall_tau is None and np.isnan(tau)) or trust.kendall_tau == pytest.approx(tau)
    assert trust.loglikelihood_error and trust.loglikelihood_error > 0.01 and trust.forward_tokens > 0
    assert not any(one.exact for one in found.examined) and all(line["press"] == "snapkv" for line in lines(tmp_path / "lossy.jsonl"))
    assert found.press is not None and found.press["tokens"] == 4 and all(one.compressed_tokens for one in found.examined)
    again = evaluated(tiny, tasks.values(), tmp_path, adapters=adapters, press=press, calibrate_on=6)
    assert again.trust == [trust.model_copy(update={"forward_tokens": 0})] and not any(tokens(again).values())
    assert [one.compressed_tokens for one in again.examined] == [one.compressed_tokens for one in found.examined]


@pytest.mark.parametrize("metric", ["acc", "acc_mutual_info"])
def test_a_press_that_keeps_all_is_exact_and_passes(metric: str, tiny: Path, tmp_path: Path) -> None:
    tasks = tasks_in(tmp_path, choice=CHOICE + f"metric_list: [{{metric: {metric}}}]\n", free=FREE)
    exact = evaluated(tiny, tasks.values(), tmp_path / "exact")
    found = evaluated(tiny, tasks.values(), tmp_path, press=Snapkv(keep=1.0))
    assert scores(found) == scores(exact)
    assert [(one.agreement, one.passed, one.doubts) for one in found.trust] == [(1.0, True, [])] * 2
    assert found.trust[0].loglikelihood_error == pytest.approx(0, abs=1e-4)


def test_where_likelihoods_are_weighed_alone_greedy_answers_are_compared(tiny: Path, tmp_path: Path) -> None:
    text = CHOICE.replace("multiple_choice", "loglikelihood").replace("doc_to_target: label", "doc_to_target: answer").replace("doc_to_choice: options\n", "")
    tasks = tasks_in(tmp_path, choice=text.replace("num_fewshot: 2", "num_fewshot: 0"))
    evaluated(tiny, tasks.values(), tmp_path / "exact", log_items=tmp_path / "exact.jsonl")
    found = evaluated(tiny, tasks.values(), tmp_path, press=Snapkv(tokens=2), log_items=tmp_path / "lossy.jsonl")
    exact, lossy = lines(tmp_path / "exact.jsonl"), lines(tmp_path / "lossy.jsonl")
    assert [metric.name for metric in found.examined[0].metrics] == ["perplexity", "acc"]
    assert found.trust[0].agreement == np.mean([a["metrics"]["acc"] == b["metrics"]["acc"] for a, b in zip(exact, lossy, strict=True)])
    assert found.trust[0].agreement > 0 and found.trust[0].loglikelihood_error and found.trust[0].loglikelihood_error > 0


def test_lossy_answers_do_not_depend_on_what_was_asked_before(tiny: Path, tmp_path: Path) -> None:
    text = CHOICE.replace("Question:", "Tell me {{ 'right now' if label < 2 else 'then' }}:").replace("num_fewshot: 2", "num_fewshot: 0")
    tasks, press = tasks_in(tmp_path, choice=text), Snapkv(tokens=2)
    whole = evaluated(tiny, tasks.values(), tmp_path / "whole", press=press, log_items=tmp_path / "a")
    part = evaluated(tiny, tasks.values(), tmp_path, press=press, limit=2)  # two questions begin alike for longer than all of them
    assert part.examined[0].compressed_tokens > whole.examined[0].compressed_tokens > 0
    later = evaluated(tiny, tasks.values(), tmp_path, press=press, log_items=tmp_path / "b")
    assert scores(later) == scores(whole) and (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_text_says_that_variants_must_not_be_ranked_and_the_exit_code_is_0(
    command_line: Command, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    tasks, store = tasks_in(tmp_path, free=FREE), tmp_path / "store"
    assert command_line("evaluate", tiny, "--tasks", tasks["free"], "--press", "{name: snapkv, tokens: 1}", "--store", store, "--device", "cpu") == 0
    said = capsys.readouterr()
    assert "free: do not rank variants by these scores: " in said.out and "of answers are the same, and 95% are asked for" in said.out
    assert "free, 10 items, through snapkv: not exact" in said.out and "press: snapkv, covers prefix, keep 0.25, tokens 1, importance window" in said.out
    assert "Traceback" not in said.err and said.err.splitlines()[-1] == "free: base through snapkv"


def test_that_nothing_was_compressed_is_said_also_when_all_was_known(
    command_line: Command, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    tasks = tasks_in(tmp_path, free=FREE.replace("{{question}}", "{{answer}}: {{question}}"))
    for _ in range(2):
        assert command_line("evaluate", tiny, "--tasks", tasks["free"], "--press", "snapkv", "--store", tmp_path / "store", "--device", "cpu") == 0
        assert "note: free: nothing was compressed, for no two requests begin alike, so the scores are exact" in capsys.readouterr().out


def counted(monkeypatch: pytest.MonkeyPatch, press: Press) -> list[Sequence[Sequence[int]]]:
    """The texts of every calibration of this kind of press from now on."""
    made: list[Sequence[Sequence[int]]] = []
    calibrate = type(press).calibrate

    def counting(self: Press, model: Any, texts: Sequence[Sequence[int]], seed: int) -> Any:
        made.append(texts)
        return calibrate(self, model, texts, seed)

    monkeypatch.setattr(type(press), "calibrate", counting)
    return made


@pytest.mark.parametrize("name", CALIBRATED)
def test_a_calibration_is_made_once_on_the_base_and_found_again(
    name: str, tiny: Path, adapters: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks, press = tasks_in(tmp_path, choice=CHOICE), read_press(CALIBRATED[name])
    assert press is not None
    made = counted(monkeypatch, press)
    found = evaluated(tiny, tasks.values(), tmp_path, adapters=adapters, press=press)
    kept = list((tmp_path / "store").glob("calibration-*/state.safetensors"))
    assert len(made) == len(kept) == 1 and [one.variant for one in found.examined] == ["base", "one", "two"]
    assert len(made[0]) == 8 and all(len(text) > 20 for text in made[0])
    assert found.trust[0].loglikelihood_error and found.trust[0].loglikelihood_error > 0  # so that something was dropped
    again = evaluated(tiny, tasks.values(), tmp_path, adapters=adapters[:1], press=press)
    assert len(made) == 1 and scores(again) == scores(found)[:2] and not any(tokens(again).values())
    evaluated(tiny, tasks.values(), tmp_path, press=press, seed=1)
    evaluated(tiny, tasks.values(), tmp_path, press=press, shots=1)
    assert len(made) == 3 and len(list((tmp_path / "store").glob("calibration-*"))) == 3
    kept[0].write_bytes(b"changed")
    assert scores(evaluated(tiny, tasks.values(), tmp_path, adapters=adapters, press=press)) == scores(found) and len(made) == 4


def test_a_press_that_needs_no_calibration_leaves_none(tiny: Path, tmp_path: Path) -> None:
    evaluated(tiny, tasks_in(tmp_path, choice=CHOICE).values(), tmp_path, press=Snapkv())
    assert [path.name for path in (tmp_path / "store").iterdir() if not path.name.startswith(".")] == ["ledger"]


def test_heads_that_both_parts_of_compresskv_need_are_sought_once(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sought: list[int] = []
    calibrate = RetrievalHeads.calibrate
    monkeypatch.setattr(RetrievalHeads, "calibrate", lambda self, *given: (sought.append(1), calibrate(self, *given))[1])
    press = read_press(CALIBRATED["compresskv"])
    evaluated(tiny, tasks_in(tmp_path, choice=CHOICE).values(), tmp_path, press=press)
    assert sought == [1]


def test_a_model_that_no_press_works_on_is_refused_in_one_line(tiny: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tasks = tasks_in(tmp_path, choice=CHOICE)
    sizes: dict[str, Any] = {"vocab_size": 1024, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    narrow = t.MistralForCausalLM(t.MistralConfig(num_key_value_heads=2, sliding_window=16, max_position_embeddings=512, **sizes))
    for name, model, why in (("bloom", bloom(), "attention"), ("narrow", narrow, "longer than the window of 16")):
        with pytest.raises(ModelError, match=f"cannot be run through a press: .*{why}.*; leave --press out, and its requests run one by one$"):
            evaluated(saved(tmp_path / name, tiny, model), tasks.values(), tmp_path, press=Snapkv())


def fidelity(**fields: float) -> Fidelity:
    return Fidelity(**{"items": 8, "agreement": 1.0, "loglikelihood_error": 0.0, "divergence": 0.0, "kendall_tau": 1.0, "sign_agreement": 1.0} | fields)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, []),
        ({"agreement": 0.95, "kendall_tau": 0.8}, []),
        ({"kendall_tau": float("nan"), "sign_agreement": float("nan")}, []),  # a single variant
        ({"agreement": 0.9}, ["90.0% of answers are the same, and 95% are asked for"]),
        ({"agreement": float("nan")}, ["nan% of answers are the same, and 95% are asked for"]),
        ({"kendall_tau": 0.5}, ["Kendall's tau of the variants' ranking is 0.50, and 0.8 is asked for"]),
        ({"kendall_tau": float("nan"), "sign_agreement": 0.5}, ["variants that are equal in the exact run are not in the lossy one, or the other way round"]),
    ],
)
def test_doubts(fields: dict[str, float], said: list[str]) -> None:
    found = fidelity(**fields)
    assert doubts_of(found, Gate()) == said
    if not np.isnan(found.kendall_tau):
        assert found.passes(Gate()) == (not said)


def test_the_json_has_the_record(command_line: Command, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = tasks_in(tmp_path, choice=CHOICE)
    where = ["--store", tmp_path / "store", "--device", "cpu", "--json", "--quiet"]
    assert command_line("evaluate", tiny, "--tasks", tasks["choice"], "--press", "{name: snapkv, tokens: 4}", "--calibrate-on", 5, *where) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert said.err == "" and found["press"]["name"] == "snapkv" and found["trust"][0]["items"] == 5 and found["examined"][0]["exact"] is False
    assert found["examined"][0]["items"] == len(ROWS)
