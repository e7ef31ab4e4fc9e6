"""`curate init` reads a newcomer's files and writes a recipe that is valid and runs, or says in one line what is wrong with them."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from curate.data.load import load
from curate.recipe import Recipe, read_recipe

Command = Callable[..., int]
Rows = list[dict[str, Any]]

FORMATS: dict[str, Callable[[int], dict[str, Any]]] = {
    "prompt_completion": lambda n: {"prompt": f"Count {n} apples.", "completion": f"{n} apples"},
    "messages": lambda n: {"messages": [{"role": "user", "content": f"Count {n} apples."}, {"role": "assistant", "content": f"{n} apples"}]},
    "sharegpt": lambda n: {"conversations": [{"from": "human", "value": f"Count {n} apples."}, {"from": "gpt", "value": f"{n} apples"}]},
    "alpaca": lambda n: {"instruction": "Count.", "input": f"{n} apples", "output": f"{n}"},
    "question_answer": lambda n: {"question": f"How many are {n} apples?", "answer": f"{n}"},
    "text_label": lambda n: {"text": f"{n} apples, please", "label": f"order {n}"},
}


def jsonl(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def made(form: str, count: int) -> Rows:
    return [FORMATS[form](number) for number in range(count)]


@pytest.fixture
def begin(command_line: Command, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """`curate init my ...` in the folder of the files: its exit code, and what it says."""
    monkeypatch.chdir(tmp_path)

    def run(pool: object, target: object, *more: object, model: object = tiny) -> tuple[int, str]:
        code = command_line("init", "my", "--pool", pool, "--target", target, "--model", model, *more)
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


def recipe_in(folder: Path) -> Recipe:
    return read_recipe(folder / "my" / "recipe.yaml")


@pytest.mark.parametrize("form", FORMATS)
def test_each_way_of_columns_is_found_and_the_recipe_is_valid(begin: Any, tmp_path: Path, form: str) -> None:
    jsonl(tmp_path / "pool.jsonl", made(form, 30))
    jsonl(tmp_path / "want.jsonl", made(form, 20))
    code, said = begin("pool.jsonl", "want.jsonl", "--budget", "6")
    assert code == 0, said
    assert f"pool.jsonl: 30 rows, read as {form} (" in said and f"want.jsonl: 20 rows, read as {form} (" in said
    recipe = recipe_in(tmp_path)
    assert recipe.name == "want" and recipe.target["want"][0].sample == 10 and list(map(str, recipe.budgets)) == ["6"]
    assert recipe.hygiene.deduplicate == "near" and recipe.hygiene.decontaminate and recipe.model.lora is None
    assert [len(list(load(sources, tmp_path / "my"))) for sources in (recipe.pool, recipe.target["want"])] == [30, 10]
    for command in ("inspect", "plan", "run", "export"):
        assert f"  curate {command} " in said


def test_the_rows_to_evaluate_on_are_those_that_are_not_selected_for(begin: Any, command_line: Command, tmp_path: Path) -> None:
    """The recipe is run as far as the selection, and the store is asked which rows each side has."""
    from curate.data.examples import open_examples

    jsonl(tmp_path / "pool.jsonl", made("prompt_completion", 24))
    jsonl(tmp_path / "want.jsonl", made("question_answer", 12))
    assert begin("pool.jsonl", "want.jsonl", "--name", "first", "--budget", "25%")[0] == 0
    assert command_line("run", "my/recipe.yaml", "--until", "select", "--workers", 1, "--quiet") == 0
    results = json.loads((tmp_path / "runs" / "first" / "results.json").read_bytes())
    assert {row["arm"] for row in results["selections"]} == {"random", "words", "hidden", "transport"}
    stages = json.loads((tmp_path / "runs" / "first" / "run.json").read_bytes())["stages"]
    keys = {stage["label"]: stage["key"] for stage in stages if stage["stage"] == "examples"}
    target, items = (set(open_examples(tmp_path / "store" / keys[name]).ids.tolist()) for name in ("target", "evaluation likelihood"))
    assert len(target) == 6 and len(items) == 12 and target < items
    assert "6 rows of likelihood's data are target rows and were left out" in json.dumps(results)


def test_parquet_csv_and_several_pools_are_read_and_columns_to_group_by_are_named(begin: Any, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{**row, "kind": "abc"[number % 3], "license": "mit"} for number, row in enumerate(made("prompt_completion", 30))]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pool.parquet")
    lines = [f"question {n},answer {n}" for n in range(1500)]
    (tmp_path / "more.csv").write_text("\n".join(["question,answer", *lines]) + "\n")
    jsonl(tmp_path / "want.jsonl", made("prompt_completion", 100))
    code, said = begin("pool.parquet", "want.jsonl", "--pool", "more.csv")
    assert code == 0, said
    assert "pool.parquet: 30 rows, read as prompt_completion" in said and "may be grouped by 'kind' (3 values)" in said
    assert "more.csv: more than 1000 rows (the first 1000 were read), read as question_answer" in said
    assert "50 rows are selected for, 50 others evaluated on\n" in said
    text = (tmp_path / "my" / "recipe.yaml").read_text()
    assert "# group: kind" in text and text.count("# license:") == 1  # of the rows that name none
    assert [source.path for source in recipe_in(tmp_path).pool] == ["../pool.parquet", "../more.csv"]


def test_names_of_files_cannot_break_the_recipe(begin: Any, tmp_path: Path) -> None:
    odd = 'a "b" #\n: {c}\\\u2028\u00e9.jsonl'
    jsonl(tmp_path / odd, made("prompt_completion", 30))
    jsonl(tmp_path / "null.jsonl", made("prompt_completion", 8))
    code, said = begin(odd, "null.jsonl")
    assert code == 0, said
    recipe = recipe_in(tmp_path)
    assert recipe.pool[0].path == f"../{odd}" and len(list(load(recipe.pool, tmp_path / "my"))) == 30
    assert list(recipe.target) == ["null"]


def test_a_target_may_be_given_in_braces(begin: Any, tmp_path: Path) -> None:
    jsonl(tmp_path / "pool.jsonl", [{"text": f"story {n}"} for n in range(30)])
    jsonl(tmp_path / "want.jsonl", [{"question": f"{n}?", "answer": f"{n}", "context": "numbers"} for n in range(8)])
    code, said = begin("pool.jsonl", "want.jsonl")
    assert code == 3 and "leaving out 'context'" in said  # two meanings: refused, not guessed
    code, said = begin("pool.jsonl", '{path: want.jsonl, prompt: "{context}: {question}", completion: "{answer}"}')
    assert code == 0, said
    assert recipe_in(tmp_path).target["want"][0].prompt == "{context}: {question}" == recipe_in(tmp_path).evaluate[0].data[0].prompt  # type: ignore[index]


def test_a_hub_model_is_named_and_not_fetched_and_trains_adapters(begin: Any, tmp_path: Path) -> None:
    jsonl(tmp_path / "pool.jsonl", made("alpaca", 30))
    jsonl(tmp_path / "want.jsonl", made("alpaca", 8))
    assert begin("pool.jsonl", "want.jsonl", model="org/name")[0] == 0
    assert recipe_in(tmp_path).model.path == "org/name" and recipe_in(tmp_path).model.lora is not None


def test_paths_hold_where_the_folder_is_reached_by_a_link(begin: Any, tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    os.symlink(tmp_path / "deep" / "er", tmp_path / "my")
    jsonl(tmp_path / "pool.jsonl", made("alpaca", 30))
    jsonl(tmp_path / "want.jsonl", made("alpaca", 8))
    assert begin("pool.jsonl", "want.jsonl")[0] == 0
    assert len(list(load(recipe_in(tmp_path).pool, tmp_path / "my"))) == 30


WRONG: dict[str, tuple[Rows | str, Rows, tuple[str, ...], int, str]] = {
    "no such file": ([], made("alpaca", 8), ("--pool", "none.jsonl"), 3, "no data file matches"),
    "no known columns": ([{"q": "1", "a": "2"}] * 9, made("alpaca", 8), (), 3, "write prompt: and completion:"),
    "no JSON": ("{not json\n" * 5, made("alpaca", 8), (), 3, "none of its first 5 rows can be used; the first is pool.jsonl:1: bad_json"),
    "too few examples": (made("alpaca", 20), made("alpaca", 3), (), 3, "3 different rows are too few"),
    "the same example again": (made("alpaca", 20), made("alpaca", 1) * 20, (), 3, "1 different rows are too few"),
    "a text as target": (made("alpaca", 20), [{"text": f"a {n}"} for n in range(9)], (), 3, "needs a question and an answer"),
    "no name": (made("alpaca", 20), made("alpaca", 8), ("--name", "../x"), 2, "is no run name"),
    "a small share": (made("alpaca", 10), made("alpaca", 8), (), 2, "5% of 10 rows is less than one; give a number of rows, such as --budget 2"),
    "a large number": (made("alpaca", 10), made("alpaca", 8), ("--budget", "11"), 2, "more than the 10 rows of the pool"),
    "nothing": (made("alpaca", 10), made("alpaca", 8), ("--budget", "0"), 2, "keeps nothing"),
    "no budget": (made("alpaca", 10), made("alpaca", 8), ("--budget", "some"), 2, "is not understood"),
    "no model": (made("alpaca", 40), made("alpaca", 8), ("--model", "./nowhere"), 2, "is no folder"),
    "a folder without a model": (made("alpaca", 40), made("alpaca", 8), ("--model", "."), 4, "has no config.json"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_in_one_line_and_nothing_is_written(begin: Any, tmp_path: Path, case: str) -> None:
    pool, target, more, code, words = WRONG[case]
    (tmp_path / "pool.jsonl").write_text(pool) if isinstance(pool, str) else jsonl(tmp_path / "pool.jsonl", pool or made("alpaca", 30))
    jsonl(tmp_path / "want.jsonl", target)
    ended, said = begin("pool.jsonl", "want.jsonl", *more)
    assert ended == code and words in said, said
    assert said.count("\n") == 1 and said.startswith("error: ")
    assert not (tmp_path / "my").exists()


def test_a_part_of_the_options_is_refused_and_none_writes_the_starter(
    command_line: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], root: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command_line("init", "--pool", "x.jsonl") == 2
    assert "init was given --pool and misses --target, --model" in capsys.readouterr().err
    assert command_line("init", "--budget", "3") == 2
    assert command_line("init", "new") == 0
    assert (tmp_path / "new" / "recipe.yaml").read_bytes() == (root / "configs" / "starter.yaml").read_bytes()
    assert command_line("validate", "new/recipe.yaml") == 0


def test_a_recipe_that_is_there_stays(begin: Any, tmp_path: Path) -> None:
    jsonl(tmp_path / "pool.jsonl", made("alpaca", 30))
    jsonl(tmp_path / "want.jsonl", made("alpaca", 8))
    assert begin("pool.jsonl", "want.jsonl")[0] == 0
    before = (tmp_path / "my" / "recipe.yaml").read_bytes()
    code, said = begin("pool.jsonl", "want.jsonl", "--name", "other")
    assert code == 2 and "exists; edit it" in said and (tmp_path / "my" / "recipe.yaml").read_bytes() == before


@pytest.mark.parametrize("count", [4, 5, 9, 40, 700])
def test_a_plan_finds_items_to_ask_among_the_first_rows_of_the_target(begin: Any, tmp_path: Path, count: int) -> None:
    """`curate plan` tokenises the first rows of target and evaluation, which are of one file here: two items have to be left at every size."""
    from dataclasses import replace

    from curate.data.examples import open_examples
    from curate.model import resolve
    from curate.pipelines.plan_miniature import Miniatures
    from curate.store import Store

    jsonl(tmp_path / "pool.jsonl", made("alpaca", 30))
    jsonl(tmp_path / "want.jsonl", made("alpaca", count))
    assert begin("pool.jsonl", "want.jsonl")[0] == 0
    recipe, folder = recipe_in(tmp_path), tmp_path / "my"
    small = Miniatures(recipe, folder, replace(resolve(recipe.model, folder), lora=None), Store(tmp_path / "scratch"))
    assert small.most("target") == min(200, count // 2)
    for size in (8, 16, 64, 512):
        target, items = (set(open_examples(small.of(role, size).path).ids.tolist()) for role in ("target", "evaluation likelihood"))
        assert len(items - target) >= 2
