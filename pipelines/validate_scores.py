"""Validate scores: does a feature foretell what training on a part of the pool does to the target? Retrain, and see.

Models are trained on random subsets of one size; each is an artifact, so that the validation of another feature finds it
again. The answer is the linear datamodelling score of curate.datamodel, beside that of two predictions any feature must beat.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from curate import __version__
from curate.arm import Arm
from curate.core import Budget, Config, Examples, Floats, Integers
from curate.data.examples import opened
from curate.datamodel import Estimate, datamodelling_score, for_all_rows, subset, sums, verdict
from curate.errors import ConfigError, DataError
from curate.features import open_features
from curate.model import resolve
from curate.pipelines.experiment import Experiment, run
from curate.pipelines.launch import session_of
from curate.pipelines.retrain import LOSSES, Retraining, retrain
from curate.pipelines.session import Session
from curate.randomness import draw, row_keys
from curate.recipe import Recipe, Runtime
from curate.similarity import similarity
from curate.store import atomic_write, read_json
from curate.strict_yaml import nearest

if TYPE_CHECKING:
    from rich.console import Console

FEWEST_SUBSETS = 5


class Score(Config):
    """A linear datamodelling score with its 95% interval."""

    lds: float
    low: float
    high: float


class Validation(Config):
    """What the retrained models say of a feature. `evidence` names the artifacts of the losses, one per subset."""

    recipe: str
    version: str
    feature: str
    scorer: str
    prediction: str
    score: Score
    baselines: dict[str, Score]
    above_tokens: Score
    subsets: int
    subset_rows: int
    pool_rows: int
    target_rows: int
    seed: int
    verdict: str
    evidence: list[str]


class Claims(NamedTuple):
    """What a feature says of pool rows: (n, M) of their use to each target row, or (n,) to the target as a whole."""

    values: Floats
    rows: Integers  # (n,) positions in the pool
    columns: Integers  # (M,) positions in the target
    meaning: str


def validate_scores(
    recipe: Recipe, runtime: Runtime, folder: Path, feature: str, *, subsets: int = 20, fraction: str = "50%", seed: int = 0, quiet: bool = False
) -> Validation:
    """Measure one feature and write RUNS/<name>/validation-<feature>.json; what was computed before is found, not computed again."""
    if feature not in recipe.features:
        raise ConfigError(f"--feature: there is no feature {feature!r}; {nearest(feature, list(recipe.features), 'features')}")
    if subsets < FEWEST_SUBSETS:
        raise ConfigError(f"--subsets {subsets} is too few to rank; give {FEWEST_SUBSETS} or more, better 20")
    share = _share(fraction)
    directory = runtime.runs / recipe.name
    with session_of(recipe, runtime, folder, quiet=quiet) as session:
        found = measure(recipe, session, feature, subsets, share, seed)
        atomic_write(directory / f"validation-{feature}.json", found.model_dump_json(indent=1).encode())
    return found


def _share(text: str) -> Budget:
    with contextlib.suppress(ConfigError):
        share = Budget.parse(text)
        if share.unit == "fraction" and 0 < share.amount < 1:
            return share
    raise ConfigError(f"--fraction {text!r} is no share of the pool; write a percentage above 0% and below 100%, such as 50%")


def measure(recipe: Recipe, session: Session, feature: str, subsets: int, share: Budget, seed: int) -> Validation:
    """Score the pool with the one feature, retrain on every subset, and compare."""
    alone = recipe.model_copy(update={"arms": {feature: _arm(recipe, feature)}, "evaluate": [], "budgets": [], "per_target": False, "controls": {}})
    pool = opened(run(alone, session, until="prepare").pool.path)
    size = share.costs(open_features(pool)[0])[1]
    if size < 1:
        raise DataError(f"--fraction {share} of the {len(pool)} pool rows is not one row; raise it")
    experiment = run(alone, session, until="score")
    target = opened(experiment.aims[0].target.path)
    claims = claims_of(experiment, feature, pool, target)
    handle = resolve(recipe.model, session.folder)
    common = (size, seed, handle, experiment.pool, experiment.aims[0].target, recipe.train, session.store.root, session.device)
    session.announce("retrain", f"{subsets} models on {size} of {len(pool)} rows")
    losses = list(session.cluster.map(retrain, [Retraining(number, *common) for number in range(subsets)], label="retrain"))
    by_id = [read_json(artifact.path / LOSSES) for artifact in losses]
    outcomes = -np.array([[found[row] for row in target.ids[claims.columns]] for found in by_id])
    drawn = [subset(pool.ids, seed, number, size) for number in range(subsets)]
    score, baselines, above = compare(claims, pool, drawn, outcomes, seed)
    return Validation(
        recipe=recipe.name,
        version=__version__,
        feature=feature,
        scorer=recipe.features[feature].name,
        prediction=claims.meaning,
        score=_score(score),
        baselines={name: _score(estimate) for name, estimate in baselines.items()},
        above_tokens=_score(above),
        subsets=subsets,
        subset_rows=size,
        pool_rows=len(pool),
        target_rows=len(claims.columns),
        seed=seed,
        verdict=verdict(feature, score, above, subsets),
        evidence=[artifact.key for artifact in losses],
    )


def _arm(recipe: Recipe, feature: str) -> Arm:
    """An arm that reads of the feature what is to be validated: its scores, or no more than its similarity to the target."""
    output = recipe.features[feature].output
    return Arm.model_validate({output: feature, "selector": "top_k" if output == "scores" else "round_robin"})


def _score(found: Estimate) -> Score:
    return Score(lds=found.value, low=found.low, high=found.high)


def claims_of(experiment: Experiment, feature: str, pool: Examples, target: Examples) -> Claims:
    """The feature's numbers: scores, similarities without a sketch where there are such, else inner products of the vectors."""
    scored = experiment.aims[0].features[feature]
    if scored.scores:
        features, rows = open_features(pool, scores=scored.scores)
        return Claims(np.asarray(features.scores), rows, np.arange(len(target)), "scores")
    if scored.similarity:
        features, rows = open_features(pool, similarity=scored.similarity[0])
        exact = "exact inner products" if scored.scorer.output == "vectors" else "similarities"
        return Claims(np.asarray(features.similarity[:]), rows, scored.similarity[1], exact)
    if not scored.vectors:
        raise DataError(f"feature {feature} was not computed; run the same command again")
    features, rows = open_features(pool, scored.vectors[0])
    goal, columns = open_features(target, scored.vectors[1])
    return Claims(similarity(features, goal, metric="inner").T, rows, columns, "inner products of vectors")


def compare(
    claims: Claims, pool: Examples, subsets: Sequence[Integers], outcomes: NDArray[np.float64], seed: int
) -> tuple[Estimate, dict[str, Estimate], Estimate]:
    """The feature's score, those of the baselines, and how far it lies above that of the number of supervised tokens; all in the same draws."""
    shape = claims.values.shape[1:]  # (M,), or () for scores
    keys = row_keys(seed, "random score", pool.ids)
    luck = np.stack([sums(draw(keys, column), subsets) for column in range(shape[0])], 1) if shape else sums(draw(keys), subsets)
    tokens = sums(pool.supervised, subsets).reshape(-1, *(1 for _ in shape))
    predictions = (sums(for_all_rows(claims.values, claims.rows, len(pool)), subsets), np.broadcast_to(tokens, (len(subsets), *shape)), luck)
    found, by_tokens, by_luck = (datamodelling_score(prediction, outcomes, seed=seed) for prediction in predictions)
    baselines = {"supervised tokens": by_tokens.estimate(), "random scores": by_luck.estimate()}
    return found.estimate(), baselines, (found - by_tokens).estimate()


def print_validation(found: Validation, console: "Console") -> None:
    """The table and the verdict; names come from the recipe, which allows plain letters only."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, safe_box=True)
    for title in ("prediction", "LDS", "95% interval", "subsets", "target rows"):
        table.add_column(title, justify="left" if title == "prediction" else "right")
    ours = f"{found.feature} ({found.scorer}, {found.prediction})"
    above = {f"{found.feature} minus supervised tokens": found.above_tokens}
    for name, score in ({ours: found.score} | found.baselines | above).items():
        table.add_row(name, f"{score.lds:.2f}", f"[{score.low:.2f}, {score.high:.2f}]", str(found.subsets), str(found.target_rows))
    console.print(table, markup=False)
    console.print(f"{found.subset_rows} of {found.pool_rows} pool rows in each subset. {found.verdict}.", markup=False, highlight=False)
