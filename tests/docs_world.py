"""A small project in which the commands of the documents mean something: a pool, a target, a model, a recipe, and what placeholders stand for."""

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.hub.stub import Hub
from tests.test_docs_commands import Shown
from tests.test_newcomer import Terminal

RECIPE = """
name: my-run
pool: [{path: pool.jsonl, group: kind, id: key}]
target: {desks: {path: wanted.jsonl}}
model: {path: model, max_length: 96, lora: {r: 2, alpha: 4, targets: attention}}
hygiene: {quarantine_limit: 20%}
warmup: {fraction: 10%, epochs: 1, learning_rate: 1.0e-3}
features: {gradient: {name: less, width: 64}, margin: margin, words: bm25, hidden: rds}
arms:
  near: {similarity: words, selector: round_robin}
  cover: {vectors: hidden, selector: facility_location}
budgets: [8]
seeds: [0]
baselines: [random]
train: {epochs: 1, learning_rate: 1.0e-3, batch_size: 8}
evaluate: [{task: likelihood, data: {synthetic: test, rows: 8}}]
"""
PLACEHOLDER = re.compile(r"[A-Z]+(/[A-Z]+)?|org/name|\.\.\.")
# By the word before it, or by the command, where the placeholder alone does not say what it stands for.
MEANINGS: dict[str | tuple[str, str], str] = {
    "RUN": "my-run",
    "ARM": "cover",
    "ROW": "pool-007",
    "MODEL": "model",
    "STORE": "another-store",
    "FOLDER": ".",
    ("--add", "FILE"): "new.jsonl",
    ("--remove", "FILE"): "gone.txt",
    ("--model", "ORG/NAME"): "model",
    ("--push", "ORG/NAME"): "lab/desks",
    ("--push", "org/name"): "lab/desks",
}


def prepare(folder: Path, root: Path) -> None:
    """The files that the pages name, each as small as its command allows."""
    from curate.data.synthetic import instructions

    parts = (("pool", "pool", 120, 0), ("new", "pool", 8, 7), ("wanted", "target", 8, 0), ("desks", "target", 8, 0))
    for name, part, rows, seed in parts:
        _write(folder / f"{name}.jsonl", [{"key": f"{name}-{at:03}", **row} for at, row in enumerate(instructions(part, rows, seed))])  # type: ignore[arg-type]
    (folder / "gone.txt").write_text("pool-003\npool-050\n")
    (folder / "recipe.yaml").write_text(RECIPE)
    shutil.copytree(root / "configs" / "quickstart_model", folder / "model")
    shutil.copyfile(root / "configs" / "clusters" / "slurm.yaml", folder / "my-slurm.yaml")
    (folder / "benchmarks").symlink_to(root / "benchmarks")
    _tasks(folder, root)
    _tables(folder)


def _write(path: Path, rows: Sequence[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _tasks(folder: Path, root: Path) -> None:
    """A task file of one's own: the one that ships, with data."""
    (folder / "my_tasks").mkdir()
    shipped = (root / "curate" / "harness" / "built_in" / "boolq.yaml").read_text()
    (folder / "my_tasks" / "boolq.yaml").write_text(f"{shipped}data: {{test: rows.jsonl}}\n")
    asked = [{"passage": f"Number {n} is a number.", "question": f"is {n} a number", "answer": "yes"} for n in range(6)]
    _write(folder / "my_tasks" / "rows.jsonl", asked)


def _tables(folder: Path) -> None:
    from pyarrow import Table, parquet

    asks = [{"question": f"how many rows have {n}", "sql": f"SELECT COUNT(*) FROM t WHERE a = {n}"} for n in range(40)]
    parquet.write_table(Table.from_pylist(asks), folder / "tables.parquet")
    (folder / "data").mkdir()
    options = {"text": ["red", "blue", "dark green"], "label": ["A", "B", "C"]}
    asked: list[dict[str, Any]] = [{"question": f"Which colour has number {n}?", "choices": options, "answerKey": "ABC"[n % 3]} for n in range(6)]
    parquet.write_table(Table.from_pylist(asked), folder / "data" / "arc.parquet")


@dataclass
class World:
    """The folder, and a command line in it."""

    folder: Path
    run: Callable[..., int]
    heard: pytest.CaptureFixture[str]
    hub: Hub
    root: Path
    exports: list[str] = field(default_factory=list)
    adapters: int = 0

    def meant(self, one: Shown) -> list[str]:
        """The words with what their placeholders stand for."""
        return [self._meaning(one, before, word) if PLACEHOLDER.fullmatch(word) else word for before, word in zip(("", *one.words), one.words, strict=False)]

    def _meaning(self, one: Shown, before: str, word: str) -> str:
        if word == "DIR" and before == "--adapter":
            self.adapters += 1
            return self._adapter(f"adapter-{self.adapters}")
        command = one.words[0]
        if word == "DIR" and command == "export":
            self.exports.append(f"subset-{len(self.exports) + 1}")
        if word == "DIR" and command in ("export", "verify") and self.exports:
            return self.exports[-1]
        for known in ((before, word), word):
            if known in MEANINGS:
                return MEANINGS[known]
        raise AssertionError(f"{one.where}: {word} after {before!r} has no meaning; give it one in MEANINGS of tests/docs_world.py")

    def _adapter(self, name: str) -> str:
        from tests.pipelines.asked_tasks import adapter_in  # which loads PEFT

        return adapter_in(self.folder / name, self.folder / "model", self.adapters).name

    def ended(self, words: Sequence[str]) -> tuple[int, str, str]:
        """Exit code, standard output and standard error of a command. What speaks to the Hub has a process of its own, for its client reads its place once."""
        if any(word == "--push" or word.startswith("hf://") for word in words):
            return 0, Terminal(self.folder, self.root, self.hub).python("-m", "curate", *words), ""
        self.heard.readouterr()
        code = self.run(*words)
        return code, *self.heard.readouterr()

    def follow(self, one: Shown) -> str:
        """Do what a page shows; its output. It has to end well."""
        return self.type(self.meant(one), one.where)

    def type(self, words: Sequence[str], where: str, code: int = 0) -> str:
        """Run a command, after the run that it speaks of; standard output, or what an error says."""
        if "my-run" in words and not (self.folder / "runs" / "my-run" / "run.json").is_file():
            self.type(["run", "recipe.yaml", "--until", "select"], where)
        found, said, error = self.ended(words)
        assert found == code, f"{where}: curate {' '.join(words)} ended with {found}, not {code}: {error[-2000:]}"
        return error if code else said
