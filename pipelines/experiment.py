"""The whole experiment, read top to bottom: prepare, score, select, train, evaluate, compare."""

from dataclasses import dataclass, replace

from curate.arm import Arm
from curate.core import Artifact, Budget
from curate.data.examples import opened
from curate.data.source import Source
from curate.errors import about
from curate.features import open_features
from curate.model import check_architecture, resolve, trained_shapes
from curate.pipelines.cells import Chosen, Outcome, run_cells
from curate.pipelines.evaluate import AnyExamination, examine
from curate.pipelines.features import Scored, inputs_of, score_features
from curate.pipelines.prepare import prepare
from curate.pipelines.select import Given, check_budget, select
from curate.pipelines.session import Session
from curate.pipelines.warm import checkpoints_of, warm_handle, warm_up
from curate.recipe import Recipe


@dataclass(frozen=True)
class Experiment:
    """Everything a report needs to know of a run; later stages are empty when it stopped early."""

    pool: Artifact
    target: Artifact
    features: dict[str, Scored]
    chosen: list[Chosen]
    examinations: list[AnyExamination]
    outcomes: list[Outcome]


def run(recipe: Recipe, session: Session, until: str = "") -> Experiment:
    """Compute what is missing of the experiment, up to a stage; every result is an artifact that the next run finds."""
    handle = resolve(recipe.model, session.folder)
    base = replace(handle, lora=None)

    used = recipe.used_features()
    needs_warmup = any(scorer.warmup for scorer in used.values())
    warm = warm_handle(handle, recipe.warmup, session.folder) if needs_warmup else handle
    for variant in (handle, warm) if needs_warmup else (handle,):
        check_architecture(variant)
    for name, scorer in used.items():
        with about(f"features.{name}"):
            scorer.inputs(session.folder)
            if hasattr(scorer, "modules"):
                trained_shapes(warm if scorer.warmup else base, scorer.modules)
    pool = prepare(session, "pool", recipe.pool, base, recipe.hygiene)
    target = prepare(session, "target", _target_sources(recipe), base, recipe.hygiene)
    usable, _ = open_features(opened(pool.path))
    for budget in recipe.budgets:
        check_budget(budget, usable, "pool")
    examinations = [examine(session, entry, base, recipe.hygiene, target) for entry in recipe.evaluate]
    if until == "prepare":
        return Experiment(pool, target, {}, [], examinations, [])

    warmup = warm_up(session, warm, pool, recipe.warmup) if needs_warmup else None
    checkpoints = (warmup, checkpoints_of(warmup)) if warmup else None
    features = score_features(session, recipe, inputs_of(session, base, warm, pool, target, checkpoints))
    if until == "score":
        return Experiment(pool, target, features, [], examinations, [])

    chosen = [_select(session, recipe, one, pool, target, features) for one in _arms(recipe)]
    if until == "select":
        return Experiment(pool, target, features, chosen, examinations, [])

    if until == "train":
        examinations = []
    outcomes = run_cells(recipe, session, handle, pool, chosen, examinations)
    return Experiment(pool, target, features, chosen, examinations, outcomes)


def _target_sources(recipe: Recipe) -> list[Source]:
    """All targets as one set whose rows are grouped by the target's name, unless they bring groups of their own."""
    return [source if source.group else source.model_copy(update={"group": f"label:{name}"}) for name, sources in recipe.target.items() for source in sources]


def _arms(recipe: Recipe) -> list[tuple[str, Arm, Budget, int]]:
    baseline = {"random": Arm.model_validate({"selector": "random"})} if "random" in recipe.baselines else {}
    return [(name, arm, budget, seed) for name, arm in {**baseline, **recipe.arms}.items() for budget in recipe.budgets for seed in recipe.seeds]


def _select(session: Session, recipe: Recipe, chosen: tuple[str, Arm, Budget, int], pool: Artifact, target: Artifact, features: dict[str, Scored]) -> Chosen:
    name, arm, budget, seed = chosen
    compared = features[arm.vectors or arm.similarity or ""] if arm.vectors or arm.similarity else None
    similarity = compared.similarity if compared and "vectors" not in arm.reads else None
    given = Given(
        pool,
        target,
        vectors=compared.vectors if compared and not similarity else None,
        scores=features[arm.scores].scores if arm.scores else None,
        similarity=similarity,
        metric=getattr(compared.scorer, "metric", "cosine") if compared else "cosine",
    )
    spend = budget if name in recipe.arms else budget.model_copy(update={"elbow": False})  # random has no gains: it spends the whole budget
    return Chosen(name, budget, seed, select(session, name, arm, spend, seed, given))
