"""The models of a plan: how many there are, what each is trained on and asked, and when its selection has paid for itself."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from curate.core import Artifact, Budget, Examples
from curate.data.examples import opened
from curate.estimate import Span, break_even_sentence
from curate.model import ModelHandle
from curate.pipelines.cells import label_of
from curate.pipelines.evaluate import AnyExamination, Examination
from curate.pipelines.examine_file import FileExamination, in_tokens
from curate.pipelines.experiment import heeds_target
from curate.pipelines.finetune import matched
from curate.pipelines.likelihood_of_target import MOST_ROWS
from curate.pipelines.plan_choosing import RANDOM, Choosing
from curate.pipelines.plan_found import found_keys
from curate.pipelines.plan_lines import Forecast, Model, Seen, feature_of, planned, scorer_of, selection_seconds
from curate.recipe import Recipe
from curate.report.planned import Planned


@dataclass(frozen=True)
class Cell:
    """One model of the run."""

    arm: str
    target: str
    budget: Budget | None
    seed: int | None

    @property
    def label(self) -> str:
        """As in the stages of a run."""
        return label_of(self.arm, self.target, str(self.budget) if self.budget else "", self.seed)


def cells_of(recipe: Recipe) -> list[Cell]:
    """All models: baselines, what each arm takes for each target that it heeds, and controls."""
    named = [(str(name), "") for name in ("full", RANDOM) if name in recipe.baselines]
    for name, arm in recipe.arms.items():
        copies = [f"{control}:{name}" for control in recipe.controls if name in recipe.controlled(control)]
        named += [(one, target) for target in (recipe.aims() if heeds_target(recipe, arm) else [""]) for one in (name, *copies)]
    zero_shot = [Cell("zero_shot", "", None, None)] if "zero_shot" in recipe.baselines else []
    return zero_shot + [Cell(name, target, budget, seed) for name, target in named for budget in recipe.budgets for seed in recipe.seeds]


def by_budget(cells: Sequence[Cell], arms: Collection[str]) -> dict[str, list[str]]:
    """The labels of the cells of these arms."""
    found: dict[str, list[str]] = {}
    for cell in cells:
        if cell.arm in arms:
            found.setdefault(str(cell.budget), []).append(cell.label)
    return found


def foreseen(pool: Artifact, rows: int) -> Examples:
    """The pool as it will be: `rows` rows of lengths like those of this part of it; nothing but lengths can be read of it."""
    known = opened(pool.path)
    if len(known) == rows:
        return known
    lengths, supervised = np.resize(known.lengths, rows), np.resize(known.supervised, rows)
    return Examples(np.zeros(rows, np.str_), lengths, supervised, np.zeros(rows, np.str_), known.rows)


def tokens_of(recipe: Recipe, cell: Cell, pool: Examples) -> float:
    """What the model is trained on, without pruning and early stopping, which nothing foretells."""
    if cell.budget is None:
        return 0.0
    tokens, steps = matched(recipe.train, cell.budget, pool)
    mean = float(pool.lengths.mean())
    if tokens is not None:
        return float(tokens)
    if steps is not None:
        return steps * recipe.train.batch_size * mean
    return recipe.train.epochs * (len(pool) if cell.arm == "full" else rows_of(cell.budget, pool)) * mean


def rows_of(budget: Budget, pool: Examples) -> float:
    """Rows of average length that the budget holds."""
    return share_of(budget, pool) * len(pool)


def share_of(budget: Budget, pool: Examples) -> float:
    """The part of the pool that the budget holds."""
    whole = {"tokens": float(pool.lengths.sum()), "supervised_tokens": float(pool.supervised.sum()), "rows": float(len(pool)), "fraction": 1.0}
    return min(1.0, budget.amount / whole[budget.unit])


def training_lines(recipe: Recipe, model: Model, pool: Examples, seen: Seen, workers: int) -> Iterator[Planned]:
    """A line for each budget."""
    for budget in recipe.budgets:
        cells = [cell for cell in cells_of(recipe) if cell.budget == budget]
        if not cells:
            continue
        found = found_keys(seen, "train", [cell.label for cell in cells])
        missing = [cell for cell in cells if not any(seen.get(("train", cell.label), {}).values())]
        at_once = max(1, min(workers, len(missing)))
        seconds = sum((model.train(tokens_of(recipe, cell, pool)) for cell in missing), Span())
        yield _line("train", f"{len(cells)} models at {budget}", cells, found, len(cells), seconds, at_once, model, len(missing) * model.bytes)


def evaluation_line(recipe: Recipe, model: Model, items: Mapping[str, float], asked: Sequence[AnyExamination], seen: Seen, workers: int) -> Planned:
    """All models on all that each is asked; `items` are the numbers of items by the label of the examination."""
    cells, count, seconds, disk, missing = cells_of(recipe), 0, Span(), 0.0, 0
    found: list[str] = []
    for cell in cells:
        mine = [one for one in asked if not cell.target or one.target in (None, cell.target)]
        keys = found_keys(seen, "evaluate", [cell.label])
        left = max(0, len(mine) - len(keys)) / max(1, len(mine))
        count, found, missing = count + len(mine), found + keys, missing + (left > 0)
        seconds += sum((model.ask(one.label, items[one.label]) for one in mine), Span()).times(left)
        disk += left * sum(model.bytes_asked(one.label, items[one.label]) for one in mine)
    at_once = max(1, min(workers, missing))
    return _line("evaluate", f"{len(cells)} models, {len(asked)} examinations", cells, found, count, seconds, at_once, model, disk)


def _line(
    stage: str, what: str, cells: Sequence[Cell], found: Sequence[str], count: int, seconds: Span, at_once: int, model: Model, disk: float
) -> Planned:
    once = Span(model.training.first, 0.0, model.training.first).times(at_once if stage == "train" and seconds.middle else 0)
    return planned(
        seconds + once,
        stage=stage,
        what=what,
        labels=[cell.label for cell in cells],
        count=max(count, len(found)),
        found=list(found),
        at_once=at_once,
        memory=at_once * model.memory(stage),
        device_memory=model.device_memory(stage),
        disk=round(disk),
    )


def items_of(examination: AnyExamination, handle: ModelHandle, target_rows: float) -> float:
    """How many items it asks."""
    if isinstance(examination, Examination):
        return len(examination.rows)
    if isinstance(examination, FileExamination):
        return len(in_tokens(examination.origin, handle).asked)
    return min(target_rows, MOST_ROWS)


def sentences(
    recipe: Recipe, found: Mapping[tuple[str, str], Forecast], tried: Mapping[str, Choosing], model: Model, pool: Examples
) -> Iterator[str]:
    """For each arm and budget, when selecting has paid for itself by shorter training, in seconds of one process; targets share what scoring costs."""
    full = model.train(recipe.train.epochs * float(pool.lengths.sum())).middle
    for name in recipe.arms:
        if tried[name].unknown:
            continue
        scoring = sum(forecast.seconds().middle for (stage, label), forecast in found.items() if _reads(recipe, name, stage, label, found))
        for budget in recipe.budgets:
            spent = scoring / len(recipe.aims()) + selection_seconds(tried[name], str(budget), len(pool)).middle
            subset = model.train(tokens_of(recipe, Cell(name, "", budget, 0), pool)).middle
            yield break_even_sentence(f"{name} at {budget}", spent, full, subset)


def _reads(recipe: Recipe, name: str, stage: str, label: str, found: Mapping[tuple[str, str], Forecast]) -> bool:
    """Whether the arm needs it: the warm-up, or its features, exact ones where it only compares and they are made."""
    arm = recipe.arms[name]
    mine = {feature for feature in (arm.vectors, arm.scores, arm.similarity) if feature}
    if stage == "warmup":
        return any(scorer_of(recipe, feature).warmup for feature in mine)
    feature = feature_of(label)
    twin = any(other.startswith(f"{feature} (exact)") for _, other in found)
    exact = twin and feature == arm.vectors and "similarity" in arm.reads and "vectors" not in arm.reads
    return feature in mine and ("(exact)" in label) == exact
