"""`curate evaluate` at its edges: long prompts, infinite and missing numbers, models that share nothing, tasks of one name."""

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t

from curate.errors import ConfigError, DataError, NumericError
from tests.harness.asking import write_rows
from tests.pipelines.asked_tasks import (
    CHOICE,
    FREE,
    PROMPT,
    ROWS,
    WHOLE,
    adapter_in,
    evaluated,
    greedy,
    lines,
    nats,
    plain,
    tasks_in,
    tokenizer_of,
    tokens,
)


def test_tasks_of_one_name_are_told_apart_by_their_data(tiny: Path, tmp_path: Path) -> None:
    tasks = tasks_in(tmp_path, choice=CHOICE.replace("data: {test: rows.jsonl, train: examples.jsonl}\n", "").replace("num_fewshot: 2", "num_fewshot: 0"))
    write_rows(tmp_path / "more.jsonl", ROWS[:3])
    given = [f"{tasks['choice']}={tmp_path / name}.jsonl" for name in ("rows", "more")]
    found = evaluated(tiny, given, tmp_path)
    assert [(one.task, one.items) for one in found.examined] == [("choice (rows)", 10), ("choice (more)", 3)]
    with pytest.raises(ConfigError, match="two tasks would be called 'choice .rows.'"):
        evaluated(tiny, [given[0], given[0]], tmp_path)


def test_data_on_the_command_line_start_from_the_working_folder(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks_in(tmp_path)
    (tmp_path / "lr=1").mkdir()
    (tmp_path / "lr=1" / "choice.yaml").write_text(CHOICE.replace("rows.jsonl", "../rows.jsonl").replace("examples.jsonl", "../examples.jsonl"))
    monkeypatch.chdir(tmp_path)
    assert evaluated(tiny, ["lr=1/choice.yaml"], tmp_path).examined[0].items == 10  # an equals sign in a path is no data
    rows = [{"question": row["question"], "choices": {"text": row["options"], "label": [0, 1, 2]}, "answerKey": 1} for row in ROWS]
    write_rows(Path("arc.jsonl"), rows)
    assert evaluated(tiny, ["arc=arc.jsonl"], tmp_path).examined[0].items == 10
    with pytest.raises(DataError, match="the task names no data"):
        evaluated(tiny, ["arc"], tmp_path)


def test_too_long_prompts_are_cut_on_their_left_and_counted(tiny: Path, tmp_path: Path) -> None:
    tasks = tasks_in(tmp_path, choice=CHOICE, free=FREE)
    found = evaluated(tiny, tasks.values(), tmp_path, spec={"max_length": 16}, log_items=tmp_path / "log")
    tokenizer = tokenizer_of(tiny)
    longest = max(len(tokenizer(PROMPT.format(**row) + f" {choice}")["input_ids"]) for row in ROWS for choice in row["options"])
    assert found.notes[0] == f"choice: 10 of 10 questions do not fit the model; up to {longest - 17} tokens were cut from their left"
    model, row = plain(tiny), ROWS[0]
    whole = tokenizer(PROMPT.format(**row) + f" {row['options'][0]}")["input_ids"]
    answer = len(tokenizer(f" {row['options'][0]}")["input_ids"])
    with torch.no_grad():
        logs = model(input_ids=torch.tensor([whole[-17:]])).logits[0].double().log_softmax(-1)
    wanted = sum(float(logs[i - answer - 1, token]) for i, token in enumerate(whole[-answer:]))
    assert lines(tmp_path / "log")[0]["loglikelihoods"][0] == pytest.approx(wanted, abs=1e-4)


def test_the_model_s_own_positions_are_the_limit(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curate.model.DEFAULT_POSITIONS", 16)  # of which training takes no more
    tasks = tasks_in(tmp_path, choice=CHOICE)
    assert evaluated(tiny, tasks.values(), tmp_path).notes == []


def test_numbers_that_are_too_large_are_none(tiny: Path, tmp_path: Path) -> None:
    tasks = tasks_in(tmp_path, whole=WHOLE.replace("question", "\"{{ question.replace(' ', '') * 40 }}\""))
    metrics = {metric.name: metric.value for metric in evaluated(tiny, tasks.values(), tmp_path).examined[0].metrics}
    assert metrics["word_perplexity"] is None and metrics["byte_perplexity"] is not None


def test_a_model_that_gives_no_numbers_is_named_and_nothing_of_it_is_kept(tiny: Path, tmp_path: Path) -> None:
    huge = adapter_in(tmp_path / "huge", tiny, target_modules="all-linear", lora_alpha=1e30)
    tasks = tasks_in(tmp_path, choice=CHOICE, free=FREE)
    for name in ("choice", "free"):
        with pytest.raises(NumericError, match=f"^huge: {name}: the model's logits are no finite numbers for 10 questions .the first is 000000"):
            evaluated(tiny, [tasks[name]], tmp_path, adapters=[huge])
        assert evaluated(tiny, [tasks[name]], tmp_path).examined[0].forward_tokens == 0  # the base's answers were kept


def test_texts_are_scored_whole(tiny: Path, tmp_path: Path) -> None:
    tasks = tasks_in(tmp_path, whole=WHOLE)
    found = {metric.name: metric for metric in evaluated(tiny, tasks.values(), tmp_path, log_items=tmp_path / "log").examined[0].metrics}
    model, tokenizer = plain(tiny), tokenizer_of(tiny)
    sums = [nats(model, tokenizer, tokenizer.bos_token, row["question"]) for row in ROWS]
    assert [line["loglikelihoods"] for line in lines(tmp_path / "log")] == [[pytest.approx(one, abs=1e-4)] for one in sums]
    size = sum(len(row["question"]) for row in ROWS)
    assert found["bits_per_byte"].value == pytest.approx(-sum(sums) / size / math.log(2), rel=1e-5)
    assert found["word_perplexity"].value == pytest.approx(math.exp(-sum(sums) / sum(len(row["question"].split()) for row in ROWS)), rel=1e-5)
    assert not any(metric.higher_is_better for metric in found.values())


def saved(folder: Path, tiny: Path, model: Any) -> Path:
    """A model's folder, with the tiny model's tokenizer."""
    model.save_pretrained(str(folder))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny / name, folder / name)
    return folder


def bloom() -> Any:
    return t.BloomForCausalLM(t.BloomConfig(vocab_size=1024, hidden_size=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2))


def mamba() -> Any:
    return t.MambaForCausalLM(t.MambaConfig(vocab_size=1024, hidden_size=32, num_hidden_layers=2, state_size=4, bos_token_id=1, eos_token_id=2))


@pytest.mark.parametrize("make", [bloom, mamba])
def test_a_model_that_shares_nothing_is_run_and_that_is_said(make: Any, tiny: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = saved(tmp_path / "model", tiny, make())
    tasks = tasks_in(tmp_path, choice=CHOICE, free=FREE)
    found = evaluated(model, tasks.values(), tmp_path, limit=4, log_items=tmp_path / "log")
    assert all(one.unshared and one.forward_tokens == one.tokens_without_sharing > 0 for one in found.examined)
    said, tokenizer = plain(model), tokenizer_of(model)
    for line, row in zip(lines(tmp_path / "log")[:4], ROWS, strict=False):
        assert line["loglikelihoods"] == pytest.approx([nats(said, tokenizer, PROMPT.format(**row), f" {choice}") for choice in row["options"]], abs=1e-4)
    assert [line["generation"][0] for line in lines(tmp_path / "log")[4:]] == [
        greedy(said, tokenizer, row["question"], 6).partition("o")[0] for row in ROWS[:4]
    ]
    assert not any(tokens(evaluated(model, tasks.values(), tmp_path, limit=4)).values())
