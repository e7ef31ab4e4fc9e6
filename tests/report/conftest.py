"""A run as the pipeline would leave it: seven arms, two tasks, three seeds, numbers made by the real statistics."""

import numpy as np
import pytest

from curate.report.results import Cell, CertificateRow, Comparison, DataSummary, FeatureRow, Results, SelectionRow, Stage, TaskScore
from curate.statistics import Interval, paired_difference, standard_error, verdict

ARMS = ("zero_shot", "random", "full", "less-rr", "tarot", "ccs", "bm25")
POOL = {
    "alpaca": 4000,
    "gsm8k": 800,
    "wikisql": 800,
    "codealpaca": 700,
    "banking77": 700,
    "clinc150": 700,
    "boolq": 600,
    "creak": 500,
    "t0": 400,
    "openbookqa": 300,
}
POOL |= {"toolformer": 120, "arc-easy": 80}
GAIN = {"zero_shot": -0.12, "random": 0.0, "full": 0.11, "less-rr": 0.33, "tarot": 0.28, "ccs": 0.01, "bm25": 0.24}
TASKS = (("banking10", "acc", True), ("gsm8k", "nll", False))


def simulate(arm, metric, seeds):
    """(seeds, 300) scores of an arm: a common difficulty of items, an effect of the arm, luck of training and of the answer."""
    difficulty = np.random.default_rng(1).normal(0, 1, 300)
    rng = np.random.default_rng(ARMS.index(arm) + 10)
    latent = difficulty + 3 * GAIN[arm] + rng.normal(0, 0.1, (seeds, 1)) + rng.normal(0, 0.4, (seeds, 300))
    return (latent > 1).astype(float) if metric == "acc" else 1.9 - 0.3 * latent


def share(arm, budget, rng):
    rows = {"5%": 485, "20%": 1940}[budget]
    lean = {
        "less-rr": {"banking77": 9, "clinc150": 2},
        "tarot": {"banking77": 6, "clinc150": 3},
        "bm25": {"banking77": 5, "creak": 2},
        "ccs": {"gsm8k": 2},
    }.get(arm, {})
    weight = np.array([n * lean.get(group, 0.15 if lean else 1) for group, n in POOL.items()], float)
    return {group: int(n) for group, n in zip(POOL, rng.multinomial(rows, weight / weight.sum()), strict=True) if n}


@pytest.fixture(scope="session")
def results():
    rng = np.random.default_rng(0)
    cells, comparisons, selections = [], [], []
    for budget in ("5%", "20%"):
        for arm in ARMS:
            seeds = [None] if arm == "zero_shot" else [0, 1, 2]
            target = None if arm in ("zero_shot", "random", "full") else "banking"
            tables = {metric: simulate(arm, metric, len(seeds)) for _, metric, _ in TASKS}
            spread = {metric: simulate("random", metric, 3) for _, metric, _ in TASKS}
            for task, metric, up in TASKS:
                interval = None if arm == "random" else paired_difference(tables[metric], spread[metric])
                ends = Interval(None, None, None) if interval is None else interval
                comparisons.append(
                    Comparison(
                        task=task,
                        metric=metric,
                        budget=budget,
                        arm=arm,
                        target=target,
                        mean=float(tables[metric].mean()),
                        standard_error=standard_error(tables[metric]),
                        seeds=len(seeds),
                        n=300,
                        difference=ends.difference,
                        low=ends.low,
                        high=ends.high,
                        verdict="" if interval is None else verdict(interval, up, metric),
                    )
                )
            for row, seed in enumerate(seeds):
                scores = [
                    TaskScore(task=t, metric=m, mean=float(tables[m][row].mean()), standard_error=standard_error(tables[m][row]), n=300, higher_is_better=up)
                    for t, m, up in TASKS
                ]
                where = "" if arm == "zero_shot" else budget
                trained = 0 if arm == "zero_shot" else {"random": 96_000, "full": 1_920_000}.get(arm, 41_000)
                cells.append(
                    Cell(
                        arm=arm,
                        budget=where,
                        seed=seed,
                        target=target,
                        tasks=scores,
                        train_tokens=trained,
                        steps=62,
                        seconds=21.5,
                        key=f"evaluation-{arm}-{seed}",
                    )
                )
                if arm == "zero_shot":
                    continue
                groups = POOL if arm == "full" else share(arm, budget, rng)
                objective = 412.5 + row
                certificate = (
                    CertificateRow(kind="transport", sense="min", objective=objective, bound=objective - 0.9, gap=0.9 / objective) if arm == "tarot" else None
                )
                certificate = CertificateRow(kind="facility location", sense="max", objective=88.25, bound=88.25, gap=0.0) if arm == "ccs" else certificate
                rows = sum(groups.values())
                length = {"less-rr": 31, "bm25": 54}.get(arm, 96)
                selections.append(
                    SelectionRow(
                        arm=arm,
                        target=target,
                        budget=budget,
                        seed=seed,
                        rows=rows,
                        tokens=rows * length,
                        supervised_tokens=rows * length // 3,
                        groups=groups,
                        certificate=certificate,
                        seconds=1.7,
                        key=f"selection-{arm}-{budget}-{seed}",
                    )
                )
    return Results(
        name="banking-from-mixed-pool",
        version="0.1.0",
        created="2026-11-22T09:30:00+00:00",
        seconds=4321.0,
        command="curate run configs/banking.yaml --store store",
        hardware={"cpu": "AMD EPYC 9654 (2 cores)", "memory": "16 GiB", "gpu": "none", "torch": "2.13.0", "python": "3.11.9"},
        recipe="name: banking-from-mixed-pool\npool:\n  - path: data/pools/*.parquet\ntarget:\n  banking: {path: data/targets/banking.parquet, limit: 100}\n",
        pool=DataSummary(
            rows_in=9800,
            used=9700,
            quarantined={"duplicate of another row": 61, "longer than 192 tokens": 30, "near a test row": 9},
            tokens=931_200,
            supervised_tokens=310_400,
            groups=POOL,
        ),
        targets={"banking": DataSummary(rows_in=100, used=100, tokens=2_900, supervised_tokens=700, groups={"banking77": 100})},
        features=[
            FeatureRow(name="gradient", scorer="less", output="vectors", width=8192, rows=9700, seconds=414.0),
            FeatureRow(name="margin", scorer="el2n", output="scores", rows=9700, seconds=92.0, cached=True),
        ],
        selections=selections,
        cells=cells,
        comparisons=comparisons,
        stages=[
            Stage(stage="prepare", label="pool", key="examples-5b1c0e", seconds=12.0, cached=True),
            Stage(stage="score", label="gradient", key="features-9a77d2", seconds=414.0),
            Stage(stage="select", label="less-rr 5% seed 0", key="selection-41f0aa", seconds=1.7),
            Stage(stage="train", label="less-rr 5% seed 0", key="checkpoint-c2d1e0", seconds=21.5),
            Stage(stage="evaluate", label="less-rr 5% seed 0", key="evaluation-77b2c1", seconds=8.1),
        ],
        warnings=["target banking: 2 of 100 rows have no near neighbour in the pool"],
    )
