"""The experiment that a campaign breaks: generated rows, the tiny model that ships with the package, and scorers that cost little.

Every stage is one command, run in this process. A stage starts from what the stages before it left, so that a trial repeats one stage only.
"""

import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("prepare", "score", "select", "train", "evaluate", "export", "replace")
NAME = "small"


def recipe(seed: int, pool_rows: int) -> dict[str, object]:
    """Three arms and a baseline at one budget, and a warm-up; `seed` draws other rows. Above 256 rows scores come in several shards."""
    return {
        "name": NAME,
        "pool": {"synthetic": "pool", "rows": pool_rows, "seed": seed, "group": "kind"},
        "target": {"rare": {"synthetic": "target", "rows": 4, "seed": seed, "group": "kind"}},
        "model": {"path": str(ROOT / "configs" / "quickstart_model"), "max_length": 32, "lora": {"r": 2, "alpha": 4, "targets": "attention"}},
        "hygiene": {"quarantine_limit": 0.2},  # the limit of tokens sets some rows aside, which must be accounted for too
        "warmup": {"fraction": "10%", "epochs": 2, "learning_rate": 1.0e-3, "batch_size": 16, "lora": {"r": 2, "alpha": 4, "targets": "attention"}},
        "features": {"likeness": {"name": "bm25"}, "surprise": {"name": "loss"}, "error": {"name": "el2n", "at": "every"}},
        "arms": {
            "alike": {"similarity": "likeness", "selector": "round_robin"},
            "hard": {"scores": "surprise", "selector": "top_k"},
            "wrong": {"scores": "error", "selector": "top_k"},
        },
        "budgets": [8],
        "seeds": [seed],
        "baselines": ["random"],
        "train": {"epochs": 2, "learning_rate": 1.0e-3, "batch_size": 4, "checkpoint_every": 2},
        "evaluate": [{"task": "likelihood", "data": {"synthetic": "test", "rows": 4, "seed": seed}}],
    }


def run_stage(stage: str, place: Path, settings: dict[str, object]) -> None:
    """The command of one stage in the folder `place`, which holds store, runs and, at last, the exported data set; `replace` exports another arm over it."""
    from curate.pipelines.check import check
    from curate.pipelines.launch import execute
    from curate.pipelines.publish import publish
    from curate.recipe import Runtime, parse_recipe
    from curate.strict_yaml import load

    if stage in ("export", "replace"):
        arm = "alike" if stage == "export" else "hard"
        publish(place / "runs" / NAME, place / "store", arm, place / "exported", budget=None, seed=None, overwrite=True)
    else:
        runtime = Runtime(store=place / "store", runs=place / "runs", workers=1)
        typed = parse_recipe(load(yaml.safe_dump(settings), "campaign"))
        execute(typed, runtime, place, until="" if stage == "evaluate" else stage, command="curate run small.yaml", quiet=True)
    check(place / "runs" / NAME, place / "store")  # every row is in exactly one place, by its id


def write_recipe(place: Path, settings: dict[str, object]) -> None:
    """The recipe's file, for commands that are typed."""
    (place / f"{NAME}.yaml").write_text(yaml.safe_dump(settings))


def arguments_of(stage: str, place: Path) -> list[str]:
    """What follows `curate` where the command of a stage is typed."""
    where = ["--store", str(place / "store"), "--runs", str(place / "runs")]
    if stage in ("export", "replace"):
        return ["export", NAME, "alike" if stage == "export" else "hard", str(place / "exported"), "--overwrite", *where]
    until = [] if stage == "evaluate" else ["--until", stage]
    return ["run", str(place / f"{NAME}.yaml"), *until, "--workers", "1", "--device", "cpu", "--quiet", *where]


def type_stage(stage: str, place: Path) -> None:
    """The command of a stage as a user types it, in this process: it prints what a user sees, and ends with SystemExit."""
    from curate.__main__ import main

    sys.argv = ["curate", *arguments_of(stage, place)]
    main()
