"""The whole experiment, read top to bottom: prepare, score, select, train, evaluate, compare."""

from dataclasses import dataclass, replace

from curate.core import Artifact, Budget, Examples
from curate.data.examples import open_examples
from curate.data.source import Source
from curate.features import open_features
from curate.model import check_architecture, resolve
from curate.pipelines.cells import Chosen, Outcome, run_cells
from curate.pipelines.evaluate import Examination, examine
from curate.pipelines.prepare import prepare
from curate.pipelines.score import ATTENTION, score, warm_up
from curate.pipelines.select import check_budget, select
from curate.pipelines.session import Session
from curate.recipe import Arm, Recipe


@dataclass(frozen=True)
class Experiment:
    """Everything a report needs to know of a run; later stages are empty when it stopped early."""

    pool: Artifact
    target: Artifact
    features: dict[str, Artifact]
    chosen: list[Chosen]
    examinations: list[Examination]
    outcomes: list[Outcome]


def run(recipe: Recipe, session: Session, until: str = "") -> Experiment:
    """Compute what is missing of the experiment, up to a stage; every result is an artifact that the next run finds."""
    handle = resolve(recipe.model, session.folder)
    base, warm = replace(handle, lora=None), replace(handle, lora=recipe.warmup.lora or handle.lora or ATTENTION)

    needs_warmup = any(scorer.warmup for scorer in recipe.used_features().values())
    for variant in (handle, warm) if needs_warmup else (handle,):
        check_architecture(variant)
    pool = prepare(session, "pool", recipe.pool, base, recipe.hygiene)
    target = prepare(session, "target", _target_sources(recipe), base, recipe.hygiene)
    rows = open_examples(pool.path)
    usable, _ = open_features(rows)
    for budget in recipe.budgets:
        check_budget(budget, usable, "pool")
    examinations = [examine(session, entry, base, recipe.hygiene, target) for entry in recipe.evaluate]
    if until == "prepare":
        return Experiment(pool, target, {}, [], examinations, [])

    scored: dict[str, tuple[Artifact, Artifact | None]] = {}
    warmup = warm_up(session, warm, pool, recipe.warmup) if needs_warmup else None
    for name, scorer in recipe.used_features().items():
        given = (scorer, warm if scorer.warmup else base)
        checkpoints = warmup if scorer.warmup else None
        ours = score(session, name, *given, pool, None, checkpoints, recipe.hygiene.quarantine_limit)
        theirs = score(session, name, *given, pool, target, checkpoints, recipe.hygiene.quarantine_limit) if scorer.output == "vectors" else None
        scored[name] = (ours, theirs)
    features = {name: ours for name, (ours, _) in scored.items()}
    if until == "score":
        return Experiment(pool, target, features, [], examinations, [])

    chosen = [_select(session, recipe, name, arm, budget, seed, pool, rows, target, scored) for name, arm, budget, seed in _arms(recipe)]
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


def _select(
    session: Session,
    recipe: Recipe,
    name: str,
    arm: Arm,
    budget: Budget,
    seed: int,
    pool: Artifact,
    rows: Examples,
    target: Artifact,
    scored: dict[str, tuple[Artifact, Artifact | None]],
) -> Chosen:
    ours, theirs = scored[arm.vectors] if arm.vectors else (None, None)
    artifact = select(
        session,
        name,
        arm.selector,
        budget,
        seed,
        (pool, rows),
        (target, open_examples(target.path)),
        vectors=(ours, theirs) if ours and theirs else None,
        scores=scored[arm.scores][0] if arm.scores else None,
    )
    return Chosen(name, budget, seed, artifact)
