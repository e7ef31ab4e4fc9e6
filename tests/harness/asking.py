"""Task files and rows written into a folder, and the questions that come of them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from curate.harness.questions import Question, Questions, build_questions
from curate.harness.reading import LocalTask, parse_task
from curate.harness.task_file import Files

Rows = Sequence[Mapping[str, Any]]

CHOICES = """task: demo
data: rows.jsonl
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_target: label
doc_to_choice: options
"""
ROWS: Rows = [{"question": f"q{i}", "options": ["no", "yes"], "label": i % 2, "share": i / 2, "about": f"{i} {i}"} for i in range(4)]


def write_rows(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def task_in(folder: Path, text: str = CHOICES, rows: Rows = ROWS, **splits: Rows) -> LocalTask:
    """The task of a text beside rows.jsonl and a file for each split."""
    write_rows(folder / "rows.jsonl", rows)
    for split, others in splits.items():
        write_rows(folder / f"{split}.jsonl", others)
    return parse_task(text, "demo.yaml", folder)


def ask(folder: Path, text: str = CHOICES, rows: Rows = ROWS, limit: int | None = None, **splits: Rows) -> Questions:
    """The questions of a text; with splits, `data` is rows.jsonl as `test` and a file for each split."""
    data: Files | None = {"test": "rows.jsonl", **{split: f"{split}.jsonl" for split in splits}} if splits else None
    return build_questions(task_in(folder, text, rows, **splits), data, limit=limit)


def first(folder: Path, text: str = CHOICES, rows: Rows = ROWS, **splits: Rows) -> Question:
    return ask(folder, text, rows, None, **splits).questions[0]
