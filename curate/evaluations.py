"""What a recipe says of its data and of its evaluations."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from curate.core import Config
from curate.data.source import Source
from curate.interfaces import Press, Task
from curate.registry import component
from curate.strict_yaml import Misplaced


def listed(value: Any) -> Any:
    """A list, also of one."""
    return value if isinstance(value, list) else [value]


def _origins(value: Any) -> Any:
    for source in listed(value):
        if isinstance(source, str):
            raise ValueError(f"{source!r} is a bare word; write {{path: {source}}} for files, or {{hub: {source}}} for a Hub dataset")
    return listed(value)


Sources = Annotated[list[Source], BeforeValidator(_origins), Field(min_length=1)]


class TaskFileName(Config):
    """A task in a file with lm-evaluation-harness's keys, or one of those that come with curate."""

    file: str = Field(min_length=1, description="Path of a .yaml file (relative to the recipe), or a name.")

    @property
    def name(self) -> str:
        return self.file.rsplit("/", 1)[-1].removesuffix(".yaml").removesuffix(".yml")


def _task(value: Any) -> Any:
    if isinstance(value, str) and value.endswith((".yaml", ".yml")):
        return TaskFileName(file=value)
    if isinstance(value, dict) and "file" in value:
        return TaskFileName.model_validate(value)
    return value if isinstance(value, TaskFileName) else component("tasks", value)


class Evaluate(Config):
    """A task on its data. Few-shot examples come from the target rows, and items that are target rows are left out.

    A task file (`task: my_tasks/boolq.yaml`) names its own data and few-shot examples; `shots` and `limit` then take the place of what it says, and
    `limit` means the first items.
    """

    task: Annotated[SerializeAsAny[Task | TaskFileName], BeforeValidator(_task)]
    data: Annotated[list[Source] | None, BeforeValidator(lambda value: None if value is None else _origins(value))] = None
    label: str | None = Field(None, description="Name in tables; default: the task's name.")
    target: str | None = Field(None, description="With per_target: only models of this target and the baselines are asked; default: all models.")
    shots: int | None = Field(None, ge=0, description="Few-shot examples; default: 0, or what the task file says.")
    press: Annotated[SerializeAsAny[Press] | None, BeforeValidator(lambda value: None if value is None else component("presses", value))] = Field(
        None, description="With a task file: a press, by name or as {name: ..., field: ...}, that prompts go through; scores are then not exact."
    )
    limit: int | None = Field(None, ge=1, description="Items, drawn by their ids; default: all.")
    seed: int = Field(0, ge=0, description="Of the draw of items and shots.")

    @model_validator(mode="after")
    def _with_data(self) -> "Evaluate":
        if isinstance(self.task, Task) and not self.data:
            raise Misplaced(("data",), f"task {self.task.name} needs data: [{{path: ...}}]")
        if isinstance(self.task, Task) and self.press:
            raise Misplaced(("press",), f"task {self.task.name} is asked exactly; a press goes with a task file (task: FILE.yaml), or remove press")
        if isinstance(self.task, TaskFileName) and self.data and (self.data[0].path is None or self.data != [Source(path=self.data[0].path)]):
            raise Misplaced(("data",), "a task file reads all rows of local files of one path; give data: {path: ...} alone, or name the data in the task file")
        return self


def label_of(evaluation: Evaluate) -> str:
    """What the tables call this evaluation."""
    through = f" through {evaluation.press.name}" if evaluation.press else ""
    return evaluation.label or f"{evaluation.task.name}{through}"
