"""The whole experiment, read top to bottom: prepare, score, select, train, evaluate, compare."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from curate.arm import Arm
from curate.core import Artifact
from curate.data.examples import opened
from curate.data.source import Source
from curate.errors import about
from curate.features import open_features
from curate.model import ModelHandle, check_architecture, resolve, trained_shapes
from curate.pipelines.cells import Chosen, Outcome, run_cells
from curate.pipelines.controls import controls_of
from curate.pipelines.evaluate import AnyExamination, examine
from curate.pipelines.features import Scored, inputs_of, score_features
from curate.pipelines.grow import Grown, grow
from curate.pipelines.hygiene import Cleaned, clean, look_again
from curate.pipelines.likelihood_of_target import likelihood_of
from curate.pipelines.prepare import prepare
from curate.pipelines.select import Given, check_budget, select
from curate.pipelines.session import Session
from curate.pipelines.warm import checkpoints_of, warm_handle, warm_up
from curate.recipe import Recipe


@dataclass(frozen=True)
class Aim:
    """What arms select for: one target by name, or all of them as one without a name; and the pool's features, which may depend on it."""

    name: str
    target: Artifact
    features: dict[str, Scored] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """Everything a report needs to know of a run; later stages are empty when it stopped early."""

    pool: Artifact
    aims: list[Aim]
    chosen: list[Chosen]
    examinations: list[AnyExamination]
    outcomes: list[Outcome]
    cleaned: Cleaned
    earlier: list[Chosen] = field(default_factory=list)  # what the same arms take of the pool before its last step of growth


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
    targets = {name: prepare(session, f"target {name}".strip(), _grouped(of), base, recipe.hygiene) for name, of in recipe.aims().items()}
    usable, _ = open_features(opened(pool.path))
    for budget in recipe.budgets:
        check_budget(budget, usable, "pool")
    examinations: list[AnyExamination] = [examine(session, entry, base, recipe.hygiene, targets) for entry in recipe.evaluate]
    examinations += [likelihood_of(name, target) for name, target in targets.items()]
    aims = [Aim(name, target) for name, target in targets.items()]
    cleaned = clean(session, recipe, pool, targets, examinations)
    start = cleaned.pool
    stages, cleaned = _grown(session, recipe, base, cleaned, targets, examinations)
    pool = cleaned.pool
    if until == "prepare":
        return Experiment(pool, aims, [], examinations, [], cleaned)

    warmup = warm_up(session, warm, start, recipe.warmup) if needs_warmup else None
    checkpoints = (warmup, checkpoints_of(warmup)) if warmup else None
    given = {aim.name: inputs_of(session, base, warm, start, aim.target, checkpoints) for aim in aims}
    before = [replace(aim, features=score_features(session, recipe, given[aim.name], stages[:-1])) for aim in aims] if stages else []
    aims = [replace(aim, features=score_features(session, recipe, given[aim.name], stages)) for aim in aims]
    if until == "score":
        return Experiment(pool, aims, [], examinations, [], cleaned)

    earlier = _selections(session, recipe, stages[-1].before, before) if stages else []
    chosen = _selections(session, recipe, pool, aims, earlier)
    look_again(session, recipe.hygiene, cleaned, chosen)
    if until == "select":
        return Experiment(pool, aims, chosen, examinations, [], cleaned, earlier)

    if until == "train":
        examinations = []
    outcomes = run_cells(recipe, session, handle, pool, chosen, examinations)
    return Experiment(pool, aims, chosen, examinations, outcomes, cleaned, earlier)


def _grown(
    session: Session, recipe: Recipe, base: ModelHandle, cleaned: Cleaned, targets: Mapping[str, Artifact], examinations: Sequence[AnyExamination]
) -> tuple[list[Grown], Cleaned]:
    """The pool after every step of its growth, each cleaned like the first."""
    stages: list[Grown] = []
    for number, step in enumerate(recipe.growth, 1):
        added = partial(prepare, session, sources=step.add, handle=base, hygiene=recipe.hygiene)
        made = grow(session, number, step, cleaned.pool, added)
        cleaned = clean(session, recipe, made.pool, targets, examinations)
        stages.append(replace(made, pool=cleaned.pool))
    return stages, cleaned


def _grouped(targets: Mapping[str, Sequence[Source]]) -> list[Source]:
    """These targets as one set whose rows are grouped by the target's name, unless they bring groups of their own."""
    return [source if source.group else source.model_copy(update={"group": f"label:{name}"}) for name, sources in targets.items() for source in sources]


def _selections(session: Session, recipe: Recipe, pool: Artifact, aims: Sequence[Aim], earlier: Sequence[Chosen] = ()) -> list[Chosen]:
    """What random takes, which heeds no target; what every arm takes for every target; and the controls of the arms.

    `earlier` holds what they took of the pool before it grew.
    """
    before = {(one.arm, one.target, str(one.budget), one.seed): one.artifact for one in earlier}
    grid = [(budget, seed) for budget in recipe.budgets for seed in recipe.seeds]
    random = Arm.model_validate({"selector": "random"})
    chosen = []
    if "random" in recipe.baselines:  # it has no gains: at a budget of elbow it spends the whole budget
        given = Given(pool, aims[0].target)
        chosen = [
            Chosen("random", budget, seed, select(session, "random", random, budget.model_copy(update={"elbow": False}), seed, given)) for budget, seed in grid
        ]
    for aim in aims:
        for name, arm in recipe.arms.items():
            shared = not heeds_target(recipe, arm)
            if shared and aim is not aims[0]:
                continue
            target = "" if shared else aim.name
            label = f"{name} for {target}" if target else name
            given = _given(arm, pool, aim)
            for budget, seed in grid:
                mine = replace(given, previous=before.get((name, target, str(budget), seed)))
                chosen.append(Chosen(name, budget, seed, select(session, label, arm, budget, seed, mine), target))
    return chosen + [copied for one in chosen for copied in controls_of(session, recipe, pool, one)]


def heeds_target(recipe: Recipe, arm: Arm) -> bool:
    """Whether another target may give the arm other rows: by its selectors, or by the features that they read."""
    read = [recipe.features[name] for name in (arm.vectors, arm.scores, arm.similarity) if name]
    return any(selector.heeds_target for selector in arm.selectors) or any(scorer.targeted for scorer in read)


def _given(arm: Arm, pool: Artifact, aim: Aim) -> Given:
    """The numbers that the arm reads, of what was computed for this target."""
    compared = aim.features[arm.vectors or arm.similarity or ""] if arm.vectors or arm.similarity else None
    similarity = compared.similarity if compared and "vectors" not in arm.reads else None
    return Given(
        pool,
        aim.target,
        vectors=compared.vectors if compared and not similarity else None,
        scores=aim.features[arm.scores].scores if arm.scores else None,
        similarity=similarity,
        metric=getattr(compared.scorer, "metric", "cosine") if compared else "cosine",
    )
