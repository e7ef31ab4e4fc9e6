"""Where rows come from: one entry of `pool`, `target` or `evaluate` in a recipe."""

import re
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from curate.core import Config
from curate.errors import DataError

Format = Literal["messages", "prompt_completion", "alpaca", "sharegpt", "question_answer", "text_label", "text", "pretokenised"]
Scalar = str | int | float | bool | None

_PART = re.compile(r"\{\{|\}\}|\{([^{}]+)\}|[{}]")
_HUB = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


class Source(Config):
    """Rows of local files, of a Hub dataset, or of the built-in synthetic pool, filtered and read in one way."""

    path: str | None = Field(None, description="File, folder or glob, relative to the recipe; JSONL, JSON, CSV, parquet or Arrow.")
    hub: str | None = Field(None, description="Dataset on the Hugging Face Hub, `org/name`.")
    synthetic: Literal["pool", "target", "test"] | None = Field(None, description="A part of the built-in synthetic data.")
    config: str | None = Field(None, description="Configuration of the Hub dataset.")
    revision: str | None = Field(None, description="Commit, tag or branch of the Hub dataset; pin a commit to repeat a run.")
    split: str | None = Field(None, description="Split, with an optional slice on the Hub: `train`, `train[:20%]`.")
    files: str | list[str] | None = Field(None, description="Files inside the Hub dataset, as globs.")
    rows: int | None = Field(None, gt=0, description="How many synthetic rows.")
    seed: int = Field(0, ge=0, description="Seed of the synthetic rows.")
    format: Format | None = Field(None, description="How to read the columns, where more than one way is possible.")
    prompt: str | None = Field(None, description="What the user says, with columns in braces: `Translate: {text}`.")
    completion: str | None = Field(None, description="The answer to learn, with columns in braces.")
    where: dict[str, Scalar | list[Scalar]] = Field(default_factory=dict, description="Keep rows whose column has this value, or one of these.")
    limit: int | None = Field(None, gt=0, description="Keep the first rows after the filter.")
    sample: int | None = Field(None, gt=0, description="Keep this many rows, drawn without replacement by their content.")
    sample_seed: int = Field(0, ge=0, description="Seed of the sample.")
    id: str | None = Field(None, description="Column that holds a unique id; a hash of the content otherwise.")
    license: str | None = Field(None, min_length=1, description="Licence of rows without a column `license` of their own, such as cc-by-4.0; kept with each.")
    group: str | None = Field(None, description="Column to group by, or `label:NAME` for one group; the file's name otherwise.")

    @field_validator("prompt", "completion")
    @classmethod
    def _braces_close(cls, template: str | None) -> str | None:
        if template is not None and any(match.group() in "{}" for match in _PART.finditer(template)):
            raise ValueError("a brace is open; write {column} for a column and {{ or }} for a brace")
        return template

    @field_validator("hub")
    @classmethod
    def _hub_name(cls, name: str | None) -> str | None:
        if name is not None and not _HUB.fullmatch(name):
            raise ValueError(f"{name!r} is not a Hub dataset; write org/name, or use path for files")
        return name

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        given = [name for name in ("path", "hub", "synthetic") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"a source needs exactly one of path, hub or synthetic; this one has {' and '.join(given) or 'none'}")
        for name in ("config", "revision", "files"):
            if getattr(self, name) is not None and self.hub is None:
                raise ValueError(f"{name} belongs to a Hub dataset; remove it or use hub instead of {given[0]}")
        if (self.synthetic is None) != (self.rows is None):
            raise ValueError("synthetic and rows go together: {synthetic: pool, rows: 1000}")
        if (self.prompt is None) != (self.completion is None):
            raise ValueError("prompt and completion go together; give both or neither")
        if self.prompt is not None and self.format is not None:
            raise ValueError("format is not needed when prompt and completion say how to read the columns; remove one of them")
        if self.limit is not None and self.sample is not None:
            raise ValueError("limit and sample exclude each other; limit takes the first rows, sample draws them")
        return self

    @property
    def label(self) -> str:
        """What messages call this source."""
        return self.path or self.hub or f"synthetic {self.synthetic}"


def columns_of(template: str) -> list[str]:
    """The columns that a template names, in order."""
    return [match[1] for match in _PART.finditer(template) if match[1] is not None]


def fill(template: str, values: Mapping[str, str]) -> str:
    """The template with each `{column}` replaced by its value; nothing else is interpreted."""
    return _PART.sub(lambda match: values[match[1]] if match[1] is not None else match.group()[0], template)


def require(column: str, fields: Mapping[str, Any], what: str) -> None:
    """Refuse a column that the data does not have, naming those that it has."""
    if column not in fields:
        raise DataError(f"{what}: there is no column {column!r}; the columns are {', '.join(map(repr, fields)) or 'none'}")
