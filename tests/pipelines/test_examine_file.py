"""Task files among a recipe's evaluations: scores of the same engine, a key of all that decides them, and errors found before anything is trained."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from curate.errors import IntegrityError
from curate.evaluations import Evaluate
from curate.model import ModelHandle, cached, resolve
from curate.pipelines.examine_file import FileExamination, examine_file, in_tokens
from curate.recipe import read_recipe
from curate.settings import ModelSpec
from tests.pipelines.asked_tasks import CHOICE, FREE, PROMPT, ROWS, WHOLE, evaluated, nats, plain, tasks_in, tokenizer_of

RECIPE = """
name: filed
pool: {{synthetic: pool, rows: 60}}
target: {{rare: {{synthetic: target, rows: 8}}}}
model: {{path: {model}, max_length: 128, lora: {{r: 2, alpha: 4, targets: attention}}}}
budgets: [10]
seeds: [0]
baselines: [zero_shot, random]
train: {{epochs: 1, learning_rate: 1.0e-3, batch_size: 8}}
evaluate:
  - {{task: tasks/choice.yaml}}
  - {{task: {{file: tasks/free.yaml}}, label: spoken, limit: 4, shots: 1}}
"""
Command = Callable[..., int]


@pytest.fixture
def recipe(tiny: Path, tmp_path: Path) -> Path:
    (tmp_path / "tasks").mkdir()
    tasks_in(tmp_path / "tasks", choice=CHOICE, free=FREE)
    (tmp_path / "filed.yaml").write_text(RECIPE.format(model=tiny))
    return tmp_path / "filed.yaml"


@pytest.fixture
def handle(tiny: Path) -> ModelHandle:
    return resolve(ModelSpec(path=str(tiny)), Path.cwd())


def examination(folder: Path, handle: ModelHandle, **fields: Any) -> FileExamination:
    entry = Evaluate.model_validate({"task": "choice.yaml", **fields})
    return examine_file(entry, "choice", folder, handle)


def test_a_recipe_with_task_files_runs_and_its_report_has_them(command_line: Command, recipe: Path, tiny: Path, tmp_path: Path) -> None:
    where = ["--store", tmp_path / "store", "--runs", tmp_path / "runs", "--workers", 1, "--quiet"]
    assert command_line("run", recipe, *where) == 0
    results = json.loads((tmp_path / "runs" / "filed" / "results.json").read_bytes())
    found = {(one["task"], one["arm"]): one for one in results["comparisons"]}
    assert {(task, one["metric"], one["n"]) for (task, _), one in found.items()} == {
        *(("choice", "acc", 10), ("spoken", "exact_match", 4), ("likelihood of the target", "nll", 8))
    }
    assert {arm for _, arm in found} == {"zero_shot", "random"}
    alone = evaluated(tiny, [str(tmp_path / "tasks" / "choice.yaml")], tmp_path / "alone")
    assert found["choice", "zero_shot"]["mean"] == alone.examined[0].metrics[0].value
    for name in ("report.md", "report.html"):
        text = (tmp_path / "runs" / "filed" / name).read_text()
        assert "choice" in text and "spoken" in text
    before = sorted((tmp_path / "store").rglob("*"))
    assert command_line("run", recipe, *where) == 0
    assert sorted((tmp_path / "store").rglob("*")) == before
    assert command_line("verify", "filed", *where[:4]) == 0


def test_its_items_are_graded_and_logged(tiny: Path, handle: ModelHandle, tmp_path: Path) -> None:
    tasks_in(tmp_path, choice=CHOICE)
    made = examination(tmp_path, handle, limit=5)
    graded = made.ask(cached(handle), handle)
    model, tokenizer = plain(tiny), tokenizer_of(tiny)
    for record, row, score in zip(graded.records, ROWS, graded.evaluation.scores, strict=False):
        wanted = [nats(model, tokenizer, PROMPT.format(**row), f" {choice}") for choice in row["options"]]
        assert record["prompt"] == PROMPT.format(**row) and record["choices"] == row["options"] and record["targets"] == [row["label"]]
        assert record["loglikelihoods"] == pytest.approx(wanted, abs=1e-4)
        assert record["score"] == record["metrics"]["acc"] == score == float(max(range(3), key=wanted.__getitem__) == row["label"])
    assert len(graded.records) == 5 and graded.forward_tokens < graded.asked_tokens and graded.unshared == ""
    assert (graded.evaluation.task, graded.evaluation.metric) == ("choice", "acc")


CHANGES: dict[str, Callable[[Path], None]] = {
    "question": lambda folder: replaced(folder / "rows.jsonl", "What is 0", "What was 0"),
    "answer": lambda folder: replaced(folder / "rows.jsonl", '"label": 0', '"label": 1'),
    "choice": lambda folder: replaced(folder / "rows.jsonl", '"red"', '"redder"'),
    "example": lambda folder: replaced(folder / "examples.jsonl", "Is 0", "Was 0"),
    "metric": lambda folder: replaced(folder / "choice.yaml", "metadata", "metric_list: [{metric: acc_norm}]\nmetadata"),
    "shots": lambda folder: replaced(folder / "choice.yaml", "num_fewshot: 2", "num_fewshot: 1"),
}


def replaced(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize("name", CHANGES)
def test_whatever_changes_a_score_changes_the_identity(name: str, handle: ModelHandle, tmp_path: Path) -> None:
    tasks_in(tmp_path, choice=CHOICE)
    before = examination(tmp_path, handle).identity()
    in_tokens.cache_clear()
    assert examination(tmp_path, handle).identity() == before
    CHANGES[name](tmp_path)
    in_tokens.cache_clear()
    assert examination(tmp_path, handle).identity() != before


def test_where_the_folder_lies_changes_nothing(handle: ModelHandle, tmp_path: Path) -> None:
    identities = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        tasks_in(tmp_path / name, choice=CHOICE)
        identities.append(examination(tmp_path / name, handle).identity())
    assert identities[0] == identities[1]


def test_a_file_that_changes_during_the_run_is_noticed(handle: ModelHandle, tmp_path: Path) -> None:
    tasks_in(tmp_path, choice=CHOICE)
    made = examination(tmp_path, handle, limit=3)
    replaced(tmp_path / "rows.jsonl", '"label": 0', '"label": 1')
    made.ask(cached(handle), handle)  # this process has read it
    in_tokens.cache_clear()  # another one, later
    with pytest.raises(IntegrityError, match="^evaluation choice: .*choice.yaml or its data changed while the experiment ran; run the same command again$"):
        made.ask(cached(handle), handle)


def test_shots_limit_and_data_take_the_place_of_what_the_file_says(handle: ModelHandle, tmp_path: Path) -> None:
    text = CHOICE.replace("data: {test: rows.jsonl, train: examples.jsonl}\n", "").replace("fewshot_split: train\n", "")
    tasks_in(tmp_path, choice=text)
    made = examination(tmp_path, handle, shots=0, limit=3, data={"path": "rows.jsonl"})
    exam = in_tokens(made.origin, handle)
    assert [asked.question.context for asked in exam.asked] == [f"Question: {row['question']}\nAnswer:" for row in ROWS[:3]]
    assert made.identity() != examination(tmp_path, handle, shots=1, limit=3, data={"path": "rows.jsonl"}).identity()


LIKELY = "task: choice\ndata: rows.jsonl\noutput_type: loglikelihood\ndoc_to_text: 'It is'\ndoc_to_target: '{{answer}}'\n"
METRICS = [
    (CHOICE, "acc", True),
    (FREE.replace("free", "choice"), "exact_match", True),
    (FREE.replace("free", "choice") + "repeats: 2\nmetric_list: [{metric: pass@k, k: [2]}]\n", "pass@2", True),
    (LIKELY + "metric_list: [{metric: acc}]\n", "acc", True),
    (LIKELY + "metric_list: [{metric: perplexity, aggregation: mean}]\n", "log-likelihood", True),
]


@pytest.mark.parametrize(("text", "metric", "higher"), METRICS)
def test_the_metric_is_the_first_of_the_task(text: str, metric: str, higher: bool, tiny: Path, handle: ModelHandle, tmp_path: Path) -> None:
    tasks_in(tmp_path, choice=text)
    made = examination(tmp_path, handle, limit=2)
    assert (made.metric, made.higher_is_better) == (metric, higher)
    graded = made.ask(cached(handle), handle)
    if metric == "log-likelihood":  # per item, in nats
        wanted = nats(plain(tiny), tokenizer_of(tiny), "It is", ROWS[0]["answer"])
        assert graded.evaluation.scores[0] == pytest.approx(wanted, abs=1e-4)


ERRORS: dict[str, tuple[str, str, str, int, str]] = {  # file, old, new, code, said
    "missing": ("filed.yaml", "tasks/choice.yaml", "tasks/choise.yaml", 2, "task '{folder}/tasks/choise.yaml' is no file and no built-in task"),
    "name": ("filed.yaml", "file: tasks/free.yaml", "file: bolq", 2, "evaluation spoken: task 'bolq' is no file and no built-in task; did you mean boolq?"),
    "key": ("tasks/choice.yaml", "output_type", "outputtype", 2, "choice.yaml:7: outputtype is not a field; did you mean output_type?"),
    "template": ("tasks/choice.yaml", "{{question}}", "{{question", 2, "choice.yaml:8: doc_to_text"),
    "column": ("tasks/choice.yaml", "{{question}}", "{{qestion}}", 3, "choice.yaml:8: doc_to_text"),
    "code": ("tasks/choice.yaml", "metadata", "process_docs: x.f\nmetadata", 10, "choice.yaml:11: process_docs runs Python code"),
    "data": ("tasks/choice.yaml", "test: rows.jsonl", "test: raws.jsonl", 3, "no data file matches"),
    "shots": ("filed.yaml", "limit: 4, shots: 1", "shots: 99", 3, "free.yaml"),
    "single": ("filed.yaml", "limit: 4", "limit: 1", 3, "evaluation spoken: it asks a single question, and arms are compared over two or more; raise limit"),
    "mean": ("tasks/choice.yaml", CHOICE, WHOLE, 2, "evaluation choice: its first metric, word_perplexity, is no mean over items, which arms are compared by;"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_what_is_wrong_with_a_task_file_is_one_line_before_anything_is_trained(
    name: str, command_line: Command, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, old, new, code, said = ERRORS[name]
    replaced(tmp_path / file, old, new)
    in_tokens.cache_clear()
    found = command_line("run", recipe, "--store", tmp_path / "store", "--runs", tmp_path / "runs", "--workers", 1, "--until", "prepare", "--quiet")
    message = capsys.readouterr().err
    assert (found, message.count("\n")) == (code, 1) and said.format(folder=tmp_path) in message and "evaluation " in message


ENTRIES = [
    ("{task: a.yaml, data: [{path: a}, {path: b}]}", "a task file reads all rows of local files of one path; give data: {path: ...} alone"),
    ("{task: a.yaml, data: {hub: a/b}}", "a task file reads all rows of local files of one path"),
    ("{task: a.yaml, data: {path: a, limit: 3}}", "a task file reads all rows of local files of one path"),
    ("{task: {file: a.yaml, shots: 3}}", "evaluate.0.task.shots is not a field; fields: file"),
    ("{task: {file: ''}}", "evaluate.0.task.file is ''; it must have at least 1 character"),
    ("{task: a.yaml, shot: 1}", "evaluate.0.shot is not a field; did you mean shots?"),
    ("{task: a.yaml}\n  - {task: b/a.yaml}", "another entry is called a too; give this one a label: of its own"),
]


@pytest.mark.parametrize(("entry", "said"), ENTRIES)
def test_an_entry_that_cannot_be_is_told_by_its_line(entry: str, said: str, command_line: Command, recipe: Path, capsys: Any) -> None:
    recipe.write_text(recipe.read_text().partition("evaluate:")[0] + f"evaluate:\n  - {entry}\n")
    assert command_line("validate", recipe) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and message.startswith("error: filed.yaml:1") and said in message


def test_a_recipe_with_task_files_can_be_written_and_read_again(recipe: Path, tmp_path: Path) -> None:
    from curate.pipelines.summarise import recipe_text

    read = read_recipe(recipe)
    (tmp_path / "again.yaml").write_text(recipe_text(read))
    assert read_recipe(tmp_path / "again.yaml") == read


def test_the_dtype_of_the_handle_is_no_part_of_an_examination(handle: ModelHandle, tmp_path: Path) -> None:
    tasks_in(tmp_path, choice=CHOICE)
    assert examination(tmp_path, handle).identity() == examination(tmp_path, replace(handle, dtype="bfloat16")).identity()
