"""Evaluate models: a base and its adapters on task files, every shared token computed once, every answer kept in a ledger."""

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from curate import __version__
from curate.errors import ConfigError, Interrupted
from curate.harness.exam import Exam, empty_answers, first, prepare
from curate.harness.metrics import Outcome, Value, summarise, values
from curate.harness.questions import build_questions
from curate.harness.reading import LocalTask, read_task
from curate.harness.results import Evaluated, Examined, MetricFound, Trust
from curate.harness.tokens import HarnessTokens
from curate.inference.engine import Engine
from curate.inference.fidelity import Fidelity, Gate, of_answers, of_choices
from curate.inference.ledger import Ledger, open_ledger
from curate.inference.variants import Variants
from curate.interfaces import Press, State
from curate.model import LanguageModel, ModelHandle, fresh, resolve
from curate.pipelines.launch import pick_device
from curate.pipelines.session import numeric_environment
from curate.settings import ModelSpec
from curate.store import atomic_write, canonical, digest

BASE = "base"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Wanted:
    """What to evaluate, and how."""

    model: ModelSpec
    adapters: Sequence[Path] = ()
    tasks: Sequence[str] = ()  # files, names, or NAME=DATA
    shots: int | None = None
    limit: int | None = None
    seed: int = 0
    press: Press | None = None
    calibrate_on: int = 32  # items of each task on which a lossy run is held against the exact one
    device: str = "auto"
    batch_tokens: int = 8192
    continuous: bool = False  # generation by transformers' continuous batching
    log_items: Path | None = None
    store: Path = field(default_factory=lambda: Path("store"))


def evaluate_models(wanted: Wanted, say: Say = lambda message: None) -> Evaluated:
    """All variants on all tasks; answers that the ledger in the store has are not computed again."""
    tasks = [_task(given, wanted.shots) for given in wanted.tasks]
    names = _names(wanted.adapters)
    device = pick_device(wanted.device)
    handle = resolve(wanted.model, Path.cwd())
    base = fresh(handle, device)
    exams = [_exam(task, data, base, handle, wanted) for task, data in tasks]
    notes = [note for exam in exams for note in _notes(exam)]
    variants = Variants(base, dict(zip(names, wanted.adapters, strict=True)))
    state = _calibrated(wanted, base, exams)
    with _ledger(wanted.store, handle) as ledger:
        run = Run(wanted, handle, variants, ledger, device, state, say)
        found = {(exam.questions.task.name, name): run.examine(exam, name, wanted.press) for exam in exams for name in (None, *names)}
        trust = [_trust(exam, run, [None, *names]) for exam in exams] if wanted.press else []
    if wanted.log_items:
        atomic_write(wanted.log_items, b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for one in found.values() for line in one.lines))
    return Evaluated(
        model=wanted.model.path,
        device=device,
        dtype=handle.dtype,
        version=__version__,
        press=wanted.press.model_dump(mode="json") if wanted.press else None,
        seed=wanted.seed,
        notes=notes,
        examined=[one.record for one in found.values()],
        trust=trust,
        plans={exam.questions.task.name: exam.digest for exam in exams},
    )


@dataclass(frozen=True)
class Said:
    """What a variant said to an exam, graded."""

    record: Examined
    outcomes: list[Outcome]
    graded: list[dict[str, Value]]
    lines: list[dict[str, Any]]


@dataclass(frozen=True)
class Run:
    """What all examinations of one call share."""

    wanted: Wanted
    handle: ModelHandle
    variants: Variants
    ledger: Ledger
    device: str
    state: State | None
    say: Say

    def examine(self, exam: Exam, name: str | None, press: Press | None) -> Said:
        """One variant on one exam; exact without a press."""
        started = time.monotonic()
        self.say(f"{exam.questions.task.name}: {name or BASE}{f' through {press.name}' if press else ''}")
        with self.variants.using(name) as model:
            engine = Engine(model, self.wanted.batch_tokens, press, self.state if press else None, continuous=self.wanted.continuous)
            outcomes = exam.ask(engine, self.ledger, self._identity(name, engine))
        graded = [values(exam.task, asked.question, outcome) for asked, outcome in zip(exam.asked, outcomes, strict=True)]
        task = exam.questions.task
        record = Examined(
            variant=name or BASE,
            task=task.name,
            version=exam.task.version,
            items=len(graded),
            metrics=_metrics(exam, graded),
            empty=empty_answers(outcomes),
            forward_tokens=engine.forward_tokens,
            tokens_without_sharing=engine.asked_tokens,
            cache_bytes=engine.peak_bytes,
            compressed_tokens=engine.compressed_tokens,
            seconds=round(time.monotonic() - started, 3),
            unshared=engine.unshared,
        )
        return Said(record, outcomes, graded, [_line(exam, name, *one) for one in zip(exam.asked, outcomes, graded, strict=True)])

    def _identity(self, name: str | None, engine: Engine) -> Mapping[str, Any]:
        press = engine.press.model_dump(mode="json") if engine.press else None
        return {
            "model": self.handle.identity(),
            "weights": self.variants.fingerprint(name) if name is not None else None,
            "engine": {"curate": __version__, "layout": asdict(engine.layout), "covers": engine.covers, "continuous": engine.continuous},
            "press": [press, _digests(engine.state or {})] if press else None,
            "versions": numeric_environment(self.device),
        }


def _digests(state: State) -> dict[str, str]:
    return {name: digest(np.ascontiguousarray(np.asarray(tensor.cpu() if hasattr(tensor, "cpu") else tensor)).tobytes()) for name, tensor in state.items()}


def _task(given: str, shots: int | None) -> tuple[LocalTask, str | None]:
    name, _, data = given.partition("=")
    task = read_task(name)
    if shots is not None:
        task = replace(task, file=task.file.model_copy(update={"num_fewshot": shots}))
    return task, data or None


def _names(adapters: Sequence[Path]) -> list[str]:
    names = [path.resolve().name for path in adapters]
    for i, name in enumerate(names):
        if name == BASE or name in names[:i]:
            raise ConfigError(f"two variants would be called {name!r}; adapters are named by their folders: rename {adapters[i]}")
    return names


def _exam(task: LocalTask, data: str | None, base: LanguageModel, handle: ModelHandle, wanted: Wanted) -> Exam:
    questions = build_questions(task, data, limit=wanted.limit)
    return prepare(questions, HarnessTokens(base.tokenizer, handle.max_length), wanted.seed)


def _notes(exam: Exam) -> list[str]:
    name, notes = exam.questions.task.name, list(exam.questions.notes)
    questions, tokens = exam.dropped
    if questions:
        notes.append(f"{name}: {questions} of {len(exam.asked)} questions do not fit the model; {tokens} tokens were cut from their left")
    if exam.unstable:
        notes.append(f"{name}: in {exam.unstable} questions a token reaches from the context into the answer; end the context or begin the answer elsewhere")
    return notes


def _calibrated(wanted: Wanted, base: LanguageModel, exams: Sequence[Exam]) -> State | None:
    """What the press needs to know of the base model, from the texts that are asked; frozen for all variants."""
    if wanted.press is None:
        return None
    texts = [one.context for exam in exams for asked in exam.asked[:8] for one in asked.sent[:1]]
    return wanted.press.calibrate(base, texts, wanted.seed)


@contextlib.contextmanager
def _ledger(store: Path, handle: ModelHandle) -> Iterator[Ledger]:
    try:
        with open_ledger(store / "ledger" / f"{digest(canonical(handle.identity()))}.jsonl") as ledger:
            yield ledger
    except KeyboardInterrupt:
        raise Interrupted("interrupted: everything answered so far is kept; run the same command again to go on") from None


def _metrics(exam: Exam, graded: Sequence[Mapping[str, Value]]) -> list[MetricFound]:
    found = summarise(exam.task, graded)
    return [
        MetricFound(name=name, value=one.value, standard_error=_finite(one.standard_error), higher_is_better=one.higher_is_better)
        for name, one in found.items()
    ]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _line(exam: Exam, name: str | None, asked: Any, outcome: Outcome, graded: Mapping[str, Value]) -> dict[str, Any]:
    """One item of items.jsonl."""
    question = asked.question
    return {
        "task": exam.questions.task.name,
        "variant": name or BASE,
        "id": question.id,
        "prompt": question.context,
        "targets": list(question.targets),
        "loglikelihoods": dict(zip(question.choices, outcome.loglikelihoods, strict=False)) if question.choices else list(outcome.loglikelihoods),
        "generation": list(outcome.responses),
        "score": {metric: value.value for metric, value in graded.items()},
        "tokens": [len(one.continuation) for one in asked.sent],
    }


def _trust(exam: Exam, run: Run, names: Sequence[str | None]) -> Trust:
    """The press against the exact engine on the exam's first questions."""
    part = first(exam, run.wanted.calibrate_on)
    exact = [run.examine(part, name, None) for name in names]
    lossy = [run.examine(part, name, run.wanted.press) for name in names]
    scores = [[np.array([next(iter(values.values())).value for values in said.graded]) for said in several] for several in (exact, lossy)]
    if exam.task.output_type == "generate_until":
        answers = [[["\0".join(outcome.responses) for outcome in said.outcomes] for said in several] for several in (exact, lossy)]
        found = of_answers(answers[0], answers[1], scores[0], scores[1])
    else:
        nats = [[[np.asarray(outcome.loglikelihoods) for outcome in said.outcomes] for said in several] for several in (exact, lossy)]
        found = of_choices(nats[0], nats[1], scores[0], scores[1])
    return _judged(exam, found)


def _judged(exam: Exam, found: Fidelity) -> Trust:
    measured = {name: _finite(value) for name, value in asdict(found).items() if name not in ("items", "agreement")}
    return Trust(task=exam.questions.task.name, items=found.items, agreement=found.agreement, passed=found.passes(Gate()), **measured)
