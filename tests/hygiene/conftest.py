"""A small experiment whose pool holds items of its evaluation, a row twice, and a row almost twice."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

Command = Callable[..., int]

QUESTION = "A farmer has {n} sheep in the valley and buys {m} more of them at the market before the winter. How many sheep does the farmer have now?"
RECIPE = """
name: dirty
pool: [{{path: first.jsonl}}, {{path: second.jsonl}}]
target: {{sheep: {{path: target.jsonl}}}}
model: {{path: {model}, max_length: 192}}
features: {{surprise: loss}}
arms: {{hard: {{scores: surprise, selector: top_k}}}}
budgets: [6]
seeds: [0]
baselines: [random]
train: {{epochs: 1, batch_size: 4}}
evaluate: [{{task: likelihood, data: {{path: test.jsonl}}}}]
"""


def row(prompt: str, completion: str) -> dict[str, str]:
    return {"prompt": prompt, "completion": completion}


LEAK = row("Solve this. " + QUESTION.format(n=17, m=25) + " Think first.", "There were 17 and 25 came, so 42.")
TALE = "Once upon a time a fox met a crow that held a piece of cheese in its beak and the fox wanted to have it very much indeed"
FIRST = [row(f"Question {n}: name a fact about the number {n}.", f"The number {n} follows {n - 1}.") for n in range(20, 44)]
FIRST += [LEAK, row("Tell the tale of the fox.", TALE)]
SECOND = [row("question 20:  Name a fact about the number 20.", "The number 20 follows 19."), row("Tell the tale of the fox.", TALE + " today")]
TEST = [row(QUESTION.format(n=n, m=m), str(n + m)) for n, m in ((17, 25), (230, 14), (5, 8))]
TARGET = [row(f"How many legs have {n} dogs and {n + 1} birds in all?", str(6 * n + 2)) for n in (2, 3, 4)]


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    parts = {"first": FIRST, "second": SECOND, "test": TEST, "target": TARGET}
    for name, rows in parts.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    (tmp_path / "dirty.yaml").write_text(RECIPE.format(model=tiny))
    return tmp_path


@pytest.fixture
def curate(folder: Path, command_line: Command) -> Command:
    """A command on the small experiment, in its folder."""
    torch.set_num_threads(1)
    places = ("--store", folder / "store", "--runs", folder / "runs")

    def run(command: str, *arguments: object) -> int:
        subject = "dirty" if command in ("verify", "report", "explain") else folder / "dirty.yaml"
        more = () if command in ("inspect", "validate") else places
        return command_line(command, subject, *arguments, *more)

    return run
