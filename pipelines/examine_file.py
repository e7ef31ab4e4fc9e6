"""A task file as one of an experiment's evaluations."""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from curate.core import Evaluation
from curate.errors import ConfigError, DataError, IntegrityError, ModelError, about
from curate.evaluate import Graded
from curate.evaluations import Evaluate, TaskFileName
from curate.harness.exam import Exam, Reply, first, prepare, record
from curate.harness.metrics import Value, values
from curate.harness.questions import build_questions
from curate.harness.reading import LocalTask, read_task
from curate.harness.task_file import LOWER_IS_BETTER
from curate.harness.tokens import HarnessTokens
from curate.inference.engine import Engine
from curate.inference.fidelity import Gate, doubts_of
from curate.inference.ledger import Ledger
from curate.inference.probe import alone_because
from curate.interfaces import Press, State
from curate.model import LanguageModel, ModelHandle, cached, load_tokenizer
from curate.pipelines.calibrate_press import texts_of
from curate.pipelines.trust_press import fidelity
from curate.store import canonical, digest

_UNKNOWN = {"model": None, "weights": None, "engine": None, "press": None, "versions": None}  # a ledger of one evaluation needs no identity
HELD_AGAINST = 32  # first questions that are asked exactly too where there is a press


@dataclass(frozen=True)
class Origin:
    """Where an examination's questions come from."""

    file: str  # a path, or the name of one that comes with curate
    data: str | None
    shots: int | None
    limit: int | None
    seed: int  # of sampled answers

    def task(self) -> LocalTask:
        """The task with the number of examples that the recipe wants."""
        task = read_task(self.file)
        return task if self.shots is None else replace(task, file=task.file.model_copy(update={"num_fewshot": self.shots}))


@dataclass(frozen=True)
class FileExamination:
    """A task file with its data; what decides the scores is the digest of all that is asked and of what is right, and how answers are graded."""

    label: str
    target: str | None  # whose models are asked; None for all
    metric: str
    higher_is_better: bool
    origin: Origin
    graded_by: str  # the task's fields as JSON
    asked: str  # the digest of questions, in tokens, and of right answers
    inputs: tuple[str, ...] = ()
    press: Press | None = None

    def identity(self) -> dict[str, Any]:
        """What of it decides the scores."""
        lossy = {"press": [self.press.model_dump(mode="json"), self.press.version]} if self.press else {}
        return {"label": self.label, "graded_by": self.graded_by, "asked": self.asked, "seed": self.origin.seed, **lossy}

    def ask(self, model: LanguageModel, handle: ModelHandle) -> Graded:
        """Every question, asked of this model and graded by the task's first metric."""
        with about(f"evaluation {self.label}"):
            exam = in_tokens(self.origin, handle)
            if _asked(exam) != self.asked:
                raise IntegrityError(f"{self.origin.file} or its data changed while the experiment ran; run the same command again")
            engine = Engine(model, press=self.press, state=_calibrated(self.press, self.origin, handle, model.device) if self.press else None)
            said = _asked_of(engine, exam)
            lossy = _lossy(self.press, engine, exam, said) if self.press else ""
        answers = zip(exam.asked, said.replies, said.graded, strict=True)
        records = [{**record(asked.question, reply, graded), **self._through} for asked, reply, graded in answers]
        scores = np.array([one["score"] for one in records], np.float64)
        evaluation = Evaluation(self.label, self.metric, np.array([asked.question.id for asked in exam.asked]), scores)
        return Graded(evaluation, records, engine.forward_tokens, engine.asked_tokens, engine.peak_bytes, engine.unshared, lossy)

    @property
    def _through(self) -> dict[str, str]:
        return {"press": self.press.name} if self.press else {}


@dataclass(frozen=True)
class _Said:
    """What a model said to an exam, graded."""

    replies: list[Reply]
    graded: list[dict[str, Value]]


def _asked_of(engine: Engine, exam: Exam) -> _Said:
    replies = exam.ask(engine, Ledger(), _UNKNOWN)
    return _Said(replies, [values(exam.task, asked.question, reply) for asked, reply in zip(exam.asked, replies, strict=True)])


@lru_cache(maxsize=8)
def _calibrated(press: Press, origin: Origin, handle: ModelHandle, device: str) -> State | None:
    """What the press measured on the base model, so that it is the same for every variant."""
    exam = in_tokens(origin, handle)
    base = cached(handle, device)
    why = alone_because(base, exam.longest)
    if why:
        raise ModelError(f"{handle.path} cannot be run through a press: {why}; remove press")
    return press.calibrate(base, texts_of([exam]), origin.seed)


def _lossy(press: Press, engine: Engine, exam: Exam, lossy: _Said) -> str:
    """What the press did to the scores: how much went through it, and how the first answers compare with exact ones."""
    beginning = first(exam, HELD_AGAINST)
    found = fidelity(beginning, [_asked_of(Engine(engine.model), beginning)], [lossy])
    _, share = exam.through(press, engine.layout)
    doubts = "".join(f": do not rank arms by these scores, for {doubt}" for doubt in doubts_of(found, Gate()))
    measured = f"{found.agreement:.1%} of {found.items} answers are those of the exact run"
    return f"{share:.1%} of the prompts' tokens went through {press.name}, and {measured}{doubts}"


def examine_file(entry: Evaluate, label: str, folder: Path, handle: ModelHandle) -> FileExamination:
    """The evaluation that an entry of the recipe with a task file describes; all its questions are built and tokenised once, to find now what is wrong."""
    if not isinstance(entry.task, TaskFileName):
        raise TypeError("the entry has no task file")
    data = str((folder / str(entry.data[0].path)).absolute()) if entry.data else None
    origin = Origin(_located(entry.task, folder), data, entry.shots, entry.limit, entry.seed)
    with about(f"evaluation {label}"):
        task = origin.task()
        metric, higher = _first_metric(task)
        exam = in_tokens(origin, handle)
    if len(exam.asked) < 2:
        raise DataError(f"evaluation {label}: it asks a single question, and arms are compared over two or more; raise limit, or give it more data")
    return FileExamination(label, entry.target, metric, higher, origin, task.file.model_dump_json(exclude={"data"}), _asked(exam), press=entry.press)


@lru_cache(maxsize=8)
def in_tokens(origin: Origin, handle: ModelHandle) -> Exam:
    """The exam in the model's tokens, once per process."""
    questions = build_questions(origin.task(), origin.data, limit=origin.limit)
    return prepare(questions, HarnessTokens(load_tokenizer(handle), handle.max_length), origin.seed)


def _located(task: TaskFileName, folder: Path) -> str:
    """A path from the recipe's folder, or the name of a task that comes with curate."""
    local = folder / task.file
    return str(local) if local.is_file() or "/" in task.file or task.file.endswith((".yaml", ".yml")) else task.file


def _first_metric(task: LocalTask) -> tuple[str, bool]:
    """The metric that arms are compared by, and whether more of it is better; ConfigError for one that is no mean over items."""
    first = task.file.metrics[0]
    if first.how != "mean":
        instead = "list acc first" if task.file.output_type == "loglikelihood" else "evaluate by `task: likelihood` on the same texts"
        raise ConfigError(f"its first metric, {first.metric}, is no mean over items, which arms are compared by; {instead}")
    if first.metric in LOWER_IS_BETTER:
        return "log-likelihood", True  # which is what the mean of a perplexity's items is
    return f"pass@{first.k[0]}" if first.metric == "pass@k" else first.metric, True


def _asked(exam: Exam) -> str:
    """The digest of what is asked and of what is right: a mended answer in the data is another examination."""
    right = [[asked.question.id, list(asked.question.choices), list(asked.question.targets)] for asked in exam.asked]
    return digest(canonical([exam.digest, right]))
