"""A task file and its documents to questions: the texts that a model is asked, with the answers that count as right, as lm-eval 0.4.13 builds them.

A question's text is `description + examples + document`. By output_type it is asked as
    multiple_choice        (text, target_delimiter + choice) for each choice; where doc_to_text gives a choice's number, each choice is the end of a
                           text of its own and doc_to_target is what follows
    loglikelihood          (text, target), the target as it stands
    loglikelihood_rolling  the target alone
    generate_until         the text
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from curate.errors import DataError
from curate.harness.documents import HarnessDocument, read_documents, split_files
from curate.harness.prompts import Format
from curate.harness.reading import LocalTask
from curate.harness.shots import SEED, drawn, files_of, pool_of
from curate.harness.task_file import Files
from curate.harness.templates import Field
from curate.yaml_reader import shown

Pair = tuple[str, str]


@dataclass(frozen=True)
class Question:
    """What a model is asked about one document.

    `requests` are (context, continuation): one for each choice, and where acc_mutual_info is wanted one more for each, with an empty context;
    or the one of the other output types, in which an empty text stands for the part that there is not.
    """

    id: str
    requests: tuple[Pair, ...]
    choices: tuple[str, ...] = ()
    targets: tuple[int | str, ...] = ()  # the numbers of right choices, or right answers; any of them will do
    shots: tuple[str, ...] = ()  # ids of the examples, in their order

    @property
    def context(self) -> str:
        return self.requests[0][0]


@dataclass(frozen=True)
class Questions:
    """All questions of a task, and what their reader should know of them."""

    task: LocalTask
    questions: tuple[Question, ...]
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.questions)


@dataclass(frozen=True)
class _Asking:
    """What stays the same from one document of a task to the next."""

    task: LocalTask
    format: Format
    description: Field | None
    several: bool  # the first document has a list of answers, so all have
    prompts: bool  # the choices of the first document are prompts, so all are
    mutual: bool
    counts: Counter[str]


def build_questions(task: LocalTask, data: Files | None = None, *, limit: int | None = None, seed: int = SEED) -> Questions:
    """The questions of the first `limit` documents. `data` names files in place of those that the task names; DataError says what is wrong."""
    splits = split_files(task, data)
    asked = read_documents(files_of(task, splits, task.file.asked_split or "test"), limit)
    columns = tuple(asked[0].fields)
    asking = _asking(task, columns, asked[0])
    shots: Sequence[list[HarnessDocument]] = [[]] * len(asked)
    if task.file.shots and task.file.output_type != "loglikelihood_rolling":
        pool = pool_of(task, splits, asked, limited=limit is not None)
        shots = list(drawn(task, asked, pool, seed))
        asking.counts["own"] = sum(any(other.fields == document.fields for other in found) for document, found in zip(asked, shots, strict=True))
    example = Format.of(task, columns, example=True)
    written: dict[str, str] = {}

    def text(shot: HarnessDocument) -> str:
        if shot.id not in written:
            written[shot.id] = example.example(shot)
        return written[shot.id]

    questions = tuple(_question(asking, document, found, "".join(map(text, found))) for document, found in zip(asked, shots, strict=True))
    if asking.counts["no choice"] == len(asked):
        raise DataError(f"{asking.format.place}: the answer of no document is one of its choices; give a choice's number (from 0) or its text")
    return Questions(task, questions, (*task.notes, *_notes(asking)))


def _asking(task: LocalTask, columns: Sequence[str], first: HarnessDocument) -> _Asking:
    form = Format.of(task, columns, example=False)
    asks_choices = task.file.output_type == "multiple_choice"
    return _Asking(
        task,
        form,
        Field(task.file.description, task.place("description"), tuple(columns)) if task.file.description else None,
        several=isinstance(form.target_of(first), list),
        prompts=asks_choices and isinstance(form.text_of(first), int),
        mutual=asks_choices and any(metric.metric == "acc_mutual_info" for metric in task.file.metrics),
        counts=Counter(),
    )


def _notes(asking: _Asking) -> list[str]:
    task, counts = asking.task, asking.counts
    notes = []
    if counts["own"]:
        notes.append(
            f"{task.name}: {counts['own']} questions have themselves among their few-shot examples, for the examples come from the documents that are "
            "asked and lm-eval strikes a document out only where fewshot_split equals test_split; name both"
        )
    if counts["no choice"]:
        notes.append(f"{task.name}: the answer of {counts['no choice']} documents is none of their choices; they count as wrong")
    return notes


def _question(asking: _Asking, document: HarnessDocument, shots: Sequence[HarnessDocument], before: str) -> Question:
    start = _description(asking, document) + before
    requests, choices, targets = _BY_OUTPUT[asking.task.file.output_type](asking, document, start)
    return Question(document.id, tuple(requests), tuple(choices), tuple(targets), tuple(shot.id for shot in shots))


Built = tuple[list[Pair], list[str], list[int | str]]


def _multiple_choice(asking: _Asking, document: HarnessDocument, start: str) -> Built:
    form = asking.format
    choices, asked, target = form.choices_of(document), form.text_of(document), form.target_of(document)
    if isinstance(asked, int) is not asking.prompts:
        raise _unlike(asking, document, "doc_to_text", "the number of a choice")
    delimiter = form.target_delimiter
    if isinstance(asked, int):
        if not isinstance(target, str | int):
            raise DataError(f"{form.place}: document {document.id}: is {shown(target)}, not the text that follows every choice")
        requests = [(start + form.question(document, choice, delimited=False), f"{delimiter}{target}") for choice in choices]
        return requests + _unconditional(asking, choices), choices, _numbers(asking, document, choices, asked)
    context = start + form.question(document, asked)
    return (
        [(context, delimiter + choice) for choice in choices] + _unconditional(asking, choices),
        choices,
        _numbers(asking, document, choices, target),
    )


def _unconditional(asking: _Asking, choices: Sequence[str]) -> list[Pair]:
    return [("", asking.format.target_delimiter + choice) for choice in choices] if asking.mutual else []


def _numbers(asking: _Asking, document: HarnessDocument, choices: Sequence[str], target: Any) -> list[int | str]:
    """The right choices by number; none where the target is not among the choices."""
    if isinstance(target, list) is not asking.several and not asking.prompts:
        raise _unlike(asking, document, "doc_to_target", "a list")
    several = target if isinstance(target, list) else [target]
    found: list[int | str] = []
    for one in several:
        if not isinstance(one, int) and (not isinstance(one, str) or isinstance(target, list)):
            place = f"{asking.format.place}: document {document.id}"
            raise DataError(f"{place}: the answer is {shown(one)}; it must be a choice's number (from 0), a list of these, or its text")
        number = one if isinstance(one, int) else choices.index(one) if one in choices else len(choices)
        found += [int(number)] if 0 <= number < len(choices) else []
    asking.counts["no choice"] += len(found) < len(several)
    return found


def _loglikelihood(asking: _Asking, document: HarnessDocument, start: str) -> Built:
    return [(_context(asking, document, start), _text(asking, document))], [], []


def _rolling(asking: _Asking, document: HarnessDocument, start: str) -> Built:
    return [("", _text(asking, document, empty=True))], [], []


def _generate(asking: _Asking, document: HarnessDocument, start: str) -> Built:
    form = asking.format
    target = form.target_of(document)
    if target is None:
        raise DataError(f"{form.place}: document {document.id}: the answer is missing; drop the document or mend it")
    context = _context(asking, document, start)
    if form.choices is not None:
        choices = form.choices_of(document)
        if not isinstance(target, int) or not -len(choices) <= target < len(choices):
            raise DataError(f"{form.place}: document {document.id}: the answer is {shown(target)}, but with doc_to_choice it is a choice's number (from 0)")
        return [(context, "")], choices, [choices[target]]
    if not asking.several:
        return [(context, "")], [], [target if isinstance(target, str) else str(target)]
    if not isinstance(target, list):
        raise _unlike(asking, document, "doc_to_target", "a list")
    if not all(isinstance(one, str) for one in target):
        raise DataError(f"{form.place}: document {document.id}: a list of answers holds texts only; put them in quotes")
    return [(context, "")], [], target


def _context(asking: _Asking, document: HarnessDocument, start: str) -> str:
    asked = asking.format.text_of(document)
    if not isinstance(asked, str):
        raise DataError(f"{asking.task.place('doc_to_text')}: document {document.id}: is {shown(asked)}, not text; write {{{{ column }}}} to make text of it")
    return start + asking.format.question(document, asked)


def _text(asking: _Asking, document: HarnessDocument, *, empty: bool = False) -> str:
    target = asking.format.target_of(document)
    if not isinstance(target, str) or not (target or empty):
        raise DataError(f"{asking.format.place}: document {document.id}: is {shown(target)}, not text to score; write {{{{ column }}}} to make text of it")
    return target


def _description(asking: _Asking, document: HarnessDocument) -> str:
    value = asking.description.value(document.fields, document.id) if asking.description else ""
    if asking.description and not isinstance(value, str):
        raise DataError(f"{asking.description.place}: document {document.id}: is {shown(value)}, not text")
    return str(value)


def _unlike(asking: _Asking, document: HarnessDocument, key: str, what: str) -> DataError:
    return DataError(f"{asking.task.place(key)}: document {document.id} and the first one are unlike: only one of them gives {what}; make them alike")


_BY_OUTPUT: dict[str, Callable[[_Asking, HarnessDocument, str], Built]] = {
    "multiple_choice": _multiple_choice,
    "loglikelihood": _loglikelihood,
    "loglikelihood_rolling": _rolling,
    "generate_until": _generate,
}
