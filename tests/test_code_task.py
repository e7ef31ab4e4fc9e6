"""Programs that a model writes: run only where the recipe says so, and graded by the tests of their item."""

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from curate.errors import ConfigError
from curate.interfaces import Answer, Item
from curate.recipe import read_recipe
from curate.registry import component
from curate.sandbox import Limits, Program, run_all
from curate.tasks.code import Code
from curate.testing.component import check_identity

ITEM = Item("q1", (("user", "def square(x):\n"),), "assert square(3) == 9\nassert square(-1) == 1")
RIGHT = "def square(x):\n    return x * x\n"
RECIPE = """name: bad
pool: {synthetic: pool, rows: 40}
target: {rare: {synthetic: target, rows: 8}}
model: {path: somewhere}
features: {surprise: loss}
arms: {hard: {scores: surprise, selector: top_k}}
budgets: [10]
evaluate:
- {task: likelihood, data: {synthetic: test, rows: 10}}
- {task: TASK, data: {synthetic: test, rows: 10}}
"""


def test_it_is_a_component() -> None:
    check_identity(Code(), "tasks")
    assert (Code.metric, Code.generates, Code.higher_is_better) == ("pass@1", True, True)


def test_nothing_runs_without_the_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curate.tasks.code.run_all", lambda *given, **named: pytest.fail("it ran"))
    with pytest.raises(ConfigError, match="^task code runs programs that the model writes; set execute: true to allow that, in a sandbox"):
        Code().grade(ITEM, Answer(generation=RIGHT))


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("code", "bad.yaml:10: evaluate.1.task: task code runs programs that the model writes; set execute: true"),
        ("{name: code}", "bad.yaml:10: evaluate.1.task: task code runs programs that the model writes; set execute: true"),
        ("{name: code, execute: false}", "bad.yaml:10: evaluate.1.task: task code runs programs that the model writes; set execute: true"),
        ("{name: code, execute: 1}", "bad.yaml:10: evaluate.1.task.execute is 1; it must be true or false"),
        ("{name: code, execute: true, template: 'x'}", "template 'x' lacks {generation}, so that nothing the model writes would run; put it where the program"),
        ("{name: code, execute: true, stop: ['']}", "stop holds an empty text, which would end every program at once; remove it"),
        ("{name: code, execute: true, memory: 1}", "bad.yaml:10: evaluate.1.task.memory is 1"),
    ],
)
def test_a_recipe_that_cannot_be_graded_is_refused_when_it_is_read(task: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("bad.yaml")
    path.write_text(RECIPE.replace("TASK", task))
    with pytest.raises(ConfigError) as caught:
        read_recipe(path)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_recipe_with_the_flag_is_read(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(RECIPE.replace("TASK", "{name: code, execute: true, stop: ['[DONE]']}"))
    evaluate = read_recipe(tmp_path / "good.yaml").evaluate
    assert evaluate[1].task == Code(execute=True, stop=("[DONE]",))
    assert component("tasks", evaluate[1].task.model_dump(mode="json")) == evaluate[1].task


@pytest.mark.parametrize(
    ("said", "score"),
    [
        (RIGHT, 1.0),
        (RIGHT.replace("*", "+"), 0.0),
        ("", 0.0),
        (" \n", 0.0),
        ("def square(x):", 0.0),
        ("import sys\nsys.exit(0)", 0.0),
        ("It is:\n```python\n" + RIGHT + "```\nAs you see, square(3) is 9.\n```python\nsquare = 1\n```", 1.0),
        ("```\n" + RIGHT, 1.0),
        ("```py\r\n" + RIGHT.replace("\n", "\r\n") + "```", 1.0),
        ("  ```Python\n" + RIGHT + "  ```", 1.0),
        ("```bash\npip install x\n```\n```python\n" + RIGHT + "```", 1.0),
        ("It is `square`:\n" + RIGHT, 0.0),
        ("```python\n```", 0.0),
    ],
)
def test_the_program_is_the_first_fenced_block_or_all_there_is(said: str, score: float) -> None:
    assert Code(execute=True).grade(ITEM, Answer(generation=said)) == score


def written(task: Code, generation: str) -> str | None:
    program = task.program(ITEM, generation)
    return program and program.code


def test_the_program_ends_where_the_first_stop_text_stands() -> None:
    stopped = Code(stop=("\nclass", "[DONE]", "\nprint"))
    assert written(stopped, "a = 1\nprint(a)\nclass B: pass") == "a = 1"
    assert written(stopped, "a = 1[DONE] b\nclass") == "a = 1"
    assert written(stopped, "a = 1\n") == "a = 1\n"
    assert written(stopped, "[DONE]") is None
    assert written(Code(), "a[DONE]") == "a[DONE]"


def test_the_template_joins_prompt_and_program() -> None:
    continued = Code(execute=True, template="import math\n{prompt}{generation}\n{other}".replace("{other}", "# {other}"))
    assert written(continued, "    return x ** 2\n") == "import math\ndef square(x):\n    return x ** 2\n\n# {other}"
    assert continued.grade(ITEM, Answer(generation="    return x ** 2\n")) == 1.0
    assert written(Code(template="{generation}"), "a = '{prompt}'") == "a = '{prompt}'"  # what is put in is not filled in again
    item = Item("q", (("user", "not this"), ("assistant", "nor this"), ("user", "x = '{generation}'\n")), "")
    assert Code(template="{prompt}{generation}").program(item, "y = 1") == Program("x = '{generation}'\ny = 1", "")


def test_outcomes_come_in_the_order_of_the_items_with_their_reasons() -> None:
    said = ["", RIGHT, "def square(x):\n    return 9\n", "while True: pass", RIGHT]
    outcomes = Code(execute=True, seconds=1).outcomes([ITEM] * 5, [Answer(generation=text) for text in said])
    assert [outcome.status for outcome in outcomes] == ["failed", "passed", "failed", "timed out", "passed"]
    assert [outcome.reason for outcome in outcomes][:3] == ["the program is empty", "", "AssertionError at assert square(-1) == 1"]


def test_its_limits_reach_the_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("curate.tasks.code.run_all", lambda programs, limits: seen.append(limits) or [])
    with pytest.raises(StopIteration):
        Code(execute=True, seconds=7, memory=256).outcomes([ITEM], [Answer(generation="a")])
    assert seen == [Limits(cpu_seconds=7, seconds=21.0, memory=1 << 28)]


@pytest.fixture(scope="module")
def mbpp(shared: Path) -> list[tuple[str, str]]:
    """Reference solution and tests of every item."""
    import pandas as pd

    table = pd.read_parquet(shared / "data" / "targets" / "mbpp-mbpp.parquet")
    return [(row.code, "\n".join([row.test_setup_code, *row.test_list, *row.challenge_test_list])) for row in table.itertuples()]


@pytest.mark.real
def test_right_programs_of_mbpp_pass_and_empty_ones_do_not(mbpp: list[tuple[str, str]]) -> None:
    some = mbpp[::40]
    task = Code(execute=True)
    items = [Item(str(number), (("user", ""),), tests) for number, (_, tests) in enumerate(some)]
    assert [outcome.status for outcome in task.outcomes(items, [Answer(generation=f"```python\n{code}\n```") for code, _ in some])] == ["passed"] * 25
    assert {outcome.status for outcome in task.outcomes(items, [Answer(generation="pass")] * 25)} == {"failed"}


@pytest.mark.real
@pytest.mark.slow
def test_every_reference_solution_of_mbpp_passes(mbpp: list[tuple[str, str]]) -> None:
    started = time.monotonic()
    outcomes = run_all([Program(code, tests) for code, tests in mbpp])
    print(f"{len(outcomes)} programs in {time.monotonic() - started:.1f} s")
    assert Counter(outcome.status for outcome in outcomes) == {"passed": 974}
