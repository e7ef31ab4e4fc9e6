"""The document that a run leaves (results.json): everything a report shows, and nothing that it must compute."""

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from curate.core import Config
from curate.report.churned import Churn
from curate.report.cleaned import CleanedPool
from curate.report.planned import Planned


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
    longer: Number = Field(None, description="Probability that a row taken is longer than one left; a half where length plays no part.")
    matched_to: str = Field("", description="The arm whose lengths or sources this control copies.")
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
    planned_tokens: int = Field(0, description="What training would have read without pruning and without stopping early.")
    steps: int = 0
    stopped_at: int | None = Field(None, description="The step whose weights early stopping kept.")
    failed: str = Field("", description="Why there is no model, in one sentence.")
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
    p: Number = Field(None, description="Two-sided, of no difference; alone.")
    adjusted: Number = Field(None, description="The same by Holm's rule over all arms and budgets of the task.")
    comparisons: int = Field(0, description="How many the rule was over.")
    only_ours: int | None = Field(None, description="Answers that only this arm has right; McNemar's counts, items times seeds.")
    only_theirs: int | None = None
    mcnemar: Number = Field(None, description="p of McNemar's test, by items only.")
    needed_items: int | None = Field(None, description="Items that would have told a difference of this size from zero with 80% power.")
    needed_seeds: int | None = None
    detectable: Number = Field(None, description="The smallest difference that this experiment could tell with 80% power.")
    verdict: str = ""


class Disagreement(Config):
    """Where the task's metric and the likelihood of the target rows say different things of an arm."""

    target: str | None = None
    budget: str
    arm: str
    task: str
    sentence: str


class Overlap(Config):
    """How much the selections of one target and budget share, averaged over seeds; square tables in the order of `arms`."""

    target: str | None = None
    budget: str
    arms: list[str]
    jaccard: list[list[float]]
    by_chance: list[list[float]] = Field(description="The Jaccard index that random rows of these sizes would have.")


class Stability(Config):
    """What an arm takes with every seed, and what only with some."""

    target: str | None = None
    budget: str
    arm: str
    seeds: int
    always: int = Field(description="Rows taken with every seed: the stable core.")
    sometimes: int = Field(description="Rows taken with some seeds and not with others: coin flips.")
    jaccard: Number = Field(None, description="Mean over pairs of seeds.")
    by_chance: Number = None


class Spread(Config):
    """A histogram of one number of the rows: the pool's, and of what every arm took, as shares."""

    target: str | None = None
    budget: str
    what: str = Field(description="length in tokens, or a feature of one number, such as a loss.")
    edges: list[float]
    pool: list[float]
    arms: dict[str, list[float]]
    medians: dict[str, Number] = Field(default_factory=dict, description="By arm, and `pool`.")


class Trade(Config):
    """Quality against coverage: how close an arm's rows come to the target, and how well they stand for the pool."""

    target: str | None = None
    budget: str
    arm: str
    feature: str
    to_target: Number = Field(None, description="Mean over target rows of the cosine to the nearest row taken.")
    to_pool: Number = Field(None, description="Mean over a sample of the pool of the cosine to the nearest row taken.")
    quality: Number = Field(None, description="Mean of the first feature of one number, where there is one.")


class Map(Config):
    """The rows in a plane: the two directions of a feature that vary most over pool and target together."""

    target: str | None = None
    budget: str
    feature: str
    explained: float = Field(description="Share of the variance that the plane shows.")
    pool: list[tuple[float, float]]
    targets: list[tuple[float, float]]
    arms: dict[str, list[tuple[float, float]]]
    groups: dict[str, list[str]] = Field(default_factory=dict, description="Group of every point, by `pool` and `targets`.")


class Curve(Config):
    """A number over a method's own steps, such as the reward of a learned mask, or over those of training."""

    target: str | None = None
    budget: str
    arm: str
    seed: int | None = None
    name: str
    values: list[float]


class Flow(Config):
    """Which rows stand for which target rows: mass from the groups of what was taken to the groups of the target."""

    target: str | None = None
    budget: str
    arm: str
    taken: list[str]
    wanted: list[str]
    mass: list[list[float]] = Field(description="(taken, wanted); sums to one.")


class Shown(Config):
    """A row for reading: why it was taken, or what was taken in its place."""

    target: str | None = None
    budget: str
    arm: str
    id: str
    taken: bool
    rank: int | None = None
    group: str = ""
    tokens: int = 0
    text: str
    reason: str
    nearest: list[str] = Field(default_factory=list, description="The nearest target rows, in words.")


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
    hygiene: CleanedPool | None = Field(None, description="What leaks and what repeats in the pool, and what was left out.")
    features: list[FeatureRow] = Field(default_factory=list)
    churn: list[Churn] = Field(default_factory=list, description="What the last step of growth changed in every selection.")
    selections: list[SelectionRow] = Field(default_factory=list)
    cells: list[Cell] = Field(default_factory=list)
    comparisons: list[Comparison] = Field(default_factory=list)
    controlled: list[Comparison] = Field(default_factory=list, description="Arms against the controls that copy their lengths or sources.")
    disagreements: list[Disagreement] = Field(default_factory=list)
    overlaps: list[Overlap] = Field(default_factory=list)
    stabilities: list[Stability] = Field(default_factory=list)
    spreads: list[Spread] = Field(default_factory=list)
    trades: list[Trade] = Field(default_factory=list)
    maps: list[Map] = Field(default_factory=list)
    curves: list[Curve] = Field(default_factory=list)
    flows: list[Flow] = Field(default_factory=list)
    shown: list[Shown] = Field(default_factory=list)
    stages: list[Stage] = Field(default_factory=list)
    planned: list[Planned] = Field(default_factory=list, description="What `curate plan` foretold of this run, if it was asked.")
    paying: list[str] = Field(default_factory=list, description="When each selection has paid for itself in shorter training, as planned.")
    warnings: list[str] = Field(default_factory=list)
    quarantined: list[QuarantinedRow] = Field(default_factory=list, description="Every row that was set aside, by id.")
