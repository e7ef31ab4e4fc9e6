"""Task files from disk: included, merged, checked, and refused in one line where they ask for what is not done here.

A task file may include others, whose keys its own replace, as in lm-eval. Code is never run: `!function` and the keys that need it are refused.
YAML is read by version 1.2, so that an unquoted yes or no is text; lm-eval's reader makes true and false of these.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from curate.errors import ConfigError, CurateError, SafetyError
from curate.harness.task_file import METRICS, TaskFile, fields_at
from curate.harness.templates import Field
from curate.strict_yaml import Document, explain, load, nearest
from curate.yaml_reader import MAX_BYTES, clip, dotted

BUILT_IN = Path(__file__).parent / "built_in"
READERS = ("parquet", "json", "csv")
_CODE = "runs Python code, and code in task files is not run; write a Jinja template, or prepare the columns in the data file"
_GROUP = "names several tasks, and a task file is one; give the files of its tasks one by one"
_MEDIA = "asks about images or sound, and only text is asked here; use lm-eval itself"
REFUSED = {
    **dict.fromkeys(("process_docs", "process_results", "custom_dataset", "unsafe_code", "class"), _CODE),
    **dict.fromkeys(("group", "group_alias", "task_list", "aggregate_metric_list"), _GROUP),
    **dict.fromkeys(("doc_to_image", "doc_to_audio"), _MEDIA),
    "use_prompt": "names a prompt of promptsource, which is not read; write it out as doc_to_text and doc_to_target",
}
IGNORED = {
    "tag": "groups tasks in lm-eval's index, which is not read",
    "task_alias": "names the task in lm-eval's tables; ours use `task`",
    "should_decontaminate": "is not acted on, here as in lm-eval; compare the documents with the training rows yourself",
    "doc_to_decontamination_query": "is not acted on, here as in lm-eval",
}
_TEMPLATES = ("description", "doc_to_text", "doc_to_target", "doc_to_choice", "gen_prefix")
_FUNCTION = re.compile(r"(?P<where>.*:\d+): tag !function\b")


@dataclass(frozen=True)
class LocalTask:
    """A task file as read: its fields, the texts they stand in (the file itself first), and what is to be said about it."""

    file: TaskFile
    folder: Path = Path()  # that relative data paths start from
    documents: tuple[Document, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return str(self.file.task)

    def place(self, *path: str | int) -> str:
        """`file:line: key`, as errors about a key begin."""
        for document in self.documents:
            if path[0] in document.value:
                return f"{document.where(path)}: {dotted(path)}"
        return f"{self.documents[0].origin if self.documents else f'task {self.file.task}'}: {dotted(path)}"


def built_in() -> list[str]:
    """The names of the task files that come with the package."""
    return sorted(path.stem for path in BUILT_IN.glob("*.yaml"))


def read_task(given: str | Path) -> LocalTask:
    """The task of a file, or of a built-in one by name; ConfigError or SafetyError says in a line what is wrong, and where."""
    path = Path(given)
    if not path.is_file() and str(given) in built_in():
        path = BUILT_IN / f"{given}.yaml"
    if not path.is_file():
        raise ConfigError(f"task {str(given)!r} is no file and no built-in task; {nearest(str(given), built_in(), 'built-in tasks')}")
    return parse_task(_bytes(path), str(path), path.parent)


def parse_task(text: str | bytes, origin: str, folder: Path = Path()) -> LocalTask:
    """The task that a text describes; `origin` names it in errors, and what it includes and reads is found from `folder`."""
    documents = _documents(text, origin, folder, ())
    for document in documents:
        _refuse(document)
        _validated(document, document.value)
    merged = {key: value for document in reversed(documents) for key, value in document.value.items()}
    task = LocalTask(_validated(documents[0], merged), folder, tuple(documents))
    _check(task)
    for key in _templates(task):
        key.check()
    notes = [f"{task.place(key)} {why}" for key, why in IGNORED.items() if merged.get(key)]
    if task.file.generation_kwargs and task.file.output_type != "generate_until":
        notes.append(f"{task.place('generation_kwargs')} says nothing about output_type {task.file.output_type}")
    return LocalTask(task.file, folder, task.documents, tuple(notes))


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)  # one too many, for the reader to refuse
    except OSError as error:
        raise ConfigError(f"task file {path} cannot be read ({error.strerror}); check its permissions") from error


def _documents(text: str | bytes, origin: str, folder: Path, above: tuple[Path, ...]) -> list[Document]:
    """The text and all that it includes, those whose keys win first."""
    try:
        document = load(text, origin)
    except ConfigError as error:
        if found := _FUNCTION.match(str(error)):
            raise SafetyError(f"{found['where']}: !function {_CODE}") from None
        raise
    named = document.value.get("include") or []
    includes = [named] if isinstance(named, str) else named if isinstance(named, list) else []
    below: list[Document] = []
    for number, name in enumerate(includes):
        path = (folder / str(name)).resolve()
        where = document.where(("include", number))
        if path in above or len(above) > 8:
            raise ConfigError(f"{where}: include: {clip(str(name))} includes itself, or files are included more than eight deep; write the keys out")
        if not path.is_file():
            raise ConfigError(f"{where}: include: there is no file {path}; paths start from the task file")
        below = [*_documents(_bytes(path), str(folder / str(name)), path.parent, (*above, path)), *below]
    return [document, *below]


def _refuse(document: Document) -> None:
    for key, why in REFUSED.items():
        if document.value.get(key):
            kind: type[CurateError] = SafetyError if why == _CODE else ConfigError
            raise kind(f"{document.where((key,))}: {key} {why}")


def _validated(document: Document, value: Mapping[str, object]) -> TaskFile:
    try:
        return TaskFile.model_validate({key: one for key, one in value.items() if key not in REFUSED})
    except ValidationError as error:
        raise explain(document, error, fields_at) from None


def _check(task: LocalTask) -> None:
    """What no field says alone."""
    file = task.file
    wanted: dict[str, object] = {"doc_to_target": file.doc_to_target, "task": file.task}
    if file.output_type != "loglikelihood_rolling":
        wanted["doc_to_text"] = file.doc_to_text
    if file.output_type == "multiple_choice":
        wanted["doc_to_choice"] = file.doc_to_choice
    for key, value in wanted.items():
        if value is None:
            raise ConfigError(f"{task.documents[0].origin}:1: {key} is missing, and output_type {file.output_type} needs it; add it")
    if file.data is not None and file.dataset_path is not None:
        raise ConfigError(f"{task.place('data')} and dataset_path both say where the documents are; keep one")
    if file.dataset_path in READERS and not (file.dataset_kwargs and file.dataset_kwargs.data_files):
        raise ConfigError(f"{task.place('dataset_path')} {file.dataset_path} reads files, but none is named; add dataset_kwargs: {{data_files: ...}}")
    _check_metrics(task)
    _check_filters(task)


def _check_metrics(task: LocalTask) -> None:
    file = task.file
    allowed = METRICS[file.output_type]
    for number, metric in enumerate(file.metrics):
        place = task.place("metric_list", number, "metric")
        if metric.metric not in allowed:
            raise ConfigError(f"{place} {metric.metric} is no metric of output_type {file.output_type}; its metrics are {', '.join(allowed)}")
        if metric.metric in [other.metric for other in file.metrics[:number]]:
            raise ConfigError(f"{place} {metric.metric} is listed twice; keep one")
        if metric.metric == "pass@k" and max(metric.k) > file.repeats:
            raise ConfigError(f"{place} pass@{max(metric.k)} needs {max(metric.k)} answers to each question, but repeats is {file.repeats}; raise repeats")


def _check_filters(task: LocalTask) -> None:
    file = task.file
    if file.filter_list and file.output_type != "generate_until":
        raise ConfigError(f"{task.place('filter_list')} filters generated answers, but output_type is {file.output_type}; remove it")
    names = [one.name for one in file.filter_list or ()]
    one_answer = any(metric.metric == "exact_match" for metric in file.metrics)
    for number, pipeline in enumerate(file.filter_list or ()):
        place = task.place("filter_list", number)
        if pipeline.name in names[:number]:
            raise ConfigError(f"{place}: the name {pipeline.name!r} is given twice; each filter needs a name of its own")
        if any((step.k or 0) > file.repeats for step in pipeline.filter):
            raise ConfigError(f"{place}: take_first_k takes more answers than repeats ({file.repeats}) makes; raise repeats")
        if one_answer and file.repeats > 1 and pipeline.filter[-1].function not in ("take_first", "majority_vote"):
            raise ConfigError(f"{place}: exact_match reads one of {file.repeats} answers; end the filter with take_first or majority_vote")


def _templates(task: LocalTask) -> Sequence[Field]:
    """Every key that may be a template."""
    given: list[tuple[tuple[str, ...], object]] = [((key,), getattr(task.file, key)) for key in _TEMPLATES]
    given += [(("fewshot_config", key), getattr(task.file.fewshot_config, key)) for key in _TEMPLATES[1:]]
    return [Field(value, task.place(*path)) for path, value in given if isinstance(value, str)]
