"""Advise: how much of the pool to keep for a compute, and how often to repeat it, by a scaling law fitted to a few small runs.

The pool is cut into buckets by one score. Every run is an artifact, so that an interrupted command goes on, and another
compute finds the runs that are the same.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from curate import __version__
from curate.arm import Arm
from curate.core import Budget, Examples, Floats, Integers
from curate.data.examples import opened
from curate.errors import ConfigError, DataError
from curate.features import open_features
from curate.model import resolve
from curate.pipelines.advise_runs import FEWEST_STEPS, Left, Planned, SmallTask, cut, plan, rows_of, run_small
from curate.pipelines.experiment import run
from curate.pipelines.launch import session_of
from curate.pipelines.session import Session
from curate.recipe import Recipe, Runtime
from curate.report.advice import Advice, Bucket, Crossing, Forecast, SmallRun, Value, notes_of, tokens, verdict_of
from curate.scaling_fit import LONGEST, Fitted, Run, fit
from curate.scaling_law import Law, position
from curate.store import atomic_write
from curate.strict_yaml import nearest

Best = Literal["high", "low"]


def advise(
    recipe: Recipe,
    runtime: Runtime,
    folder: Path,
    feature: str,
    *,
    compute: str,
    buckets: int = 4,
    best: Best = "high",
    spend: float = 1.0,
    seed: int = 0,
    quiet: bool = False,
) -> Advice:
    """Measure, fit and write RUNS/<name>/advice-<feature>.json; what was computed before is found, not computed again."""
    _check_feature(recipe, feature)
    amount = _tokens(compute)
    if not 2 <= buckets <= 20:
        raise ConfigError(f"--buckets {buckets} gives no choice of how much to keep; give 2 to 20, better 4")
    if spend <= 0:
        raise ConfigError(f"--spend {spend:g} leaves nothing for the small runs; give a multiple of --compute above 0, such as 1")
    directory = runtime.runs / recipe.name
    with session_of(recipe, runtime, folder, quiet=quiet) as session:
        measured = measure(recipe, session, feature, amount, buckets, best, spend, seed)
        found = assemble(recipe, measured, feature, amount, best, seed)
        atomic_write(directory / f"advice-{feature}.json", found.model_dump_json(indent=1).encode())
    return found


def _check_feature(recipe: Recipe, feature: str) -> None:
    scored = [name for name, scorer in recipe.features.items() if scorer.output == "scores"]
    if feature not in recipe.features:
        raise ConfigError(f"--feature: there is no feature {feature!r}; {nearest(feature, scored or list(recipe.features), 'features')}")
    scorer = recipe.features[feature]
    if scorer.output != "scores":
        offer = f"name one that yields scores: {', '.join(scored)}" if scored else "add a feature whose scorer yields scores"
        raise ConfigError(f"--feature: scorer {scorer.name} of {feature!r} yields {scorer.output}, which have no best end; {offer}")


def _tokens(text: str) -> float:
    with contextlib.suppress(ConfigError):
        budget = Budget.parse(text)
        if budget.unit == "tokens" and budget.amount > 0 and not budget.elbow:
            return budget.amount
    raise ConfigError(f"--compute {text!r} is no number of training tokens; write it like '20M tokens' or '300k tokens'")


@dataclass(frozen=True)
class Measured:
    """The pool in buckets, and what small runs on them left."""

    pool: Examples
    targets: int
    scores: Floats  # (N,) of the pool's rows
    buckets: Sequence[Integers]
    planned: Sequence[Planned]
    tokens: Sequence[int]  # in the rows of each run
    base: Left
    ends: Sequence[Left]

    @property
    def bucket(self) -> float:
        """Tokens of a bucket, on average."""
        return float(np.mean([self.pool.lengths[rows].sum() for rows in self.buckets]))

    @property
    def runs(self) -> list[Run]:
        """What the law is fitted to."""
        return [Run(one.kept, size, end.seen, end.loss) for one, size, end in zip(self.planned, self.tokens, self.ends, strict=True)]


def measure(recipe: Recipe, session: Session, feature: str, compute: float, count: int, best: Best, spend: float, seed: int) -> Measured:
    """Score the pool with the one feature, cut it, and train the small runs."""
    arms = {feature: Arm.model_validate({"scores": feature, "selector": "top_k"})}
    alone = recipe.model_copy(update={"arms": arms, "evaluate": [], "budgets": [], "per_target": False, "controls": {}})
    pool = opened(run(alone, session, until="prepare").pool.path)
    least = FEWEST_STEPS * recipe.train.batch_size * float(pool.lengths.mean())
    plan(count, float(pool.lengths.sum()) / count, compute, least, spend)  # a pool that is too small is refused before it is scored
    experiment = run(alone, session, until="score")
    aim = experiment.aims[0]
    features, rows = open_features(pool, scores=aim.features[feature].scores)
    buckets = cut(features, rows, count, best)
    if not all(len(bucket) for bucket in buckets):
        raise DataError(f"{len(rows)} rows do not fill {count} buckets of equal tokens; give fewer --buckets, or more rows")
    planned = plan(count, float(features.lengths.sum()) / count, compute, least, spend)
    chosen = [rows_of(one, buckets, pool, seed) for one in planned]
    _announce(session, planned, compute)
    settings = recipe.train.model_copy(update={"validation": 0.0, "validate_every": None, "pruning": None})  # every row of a pass is seen, and counted
    common = (resolve(recipe.model, session.folder), experiment.pool, aim.target, settings, session.store.root, session.device)
    tasks = [SmallTask(0, np.zeros(0, np.int64), 0, seed, *common)]
    tasks += [
        SmallTask(number, some, round(one.tokens), 1000 * seed + number, *common) for number, (one, some) in enumerate(zip(planned, chosen, strict=True), 1)
    ]
    base, *ends = session.cluster.map(run_small, tasks, label="small runs")
    scores = np.zeros(len(pool))
    scores[rows] = np.asarray(features.scores)
    sizes = [int(pool.lengths[some].sum()) for some in chosen]
    return Measured(pool, len(opened(aim.target.path)), scores, buckets, planned, sizes, base, ends)


def _announce(session: Session, planned: Sequence[Planned], compute: float) -> None:
    """Say what is about to be trained, before it is."""
    total = sum(one.tokens for one in planned)
    session.announce("advise", f"{len(planned)} small runs")
    session.store.notify(f"{len(planned)} small runs on {tokens(total)} tokens in all, {total / compute:.2g} times the compute:")
    for number, one in enumerate(planned, 1):
        names = " + ".join(str(bucket + 1) for bucket in one.kept)
        part = "" if one.share == 1 else f", of which {one.share:.0%} of the rows are used"
        session.store.notify(f"  run {number}: {tokens(one.tokens)} tokens of bucket {names}{part}")


def assemble(recipe: Recipe, found: Measured, feature: str, compute: float, best: Best, seed: int) -> Advice:
    """Fit the law and read the answer off it."""
    count = len(found.buckets)
    fitted = fit(found.runs, count, found.bucket, base=found.base.loss, seed=seed)
    law = fitted.law
    forecasts = [forecast for size in _computes(compute, found.bucket, fitted) for forecast in _forecasts(fitted, size)]
    now = [forecast for forecast in forecasts if forecast.compute == compute]
    answer = now[law.best(compute).buckets - 1]
    return Advice(
        recipe=recipe.name,
        version=__version__,
        feature=feature,
        scorer=recipe.features[feature].name,
        best=best,
        compute=compute,
        seed=seed,
        pool_rows=sum(map(len, found.buckets)),
        pool_tokens=round(count * found.bucket),
        target_rows=found.targets,
        spent=sum(end.seen for end in found.ends),
        base_loss=found.base.loss,
        a=law.a,
        start=law.start,
        d=Value.of(fitted.estimate(lambda one: one.d)),
        tau=Value.of(fitted.estimate(lambda one: one.tau), 0.99 * LONGEST) if fitted.fades else None,
        noise=fitted.noise,
        spare=fitted.spare,
        buckets=[_bucket(fitted, number, found) for number in range(count)],
        runs=_small_runs(found, law),
        forecasts=forecasts,
        crossings=[Crossing(fewer=few, more=few + 1, tokens=law.crossover(few, few + 1)) for few in range(1, count)],
        answer=answer,
        verdict=verdict_of(answer, now),
        notes=notes_of(fitted, found.runs, compute, best),
    )


def _computes(compute: float, bucket: float, fitted: Fitted) -> list[float]:
    """Around the compute; without a half-life, no further than one pass."""
    return [compute / 4, compute, *([4 * compute] if fitted.fades or 4 * compute <= bucket else [])]


def _forecasts(fitted: Fitted, compute: float) -> list[Forecast]:
    """For every number of buckets that may be kept."""
    bucket, count = fitted.law.bucket, len(fitted.law.b)
    shares = fitted.answers(compute)

    def loss(kept: int, law: Law) -> float:
        return float(law.loss(range(kept), bucket, compute)[0])

    return [
        Forecast(
            compute=compute,
            buckets=kept,
            kept=kept / count,
            passes=compute / (kept * bucket),
            loss=Value.of(fitted.estimate(partial(loss, kept))),
            best_in=float(shares[kept - 1]),
        )
        for kept in range(1, count + 1)
    ]


def _bucket(fitted: Fitted, number: int, found: Measured) -> Bucket:
    rows = found.buckets[number]
    scores = found.scores[rows]

    def takes(law: Law) -> float:
        return 1 - float(np.exp(-law.b[number] * position(law.bucket, law.start)))

    return Bucket(
        name=str(number + 1),
        rows=len(rows),
        tokens=int(found.pool.lengths[rows].sum()),
        lowest=float(scores.min()),
        highest=float(scores.max()),
        b=fitted.law.b[number],
        pass_takes=Value.of(fitted.estimate(takes)),
    )


def _small_runs(found: Measured, law: Law) -> list[SmallRun]:
    return [
        SmallRun(
            buckets=[number + 1 for number in run.kept],
            tokens=int(run.pool),
            seen=int(run.seen),
            loss=run.loss,
            law=float(law.loss(run.kept, run.pool / len(run.kept), run.seen)[0]),
            evidence=end.losses.key,
        )
        for run, end in zip(found.runs, found.ends, strict=True)
    ]
