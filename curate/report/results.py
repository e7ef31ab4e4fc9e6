"""The document that a run leaves (results.json): everything a report shows, and nothing that it must compute."""

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from curate.core import Config


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_finite)]  # absent where it is not defined, such as the error of one item


class DataSummary(Config):
    """What became of a set of rows: read, used, or set aside for a reason."""

    rows_in: int
    used: int
    quarantined: dict[str, int] = Field(default_factory=dict, description="Rows set aside, by reason.")
    tokens: int = 0
    supervised_tokens: int = 0
    groups: dict[str, int] = Field(default_factory=dict, description="Used rows by source, label or sub-task.")


class QuarantinedRow(Config):
    """One row that was set aside, and why."""

    part: str = Field(description="pool, target, or the feature that had no usable number for it.")
    id: str
    reason: str
    detail: str = ""
    origin: str = ""


class FeatureRow(Config):
    """A feature that was computed, and what it cost."""

    name: str
    scorer: str
    output: str
    width: int | None = None
    rows: int = 0
    seconds: float = 0.0
    cached: bool = False
    stored: str = "float32"
    bytes: int = 0
    storage_error: dict[str, float] = Field(default_factory=dict, description="What the stored format costs: rms errors of rows and of cosines.")
    fidelity: dict[str, float] = Field(default_factory=dict, description="Agreement of sketched with exact similarities on a pilot.")


class CertificateRow(Config):
    """`curate.core.Certificate` as it is stored; a number that is not finite is absent."""

    kind: str
    sense: Literal["max", "min"]
    objective: Number = None
    bound: Number = None
    gap: Number = None
    details: dict[str, Number] = Field(default_factory=dict)


class SelectionRow(Config):
    """What one arm took at one budget with one seed."""

    arm: str
    target: str | None = None
    budget: str = ""
    seed: int | None = None
    rows: int
    tokens: int = 0
    supervised_tokens: int = 0
    groups: dict[str, int] = Field(default_factory=dict)
    certificate: CertificateRow | None = None
    seconds: float = 0.0
    key: str = ""


class TaskScore(Config):
    """One model's score on one task, and the standard error over its items."""

    task: str
    metric: str
    mean: float
    standard_error: Number = None
    n: int
    higher_is_better: bool = True


class Cell(Config):
    """One trained and evaluated model. No budget: it stands under every budget; no target: under every target."""

    arm: str
    budget: str = ""
    seed: int | None = None
    target: str | None = None
    tasks: list[TaskScore] = Field(default_factory=list)
    train_tokens: int = 0
    steps: int = 0
    seconds: float = 0.0
    key: str = ""


class Comparison(Config):
    """One arm's score over all its seeds, and its difference from the baseline; the baseline itself has none."""

    task: str
    metric: str
    budget: str = ""
    arm: str
    target: str | None = None
    mean: float
    standard_error: Number = None
    seeds: int = 1
    n: int
    baseline: str = "random"
    difference: Number = None
    low: Number = None
    high: Number = None
    verdict: str = ""


class Stage(Config):
    """One stage of the run, computed or found in the store."""

    stage: str
    label: str = ""
    key: str = ""
    seconds: float = 0.0
    cached: bool = False


class Results(Config):
    """A whole run, as results.json."""

    name: str
    version: str
    created: str = Field(description="ISO 8601.")
    seconds: float
    command: str | None = None
    hardware: dict[str, str] = Field(default_factory=dict)
    recipe: str = Field("", description="The resolved recipe, as YAML.")
    pool: DataSummary
    targets: dict[str, DataSummary] = Field(default_factory=dict)
    features: list[FeatureRow] = Field(default_factory=list)
    selections: list[SelectionRow] = Field(default_factory=list)
    cells: list[Cell] = Field(default_factory=list)
    comparisons: list[Comparison] = Field(default_factory=list)
    stages: list[Stage] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)
    quarantined: list[QuarantinedRow] = Field(default_factory=list, description="Every row that was set aside, by id.")
