"""A large run with every part of a report in it: eight arms, three budgets, three seeds, three targets with two tasks each, two models that failed."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

import curate.report.results as found
from curate.core import Config
from curate.report.results import (
    Cell,
    CertificateRow,
    Comparison,
    Curve,
    DataSummary,
    Disagreement,
    FeatureRow,
    Flow,
    Map,
    Overlap,
    QuarantinedRow,
    Results,
    SelectionRow,
    Shown,
    Spread,
    Stability,
    Stage,
    TaskScore,
    Trade,
)

ARMS = ("less-adam-round-robin", "less-mean", "rds-plus-rr", "minilm-round-robin", "tfidf", "optimal-transport-dual", "facility-location", "policy-mask")
CONTROLS = {f"length_matched_random ({arm})": arm for arm in ARMS[:2]} | {"source_matched_random (rds-plus-rr)": "rds-plus-rr"}
REFERENCES = ("zero_shot", "random", "full")
BUDGETS = ("1%", "5%", "20%")
SEEDS = (0, 1, 2)
TARGETS = {"clinc15": (0.06, 0.60), "banking10": (0.1, 0.55), "svamp-operator": (0.33, 0.08)}
GROUPS = {"alpaca": 4000, "gsm8k": 800, "wikisql": 800, "codealpaca": 700, "banking77": 700, "clinc150": 700}
GROUPS |= {"boolq": 600, "creak": 500, "t0": 400, "openbookqa": 300, "gpteacher-toolformer": 120, "arc-easy": 80}
GAIN = dict(zip((*ARMS, *REFERENCES, *CONTROLS), (0.95, 0.45, 0.9, 0.82, 0.74, 0.6, 0.1, -0.12, -0.5, 0.0, 0.5, 0.06, 0.02, 0.55), strict=True))
SOURCE = {"clinc15": "clinc150", "banking10": "banking77", "svamp-operator": "gsm8k"}
ROWS = {"1%": 97, "5%": 485, "20%": 1940}
TEXT = "What is the intent of this request?\nplease move two hundred dollars from my savings into my checking account before friday"
Key = tuple[str, str, str]
EVIL = "<script>alert(1)</script>\x1b[31m\u202e'\"&{}`url(http://evil.example)" + "W" * 60 + " "
KEPT = {"max", "min", "acc", "nll", *REFERENCES, *BUDGETS}  # words with a meaning of their own


def hostile(results: Results) -> Results:
    """The run with an attack in front of every text, names of arms and groups too."""
    fields = {name for kind in vars(found).values() if isinstance(kind, type) and issubclass(kind, Config) for name in kind.model_fields}

    def spoilt(value: Any) -> Any:
        if isinstance(value, str):
            return value if value in KEPT or not value else EVIL + value
        if isinstance(value, list):
            return [spoilt(one) for one in value]
        if isinstance(value, dict):
            return {name if name in fields - {"loss"} else spoilt(name): spoilt(one) for name, one in value.items()}
        return value

    return Results.model_validate_json(json.dumps(spoilt(json.loads(results.model_dump_json()))))


def wide_run() -> Results:
    rng = np.random.default_rng(5)
    scores = {(target, budget, arm): _score(rng, target, budget, arm) for target in TARGETS for budget in BUDGETS for arm in GAIN}
    return Results(
        name="which-rows-teach-intents",
        version="0.6.0",
        created="2026-11-25T22:10:00+00:00",
        seconds=11_730.0,
        command="curate run configs/intents.yaml --store store",
        hardware={"processor": "x86_64", "cores": "2", "memory": "24 GiB", "python": "3.11.2", "torch": "2.13.0"},
        recipe="name: which-rows-teach-intents\npool:\n- path: pools/*.parquet\n",
        pool=DataSummary(
            rows_in=9800,
            used=9700,
            quarantined={"longer than 192 tokens": 61, "near a test row": 39},
            tokens=931_200,
            supervised_tokens=310_400,
            groups=GROUPS,
        ),
        targets={target: DataSummary(rows_in=100, used=100, tokens=2_900, supervised_tokens=700, groups={SOURCE[target]: 100}) for target in TARGETS},
        features=[FeatureRow(name="gradient", scorer="less", output="vectors", width=8192, rows=9700, seconds=414.0, bytes=160_000_000)],
        selections=list(_selections(rng)),
        cells=list(_cells(scores)),
        comparisons=list(_comparisons(scores, None)),
        controlled=list(_comparisons(scores, CONTROLS)),
        disagreements=[_disagreement(budget) for budget in BUDGETS[1:]],
        warnings=["target clinc15: 2 of 100 rows have no near neighbour in the pool", "300 items of svamp-operator are few for 8 arms"],
        stages=list(_stages()),
        quarantined=[QuarantinedRow(part="pool", id=f"row-{number}", reason="longer than 192 tokens", origin="t0.parquet") for number in range(61)],
        **_pictures(rng),
    )


def _score(rng: np.random.Generator, target: str, budget: str, arm: str) -> float:
    low, room = TARGETS[target]
    reached = {"1%": 0.45, "5%": 0.75, "20%": 1.0}[budget] if arm not in ("zero_shot", "full") else 0.8
    return float(np.clip(low + room * (0.12 + 0.85 * GAIN[arm]) * reached + rng.normal(0, 0.012), 0.01, 0.99))


def _comparisons(scores: dict[Key, float], controls: dict[str, str] | None) -> Iterator[Comparison]:
    pairs = [(arm, "random") for arm in GAIN] if controls is None else [(arm, control) for control, arm in controls.items()]
    for (target, budget), (arm, baseline) in ((place, pair) for place in ((t, b) for t in TARGETS for b in BUDGETS) for pair in pairs):
        ours, theirs = scores[target, budget, arm], scores[target, budget, baseline]
        for task, metric, factor in ((target, "acc", 1.0), (f"{target} answers", "nll", -4.5)):
            mean = ours if metric == "acc" else 4.2 + factor * ours
            none = arm == baseline
            difference, half = (ours - theirs) * factor, 0.035 * abs(factor) * (1.6 if target.startswith("svamp") else 1.0)
            low, high = difference - half, difference + half
            clear = low > 0 or high < 0
            p = float(np.exp(-2.9 * (difference / half) ** 2))
            word = "better" if clear and (difference > 0) == (metric == "acc") else "worse"
            amount = f"{abs(difference) * (100 if metric == 'acc' else 1):.1f}"
            yield Comparison(
                task=task,
                metric=metric,
                budget=budget,
                arm=arm,
                target=None if arm in REFERENCES else target,
                mean=mean,
                standard_error=0.014 * abs(factor),
                seeds=1 if arm == "zero_shot" else 3,
                n=300,
                baseline=baseline,
                verdict="" if none else f"{word} than {baseline} by {amount}" if clear else f"not distinguishable from {baseline}",
                **({} if none else {"difference": difference, "low": low, "high": high, "p": p, "adjusted": min(1.0, 20 * p), "comparisons": 27}),
                **({} if none or metric == "nll" else {"only_ours": 60 + int(300 * max(difference, 0)), "only_theirs": 58, "mcnemar": min(1.0, p)}),
                **({} if none or clear else {"needed_items": int(900 * half / max(abs(difference), 1e-3)), "needed_seeds": 14, "detectable": half * 1.4}),
            )


def _cells(scores: dict[Key, float]) -> Iterator[Cell]:
    for target in TARGETS:
        for budget in BUDGETS:
            for arm in (*ARMS, *CONTROLS, "random"):
                for seed in SEEDS:
                    lost = arm == "policy-mask" and budget == "20%" and seed < 1 and target != "clinc15"
                    tokens = 96 * ROWS[budget] * 8
                    about = {"arm": arm, "budget": budget, "seed": seed, "target": None if arm == "random" else target}
                    if lost:
                        yield Cell(**about, failed="the loss is not finite at step 41 of 480; a smaller learning_rate may help")
                        continue
                    task = TaskScore(task=target, metric="acc", mean=scores[target, budget, arm], standard_error=0.02, n=300)
                    yield Cell(**about, tasks=[task], train_tokens=tokens * 3 // 4, planned_tokens=tokens, steps=ROWS[budget] // 2, stopped_at=40, seconds=22.0)


def _selections(rng: np.random.Generator) -> Iterator[SelectionRow]:
    total = sum(GROUPS.values())
    for target, source in SOURCE.items():
        for budget, rows in ROWS.items():
            for arm in (*ARMS, *CONTROLS, "random"):
                for seed in SEEDS:
                    lean = 1.0 + 60 * max(GAIN[arm], 0) ** 2
                    weight = np.array([size / total * (lean if group == source else 1.0) for group, size in GROUPS.items()])
                    groups = {group: int(n) for group, n in zip(GROUPS, rng.multinomial(rows, weight / weight.sum()), strict=True) if n}
                    gap = CertificateRow(kind="transport", sense="min", objective=0.412, bound=0.409, gap=0.0073) if arm.startswith("optimal") else None
                    yield SelectionRow(
                        arm=arm,
                        target=target,
                        budget=budget,
                        seed=seed,
                        rows=rows,
                        tokens=rows * (31 if lean > 20 else 96),
                        supervised_tokens=rows * 12,
                        groups=groups,
                        certificate=gap,
                        longer={"less-mean": 0.21, "policy-mask": 0.78}.get(arm, 0.5),
                        matched_to=CONTROLS.get(arm, ""),
                        seconds=1.7,
                    )


def _disagreement(budget: str) -> Disagreement:
    said = "likelihood improves but the task metric does not: the answers' form may be all that was learned"
    return Disagreement(target="svamp-operator", budget=budget, arm="less-mean", task="svamp-operator", sentence=said)


def _stages() -> Iterator[Stage]:
    yield Stage(stage="prepare", label="pool", key="examples-5b1c0e", seconds=12.0, cached=True)
    yield Stage(stage="score", label="gradient", key="features-9a77d2", seconds=414.0)
    for number in range(60):
        for stage, seconds in (("select", 1.7), ("train", 21.5), ("evaluate", 8.1)):
            yield Stage(stage=stage, label=f"{ARMS[number % 8]} 5% seed {number % 3}", key=f"{stage}-{number:06x}", seconds=seconds)


def _pictures(rng: np.random.Generator) -> dict[str, Any]:
    places = [(target, budget) for target in TARGETS for budget in BUDGETS]
    centres = {group: rng.normal(0, 1.0, 2) for group in GROUPS}
    return {
        "overlaps": [_overlap(rng, *place) for place in places],
        "stabilities": [
            Stability(target=t, budget=b, arm=arm, seeds=3, always=int(ROWS[b] * share), sometimes=int(ROWS[b] * (1 - share)), jaccard=share, by_chance=0.02)
            for t, b in places
            for arm, share in zip(ARMS, (0.71, 0.62, 0.98, 1.0, 1.0, 0.55, 0.34, 0.12), strict=True)
        ],
        "spreads": [_spread(rng, t, b, what) for t, b in places for what in ("length in tokens", "loss")],
        "trades": [_trade(rng, t, b, arm) for t, b in places for arm in (*ARMS, "random")],
        "maps": [_map(rng, t, b, centres) for t, b in places],
        "curves": [
            Curve(target=t, budget=b, arm="policy-mask", seed=seed, name=name, values=list(map(float, _climb(rng, 240))))
            for t, b in places
            for name in ("reward", "entropy")
            for seed in SEEDS
        ],
        "flows": [_flow(rng, t, b) for t, b in places],
        "shown": [_shown(t, b, arm, number) for t, b in places for arm in ARMS for number in range(4)],
    }


def _overlap(rng: np.random.Generator, target: str, budget: str) -> Overlap:
    raw = rng.uniform(0.02, 0.75, (9, 9)) ** 1.6
    table = np.round((raw + raw.T) / 2, 4)
    np.fill_diagonal(table, 1.0)
    chance = np.full((9, 9), 0.025)
    return Overlap(target=target, budget=budget, arms=[*ARMS, "random"], jaccard=table.tolist(), by_chance=chance.tolist())


def _spread(rng: np.random.Generator, target: str, budget: str, what: str) -> Spread:
    def shares(middle: float) -> list[float]:
        bins = np.histogram(rng.normal(middle, 3.2, 4000).clip(0, 23.9), bins=24, range=(0, 24))[0]
        return [float(share) for share in np.round(bins / bins.sum(), 4)]

    middles = dict(zip((*ARMS, "random"), (8, 5, 9, 10, 9, 11, 12, 18, 12), strict=True))
    edges = [float(edge) for edge in np.linspace(4, 196, 25).round(1)]
    medians = {arm: 8.0 * middle for arm, middle in middles.items()} | {"pool": 96.0}
    return Spread(target=target, budget=budget, what=what, edges=edges, pool=shares(12), arms={arm: shares(m) for arm, m in middles.items()}, medians=medians)


def _trade(rng: np.random.Generator, target: str, budget: str, arm: str) -> Trade:
    step = BUDGETS.index(budget)
    near, wide = 0.45 + 0.4 * max(GAIN[arm], 0) + 0.04 * step, 0.62 - 0.25 * max(GAIN[arm], 0) + 0.07 * step
    return Trade(target=target, budget=budget, arm=arm, feature="hidden", to_target=near + rng.normal(0, 0.01), to_pool=wide + rng.normal(0, 0.01), quality=0.4)


def _map(rng: np.random.Generator, target: str, budget: str, centres: dict[str, Any]) -> Map:
    def near(group: str, count: int, spread: float) -> list[tuple[float, float]]:
        return [(float(x), float(y)) for x, y in np.round(centres[group] + rng.normal(0, spread, (count, 2)), 3)]

    groups = [group for group, size in GROUPS.items() for _ in range(size // 12)]
    pool = [near(group, 1, 0.32)[0] for group in groups]
    source = SOURCE[target]
    arms = {arm: near(source, 40 + int(100 * max(GAIN[arm], 0)), 0.2) + pool[:: 20 if GAIN[arm] < 0.3 else 90] for arm in (*ARMS, "random")}
    return Map(
        target=target,
        budget=budget,
        feature="hidden",
        explained=0.31,
        pool=pool,
        targets=near(source, 60, 0.18),
        arms=arms,
        groups={"pool": groups, "targets": [source] * 60},
    )


def _climb(rng: np.random.Generator, steps: int) -> Any:
    return 0.3 + 0.5 * (1 - np.exp(-np.arange(steps) / 60)) + rng.normal(0, 0.02, steps)


def _flow(rng: np.random.Generator, target: str, budget: str) -> Flow:
    mass = rng.dirichlet(np.full(8 * 5, 0.25)).reshape(8, 5)
    wanted = [f"intent {number}" for number in range(5)]
    return Flow(target=target, budget=budget, arm="optimal-transport-dual", taken=list(GROUPS)[:8], wanted=wanted, mass=mass.tolist())


def _shown(target: str, budget: str, arm: str, number: int) -> Shown:
    taken = number < 2
    return Shown(
        target=target,
        budget=budget,
        arm=arm,
        id=f"{SOURCE[target]}-{number * 731 + len(arm)}",
        taken=taken,
        rank=number + 1 if taken else None,
        group=SOURCE[target] if taken else "alpaca",
        tokens=31 + number,
        text=TEXT * (1 if number % 2 else 4),
        reason="the nearest row left to target row 12 (cosine 0.91)" if taken else "a nearer row serves its best target row (0.83 against 0.91)",
        nearest=["transfer money to my checking account please", "i need to move funds between accounts"],
    )
