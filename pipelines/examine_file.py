"""A task file as one of an experiment's evaluations."""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from curate.core import Evaluation
from curate.errors import ConfigError
from curate.evaluate import Graded
from curate.harness.exam import Exam, prepare
from curate.harness.metrics import values
from curate.harness.questions import build_questions
from curate.harness.reading import read_task
from curate.harness.task_file import LOWER_IS_BETTER
from curate.harness.tokens import HarnessTokens
from curate.inference.engine import Engine
from curate.inference.ledger import Ledger
from curate.model import LanguageModel, ModelHandle, load_tokenizer
from curate.recipe import Evaluate, TaskFileName


@dataclass(frozen=True)
class FileExamination:
    """A task file with its data, by path; what decides the scores is the digest of all that is asked, in tokens, and how answers are graded."""

    label: str
    file: str  # a path, or the name of one that comes with curate
    data: str | None
    shots: int | None
    limit: int | None
    seed: int  # of sampled answers
    metric: str
    higher_is_better: bool
    graded_by: str  # the task's fields as JSON
    asked: str = ""
    inputs: tuple[str, ...] = ()

    def identity(self) -> dict[str, Any]:
        """What of it decides the scores."""
        return {"label": self.label, "graded_by": self.graded_by, "asked": self.asked, "seed": self.seed}

    def ask(self, model: LanguageModel, handle: ModelHandle) -> Graded:
        """Every question, asked of this model and graded by the task's first metric."""
        exam = in_tokens(self, handle)
        engine = Engine(model)
        said = exam.ask(engine, Ledger(), {"model": None, "weights": None, "engine": None, "press": None, "versions": None})
        graded = [values(exam.task, asked.question, outcome) for asked, outcome in zip(exam.asked, said, strict=True)]
        scores = np.array([next(iter(found.values())).value for found in graded], np.float64)
        records = [
            {
                "id": asked.question.id,
                "prompt": asked.question.context,
                "targets": list(asked.question.targets),
                "loglikelihoods": dict(zip(asked.question.choices, outcome.loglikelihoods, strict=False)) or list(outcome.loglikelihoods),
                "generation": list(outcome.responses),
                "score": float(score),
                "metrics": {name: value.value for name, value in found.items()},
                "tokens": [len(one.continuation) for one in asked.sent],
            }
            for asked, outcome, score, found in zip(exam.asked, said, scores, graded, strict=True)
        ]
        evaluation = Evaluation(self.label, self.metric, np.array([asked.question.id for asked in exam.asked]), scores)
        return Graded(evaluation, records, engine.forward_tokens, engine.asked_tokens, engine.peak_bytes, engine.unshared)


def examine_file(entry: Evaluate, label: str, folder: Path, handle: ModelHandle) -> FileExamination:
    """The evaluation that an entry of the recipe with a task file describes; all its questions are built and tokenised once, to find now what is wrong."""
    if not isinstance(entry.task, TaskFileName):
        raise TypeError("the entry has no task file")
    local = folder / entry.task.file
    name = str(local) if local.is_file() or "/" in entry.task.file or entry.task.file.endswith((".yaml", ".yml")) else entry.task.file
    data = str((folder / str(entry.data[0].path)).absolute()) if entry.data else None
    task = read_task(name).file
    first = task.metrics[0]
    if first.how != "mean":
        raise ConfigError(f"evaluation {label}: its first metric, {first.metric}, is no mean over items, which arms are compared by; put acc first")
    made = FileExamination(
        label, name, data, entry.shots, entry.limit, entry.seed, first.metric, first.metric not in LOWER_IS_BETTER, task.model_dump_json(exclude={"data"})
    )
    return replace(made, asked=in_tokens(made, handle).digest)


@lru_cache(maxsize=8)
def in_tokens(examination: FileExamination, handle: ModelHandle) -> Exam:
    """The exam in the model's tokens, once per process."""
    task = read_task(examination.file)
    if examination.shots is not None:
        task = replace(task, file=task.file.model_copy(update={"num_fewshot": examination.shots}))
    questions = build_questions(task, examination.data, limit=examination.limit)
    return prepare(questions, HarnessTokens(load_tokenizer(handle), handle.max_length), examination.seed)
