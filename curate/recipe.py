"""The recipe: what to compute, typed and hashed. Beside it the runtime: where and how fast, never hashed."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, Field, SerializeAsAny, ValidationError, field_validator, model_validator

from curate.arm import Arm, OneBudget, named
from curate.clusters.settings import AnyProfile
from curate.core import Budget, Config
from curate.data.source import Source
from curate.errors import ConfigError
from curate.evaluations import Evaluate, Sources, TaskFileName, label_of, listed
from curate.gradient_scorer import GradientScorer
from curate.growth import Step
from curate.hygiene.near import THRESHOLD
from curate.hygiene.settings import Leaks, Semantic
from curate.interfaces import Output, Press, Scorer, Selector, Task
from curate.settings import ModelSpec, Share, Train, Warmup
from curate.strict_yaml import Document, Misplaced, explain, load, nearest, override
from curate.training.reporters import ReporterName

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SLOTS: tuple[Output, ...] = ("vectors", "scores", "similarity")
_RESERVED = ("zero_shot", "random", "full")
Control = Literal["length_matched_random", "source_matched_random"]


def _named_targets(value: Any) -> Any:
    if isinstance(value, list | str) or (isinstance(value, dict) and {"path", "hub", "synthetic"} & value.keys()):
        raise ValueError("every target has a name; write target: {NAME: {path: ...}}")
    return value


def _controls(value: Any) -> Any:
    """A list of controls stands for all arms."""
    return value if isinstance(value, dict) else dict.fromkeys(listed(value), "all")


def _model(value: Any) -> Any:
    if isinstance(value, str):
        raise ValueError(f"a model is a mapping; write model: {{path: {value}}}")
    return value


AnyScorer = Annotated[SerializeAsAny[Scorer], BeforeValidator(named("scorers"))]


class Hygiene(Config):
    """When data is too bad to go on, and which rows are left out before anything is computed on them."""

    quarantine_limit: Share = Field(0.01, description="Largest share of rows that may be set aside before the run stops.")
    on_bad_row: Literal["error", "quarantine"] = Field("error", description="A line that cannot be read stops the run, or is set aside.")
    deduplicate: Literal["none", "exact", "near", "semantic"] = Field(
        "none", description="Leave out rows that say the same as one before: in the same words, in almost the same ones, or by their vectors."
    )
    near_at: float = Field(THRESHOLD, ge=0.7, le=1, description="Jaccard similarity of 5-word shingles from which rows are near-duplicates.")
    semantic: Semantic | None = Field(None, description="Encoder and cosine of deduplicate: semantic.")
    decontaminate: bool = Field(False, description="Leave out rows that leak a target or an evaluation; leaks are reported in any case.")
    drop: Literal["dirty", "suspicious"] = Field("dirty", description="Which leaks are left out.")
    leaks: Leaks = Leaks()
    target_overlap: Share = Field(0.1, description="Largest share of a target's rows that may be items of an evaluation; 100% where that is meant.")

    @property
    def leaving_nothing_out(self) -> "Hygiene":
        """The same for rows that only stand for others."""
        words_only = self.leaks.model_copy(update={"near": None})
        return self.model_copy(update={"deduplicate": "none", "decontaminate": False, "target_overlap": 1.0, "leaks": words_only})


class Recipe(Config):
    """One experiment: arms that select from the same pool for the same target, trained and evaluated alike."""

    name: str
    pool: Sources
    growth: list[Step] = Field(default_factory=list, description="Rows that came and went since; only they are prepared and scored. `curate update` writes it.")
    target: Annotated[dict[str, Sources], BeforeValidator(_named_targets), Field(min_length=1)]
    model: Annotated[ModelSpec, BeforeValidator(_model)]
    hygiene: Hygiene = Hygiene()
    warmup: Warmup = Warmup()
    features: dict[str, AnyScorer] = Field(default_factory=dict)
    arms: dict[str, Arm] = Field(default_factory=dict)
    budgets: Annotated[list[OneBudget], BeforeValidator(listed), Field(min_length=1)]
    seeds: list[int] = Field([0, 1, 2], min_length=1)
    per_target: bool = Field(False, description="Select, train and compare for every target on its own; default: for all targets together, as groups of one.")
    baselines: list[Literal["zero_shot", "random", "full"]] = Field(["zero_shot", "random", "full"])
    controls: Annotated[dict[Control, Literal["all"] | list[str]], BeforeValidator(_controls)] = Field(
        default_factory=dict, description="Random rows with the lengths or the sources of what an arm took; for the arms named, or as a list for all of them."
    )
    train: Train = Train()
    evaluate: Annotated[list[Evaluate], BeforeValidator(listed), Field(min_length=1)]

    @field_validator("name")
    @classmethod
    def _name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no run name: use letters, digits, '.', '_' and '-', at most 64, beginning with a letter or digit")
        return name

    @field_validator("seeds")
    @classmethod
    def _seeds(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) != len(seeds) or min(seeds) < 0:
            raise ValueError("seeds must be distinct and not negative, such as [0, 1, 2]")
        return seeds

    @field_validator("budgets")
    @classmethod
    def _budgets(cls, budgets: list[Budget]) -> list[Budget]:
        for budget in budgets:
            if budget.amount <= 0:
                raise ValueError(f"a budget of {budget} keeps nothing; give at least one row or token")
            if budget.unit == "fraction" and budget.amount > 1:
                raise ValueError(f"a budget of {budget} is more than the whole pool; the largest fraction is 1")
        if len({str(budget) for budget in budgets}) != len(budgets):
            raise ValueError("a budget is given twice; keep one")
        return budgets

    @field_validator("features", "arms", "target")
    @classmethod
    def _names(cls, named: dict[str, Any]) -> dict[str, Any]:
        for name in named:
            if not _NAME.fullmatch(name) or name in _RESERVED:
                raise ValueError(f"{name!r} is no usable name: letters, digits, '.', '_' and '-', and none of {', '.join(_RESERVED)}")
        return named

    @model_validator(mode="after")
    def _fitting(self) -> "Recipe":
        for name, arm in self.arms.items():
            self._check_arm(name, arm)
        if not self.arms and not self.baselines:
            raise ValueError("there are neither arms nor baselines, so there is nothing to run; add an arm")
        labels = [label_of(evaluation) for evaluation in self.evaluate]
        for number, label in enumerate(labels):
            if label in labels[:number]:
                raise Misplaced(("evaluate", number), f"another entry is called {label} too; give this one a label: of its own")
        self._check_targets()
        for control in self.controls:
            for copied in self.controlled(control):
                if copied not in self.arms:
                    raise Misplaced(("controls", control), f"there is no arm {copied!r}; {nearest(copied, list(self.arms), 'arms')}")
        return self

    def _check_targets(self) -> None:
        for number, evaluation in enumerate(self.evaluate):
            place, wanted = ("evaluate", number, "target"), evaluation.target
            if wanted is not None and wanted not in self.target:
                raise Misplaced(place, f"there is no target {wanted!r}; {nearest(wanted, list(self.target), 'targets')}")
            if wanted is not None and not self.per_target:
                raise Misplaced(place, "arms select for all targets together, so every model is asked; add per_target: true, or remove target")
            several = self.per_target and len(self.target) > 1
            if several and wanted is None and evaluation.shots and isinstance(evaluation.task, Task):
                raise Misplaced(("evaluate", number, "shots"), f"shots are rows of a target, and there are several; add target: {next(iter(self.target))}")

    def aims(self) -> dict[str, dict[str, list[Source]]]:
        """The targets that arms select for: each one by its name, or all of them as one without a name."""
        return {name: {name: sources} for name, sources in self.target.items()} if self.per_target else {"": self.target}

    def controlled(self, control: Control) -> list[str]:
        """The arms that this control copies."""
        wanted = self.controls.get(control, [])
        return list(self.arms) if wanted == "all" else list(wanted)

    def _check_arm(self, name: str, arm: Arm) -> None:
        for slot in SLOTS:
            wanted: str | None = getattr(arm, slot)
            if wanted is None:
                continue
            if wanted not in self.features:
                raise Misplaced(("arms", name, slot), f"there is no feature {wanted!r}; {nearest(wanted, list(self.features), 'features')}")
            scorer = self.features[wanted]
            if scorer.output != slot:
                raise Misplaced(("arms", name, slot), f"scorer {scorer.name} of {wanted!r} yields {scorer.output}, not {slot}; write {scorer.output}: {wanted}")
        source = self.features[arm.vectors] if arm.vectors else None
        if isinstance(source, GradientScorer) and not source.sketchable and "similarity" not in arm.reads:
            message = f"{source.name} of {arm.vectors!r} only compares with the target with curvature: woodbury, and {arm.selector.name} needs vectors"
            raise Misplaced(("arms", name), f"{message}; use curvature: ekfac, or a selector that compares, such as round_robin")
        if arm.vectors and arm.similarity:
            raise Misplaced(("arms", name), "an arm compares with the target by vectors or by a similarity, not by both; remove one")
        given: set[str] = {slot for slot in SLOTS if getattr(arm, slot)} | ({"similarity"} if arm.vectors else set())
        for selector in arm.selectors:
            missing = sorted(selector.needs - given)
            if missing:
                lacking = "vectors" if missing[0] == "similarity" else missing[0]
                raise Misplaced(("arms", name), f"selector {selector.name} needs {lacking}, and the arm gives none; {self._offer(lacking)}")
            if selector.needs_one_of and not selector.needs_one_of & given:
                choice = f"{self._offer('scores')}, or {self._offer('vectors')}"
                raise Misplaced(("arms", name), f"selector {selector.name} needs scores or vectors, and the arm gives neither; {choice}")
        if any(budget.elbow for budget in self.budgets) and not arm.ends_at_elbow:
            message = f"a budget of elbow needs gains that fall from row to row, and {arm.selector.name} has none"
            raise Misplaced(("arms", name), f"{message} (nor has any selector with forced rows or quotas); give rows or tokens, or drop this arm")

    def _offer(self, slot: str) -> str:
        fitting = [feature for feature, scorer in self.features.items() if scorer.output == slot]
        return f"add {slot}: {fitting[0]}" if fitting else f"add a feature whose scorer yields {slot}"

    def used_features(self) -> dict[str, Scorer]:
        """The features that some arm reads; others are not computed."""
        wanted = self.wanted_outputs()
        return {name: scorer for name, scorer in self.features.items() if name in wanted}

    def wanted_outputs(self) -> dict[str, frozenset[str]]:
        """For each feature that some arm reads, what the arms read of it: vectors, scores, or only the similarity to the target."""
        wanted: dict[str, frozenset[str]] = {}
        for arm in self.arms.values():
            compares = "similarity" in arm.reads and "vectors" not in arm.reads
            for slot in SLOTS:
                feature: str | None = getattr(arm, slot)
                if feature:
                    wanted[feature] = wanted.get(feature, frozenset()) | {"similarity" if slot == "vectors" and compares else slot}
        return wanted


class Runtime(Config):
    """How to compute: places and devices. Changing it never changes a number."""

    store: Path = Path("store")
    runs: Path = Path("runs")
    workers: int = Field(0, ge=0, description="Worker processes; 1 runs everything in this one, 0 is one per core.")
    device: str = "cpu"
    processes: int = Field(1, ge=1, description="Processes that train one model together, one per GPU; sums over them round otherwise.")
    profile: AnyProfile | None = Field(None, description="Where workers come from; default: this machine.")
    insecure_cluster: bool = Field(False, description="Whether a scheduler without TLS may be used.")
    report_to: tuple[ReporterName, ...] = Field((), description="Who hears of every training step: tensorboard, wandb.")


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a file, with `dotted.key=value` overrides; ConfigError with line numbers otherwise."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the recipe {path}: {error.strerror}; `curate init` writes one to start from") from error
    document = load(text, path.name)
    for assignment in overrides:
        document = override(document, assignment)
    return parse_recipe(document)


def parse_recipe(document: Document) -> Recipe:
    """The typed recipe of a document."""
    try:
        return Recipe.model_validate(document.value)
    except ValidationError as error:
        raise explain(document, error, lambda path: _fields_at(document, path)) from error


def _fields_at(document: Document, path: tuple[str | int, ...]) -> list[str]:
    """The fields allowed at a place of the recipe, for the nearest name in an error."""
    known: type[BaseModel] | None = Recipe
    value: Any = document.value
    for step in path:
        value = _at(value, step)
        if known is not None and isinstance(step, str) and step in known.model_fields:
            known, kind = _model_in(known.model_fields[step].annotation), step
            if known in (Press, Scorer, Selector, Task):
                known = _component_class(kind, value)
        elif known is not None and isinstance(step, str) and known in (Scorer, Selector, Task):
            known = _component_class("features", value)
    if known in (Scorer, Selector, Task):
        known = _component_class("features", value)
    return list(known.model_fields) if known is not None else []


def _at(value: Any, step: str | int) -> Any:
    if isinstance(value, dict):
        return value.get(step)
    return value[step] if isinstance(value, list) and isinstance(step, int) and step < len(value) else None


def _component_class(field: str, value: Any) -> type[BaseModel] | None:
    from curate.registry import load as load_class

    kinds: dict[str, Literal["presses", "scorers", "selectors", "tasks"]] = {"press": "presses", "selector": "selectors", "task": "tasks"}
    name = value.get("name") if isinstance(value, dict) else value
    if field == "task" and isinstance(value, dict) and "file" in value:
        return TaskFileName
    if not isinstance(name, str):
        abstract: dict[str, type[BaseModel]] = {"press": Press, "selector": Selector, "task": Task}
        return abstract.get(field, Scorer)
    try:
        return load_class(kinds.get(field, "scorers"), name)
    except ConfigError:
        return None


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation) if get_origin(annotation) is not None else ():
        found = _model_in(argument)
        if found:
            return found
    return None
